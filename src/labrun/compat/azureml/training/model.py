"""`Model`: registered models, as seen by a script."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from labrun.compat.azureml import absent, arguments
from labrun.compat.azureml.exceptions import ModelNotFoundException, UserErrorException, WebserviceException
from labrun.compat.azureml.notice import notify_once
from labrun.compat.azureml.training import pending_models, registered, script_context
from labrun.runs import context, sdk_ids

CARD = "model.json"
"""The file that labrun writes next to a model; it names the registered file or folder."""

MODELS_FOLDER = context.STATE / "models"
"""The folder of registered models in the workspace, with the files in `<name>/<version>/`: `Workspace.models`, whose
module a script's own interpreter may be too old to import."""


class _Framework:
    """The constants of `Model.Framework`."""

    CUSTOM = "Custom"
    MULTI = "Multi"
    ONNX = "Onnx"
    SCIKITLEARN = "ScikitLearn"
    TENSORFLOW = "TensorFlow"
    TFKERAS = "TfKeras"
    PYTORCH = "PyTorch"


class Model:
    """A registered model.

    Args:
        workspace: not used: there is only one workspace.
        name: the model's name, or `name:version`.
        id: `name:version`.
        tags: only a version with this tag or these tags, such as `[["key", "value"], "name"]`.
        properties: only a version with these properties.
        version: the version; None: the newest match.
        run_id: only a version from this run.
        model_framework: only a version of this framework.
        expand: not used.
        **unknown: refused.

    Raises:
        ModelNotFoundException: there is no such model.
        WebserviceException: neither a name nor an id is given.
        TypeError: there is no such argument.
    """

    Framework = _Framework

    def __init__(
        self,
        workspace: Any = None,
        name: str | None = None,
        id: str | None = None,
        tags: Any = None,
        properties: Any = None,
        version: Any = None,
        run_id: str | None = None,
        model_framework: str | None = None,
        expand: bool = True,
        **unknown: Any,
    ) -> None:
        arguments.check(Model.__init__, unknown)
        if not name and not id:
            raise WebserviceException(
                "Model: give a name or an id: Model(workspace, 'NAME'), Model(workspace, id='NAME:1')"
            )
        wanted = {"tags": tags, "properties": properties, "run_id": run_id, "framework": model_framework}
        if version is None and name and ":" not in name and any(wanted.values()):
            found = [one for one in registered.versions() if one.get("name") == name and _fits(one, **wanted)]
            if not found:
                given = ", ".join(f"{key}={value!r}" for key, value in wanted.items() if value)
                raise ModelNotFoundException(
                    f"ModelNotFound: no version of a model {name!r} has {given}: `lab models ls {name}`"
                )
            version = max(one["number"] for one in found)
        folder = _find(name or id or "", version)
        self.workspace = workspace
        self._folder = folder
        self._set_attributes(folder.parent.name, int(folder.name), registered.of(folder.parent.name, int(folder.name)))

    def _set_attributes(self, name: str, version: int, entry: dict[str, Any]) -> None:
        """Set the attributes from a version's journal entry."""
        self.name, self.version, self.id = name, version, f"{name}:{version}"
        own = dict(entry.get("properties") or {})
        self.model_framework = own.pop(registered.FRAMEWORK, "Custom")
        self.model_framework_version = own.pop(registered.FRAMEWORK_VERSION, None)
        self.tags, self.properties = dict(entry.get("tags") or {}), own
        self.description = entry.get("description") or None
        self.run_id: str | None = entry.get("run") or None
        self.experiment_name = entry.get("experiment") or None
        self.created_time = _time(entry.get("time"))
        self.created_by = None
        self.resource_configuration = None
        self.url = f"aml-model:{name}:{version}"

    def __repr__(self) -> str:
        return (
            f"Model(workspace={self.workspace!r}, name={self.name}, id={self.id}, version={self.version}, "
            f"tags={self.tags}, properties={self.properties})"
        )

    def serialize(self) -> dict[str, Any]:
        """Return the model as a dictionary."""
        return {
            "createdTime": str(self.created_time) if self.created_time else None,
            "createdBy": None,
            "description": self.description,
            "experimentName": self.experiment_name,
            "framework": self.model_framework,
            "frameworkVersion": self.model_framework_version,
            "id": self.id,
            "name": self.name,
            "properties": self.properties,
            "runId": self.run_id,
            "tags": self.tags,
            "url": self.url,
            "version": self.version,
        }

    @staticmethod
    def get_model_path(model_name: str, version: Any = None, _workspace: Any = None) -> str:
        """Return the path of a registered model: its file, or its folder if it has several files.

        Args:
            model_name: the model's name, or `name:version`.
            version: the version; None: the newest.
            _workspace: not used.

        Raises:
            ModelNotFoundException: there is no such model.
        """
        return str(_content(_find(model_name, version)))

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: bool | None = None) -> str:
        """Copy the model's file or folder and return the copy's path. `exists_ok` is the former name of `exist_ok`.

        Raises:
            WebserviceException: the target exists and `exist_ok` is False.
        """
        return _copied(_content(self._folder), self.name, target_dir, bool(exist_ok or exists_ok))

    @staticmethod
    def register(
        workspace: Any = None,
        model_path: Any = None,
        model_name: str | None = None,
        tags: Any = None,
        properties: Any = None,
        description: str | None = None,
        datasets: Any = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        child_paths: Any = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
    ) -> Any:
        """Register a file or folder of the working folder when this script's run completes.

        Args:
            workspace: not used: there is only one workspace.
            model_path: the file or folder.
            model_name: the model's name.
            tags: the version's tags.
            properties: the version's properties.
            description: the version's description.
            datasets: not kept: the run's record lists the data that it read.
            model_framework: kept.
            model_framework_version: kept.
            child_paths: not used; a notice says that the whole folder is registered.
            sample_input_dataset: not kept.
            sample_output_dataset: not kept.
            resource_configuration: not kept.

        Raises:
            UserErrorException: there is no such file, or the script does not belong to a run.
        """
        registered.tell_not_kept(
            "Model.register", datasets, sample_input_dataset, sample_output_dataset, resource_configuration
        )
        tell_child_paths(child_paths)
        run = context.current()
        if not model_name or model_path is None:
            raise UserErrorException("Model.register: give model_path= and model_name=")
        if run is None:
            raise UserErrorException(
                "Model.register: a script without a run registers nothing. Run it: "
                "labrun experiment=script script.azureml=true script.path=SCRIPT.py"
            )
        about = registered.about(tags, properties, description, model_framework, model_framework_version)
        return promised(run, model_name, model_path, about, local=True)

    @staticmethod
    def deploy(*args: Any, **kwargs: Any) -> Any:
        """Raise: labrun has no web services."""
        absent.not_here("Model.deploy()", absent.INSTEAD["Webservice"])

    @staticmethod
    def list(
        workspace: Any = None,
        name: str | None = None,
        tags: Any = None,
        properties: Any = None,
        run_id: str | None = None,
        latest: bool = False,
        dataset_id: Any = None,
        expand: bool = True,
        page_count: int = 255,
        model_framework: str | None = None,
    ) -> Any:
        """Return the registered versions, newest first.

        Args:
            workspace: not used: there is only one workspace.
            name: only versions of this model.
            tags: only versions with this tag or these tags.
            properties: only versions with these properties.
            run_id: only versions from this run.
            latest: only the newest version of each model.
            dataset_id: not supported.
            expand: not used.
            page_count: not used.
            model_framework: only versions with this framework.

        Raises:
            NotInLabrun: `dataset_id` is given.
        """
        check_no_data_filter(dataset_id)
        return [
            Model(workspace, one["name"], version=one["number"])
            for one in listed(name, latest, tags, properties, run_id, model_framework)
        ]


class PendingModel(Model):
    """A model that is registered when the run of the script completes."""

    def __init__(self, name: str, version: int, path: Path, about: dict[str, Any], run_id: str) -> None:
        self.workspace, self._path = None, path
        self._set_attributes(name, version, {**about, "run": run_id})

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: bool | None = None) -> str:
        """Copy the original file or folder, because the model is not registered yet; see `Model.download`.

        Raises:
            WebserviceException: the target exists and `exist_ok` is False.
        """
        return _copied(self._path, self.name, target_dir, bool(exist_ok or exists_ok))


def promised(run: Any, name: str, path: Any, about: dict[str, Any], local: bool) -> PendingModel:
    """Note a model to be registered when the script's run completes; see `pending_models.add`."""
    number, found = pending_models.add(run, name, path, about, local)
    record = script_context.record(run.run_dir)
    shown = sdk_ids.of_run(str(record.get("id", "")), record.get("sweep"), record.get("config") or {})
    return PendingModel(name, number, found, about, shown)


def tell_child_paths(child_paths: Any) -> None:
    """Print a notice, once, that parts of a model's folder cannot be selected."""
    if child_paths:
        notify_once("Model.register: not kept: child_paths: all of model_path is registered")


def _copied(content: Path, name: str, target_dir: Any, exist_ok: bool) -> str:
    """Copy a model's file or folder into a folder and return the copy's path."""
    target = Path(target_dir) / (content.name if content.is_file() else name)
    if content.is_file() and target.exists() and target.samefile(content):
        return str(target)
    if target.exists() and not exist_ok:
        raise WebserviceException(f"Model.download: {target} exists already; exist_ok=True replaces its files")
    target.parent.mkdir(parents=True, exist_ok=True)
    if content.is_file():
        shutil.copyfile(str(content), str(target))
    else:
        # Copy file by file: an existing folder of this name may hold the user's own files too.
        for path in [path for path in content.rglob("*") if path.is_file()]:
            copy = target / path.relative_to(content)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(path), str(copy))
    return str(target)


def check_no_data_filter(dataset_id: Any) -> None:
    """Raise if models are to be listed by data set.

    Raises:
        NotInLabrun: they are.
    """
    if dataset_id is not None:
        absent.not_here("Model.list(dataset_id=...)", "the run's record lists the data: `lab runs show RUN`")


def listed(name: Any, latest: bool, tags: Any, properties: Any, run_id: Any, framework: Any = None) -> Any:
    """Return the journal entries of the matching versions, newest first."""
    found = [
        one
        for one in registered.versions()
        if name in (None, one.get("name")) and _fits(one, tags, properties, run_id, framework)
    ]
    if latest:
        found = list({one["name"]: one for one in sorted(found, key=lambda one: one["number"])}.values())
    return sorted(found, key=lambda one: str(one.get("time")), reverse=True)


def _fits(
    entry: dict[str, Any], tags: Any = None, properties: Any = None, run_id: Any = None, framework: Any = None
) -> bool:
    own = entry.get("properties") or {}
    return (
        registered.fits(entry.get("tags"), tags)
        and registered.fits(own, properties)
        and run_id in (None, entry.get("run"))
        and framework in (None, own.get(registered.FRAMEWORK))
    )


def _time(text: Any) -> Any:
    """Parse a registration time, in UTC; None if it is missing or malformed."""
    try:
        return datetime.strptime(str(text)[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)  # noqa: UP017 - datetime.UTC needs Python 3.11
    except ValueError:
        return None


def _find(name: str, version: Any) -> Path:
    """Return the folder of a model version.

    Raises:
        ModelNotFoundException: there is no such model or version.
    """
    folder = script_context.workspace() / MODELS_FOLDER
    if version is None and ":" in name:
        name, version = name.rsplit(":", 1)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if name not in names:
        raise ModelNotFoundException(
            f"ModelNotFound: no model {name!r} is registered in {folder} (registered: {', '.join(names) or 'none'}). "
            "Register models with `lab models register` or Model.register"
        )
    versions = sorted(int(path.name) for path in (folder / name).iterdir() if path.name.isdigit() and path.is_dir())
    if not versions or (version is not None and str(version) not in map(str, versions)):
        there = ", ".join(map(str, versions)) or "none"
        raise ModelNotFoundException(
            f"ModelNotFound: the model {name!r} has no version {version or ''}; it has: {there}"
        )
    return folder / name / str(versions[-1] if version is None else version)


def _content(folder: Path) -> Path:
    """Return a version's registered file or folder, which is stored below the files that MLflow needs."""
    own = folder / "data" / "model"
    folder = own if own.is_dir() else folder
    try:
        return folder / str(json.loads((folder / CARD).read_text(encoding="utf-8"))["file"])
    except (OSError, ValueError, KeyError, TypeError):
        # The folder has no card, or the card does not name a file.
        every = (path for path in folder.rglob("*") if path.is_file() and path.name != CARD)
        files = [path for path in every if not path.name.startswith(".")]
        return files[0] if len(files) == 1 else folder
