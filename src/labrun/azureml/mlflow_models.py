"""MLflow's model registry for a control program: `mlflow.register_model` adds versions to labrun's registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from labrun.compat.azureml.training import pending_models
from labrun.errors import LabrunError
from labrun.registry import models
from labrun.registry.models import About
from labrun.runs import context, model_journal
from labrun.runs.model_journal import Version
from labrun.tasks.script.mlflow_endpoint import Answer, RefusedCallError, UnknownCallError

REGISTRY = ("registered-models/", "model-versions/")
"""Prefixes of the API calls about registered models."""


class Registry:
    """Answers MLflow's API calls about registered models.

    Args:
        workspace: the folder of the runs.
        place_of: maps the id of a model logged by MLflow 3 to the URI of its files.
        is_open: returns whether the run in a folder is still active in this program.
    """

    def __init__(self, workspace: Path, place_of: Callable[[str], str], is_open: Callable[[Path], bool]) -> None:
        self._workspace, self._place_of, self._is_open = workspace, place_of, is_open
        self._empty: set[str] = set()
        """Models that were created but have no version yet."""
        self._promised: dict[tuple[str, str], Answer] = {}

    def handle(self, call: str, content: Answer) -> Answer:
        """Answer one API call.

        Raises:
            UnknownCallError: labrun does not support the call.
            RefusedCallError: the call fails; the message says why.
        """
        try:
            if call.startswith("model-versions/"):
                return self._of_version(call.partition("/")[2], content)
            return self._of_model(call.partition("/")[2], content)
        except LabrunError as error:
            raise RefusedCallError("INVALID_PARAMETER_VALUE", str(error)) from error

    def _of_model(self, verb: str, content: Answer) -> Answer:
        all_versions = model_journal.read(self._workspace).versions
        known = {name for name, versions in all_versions.items() if versions} | self._empty
        if verb == "search":
            return {"registered_models": [self._model(name) for name in sorted(known)]}
        name = str(content["name"])
        if verb == "create":
            model_journal.check_name(name)
            if name in known:
                raise RefusedCallError("RESOURCE_ALREADY_EXISTS", f"the model {name!r} already exists")
            self._empty.add(name)
            return {"registered_model": self._model(name)}
        if name not in known:
            raise RefusedCallError("RESOURCE_DOES_NOT_EXIST", f"there is no model {name!r}")
        if verb == "get":
            return {"registered_model": self._model(name)}
        if verb == "get-latest-versions":
            return {"model_versions": self._model(name)["latest_versions"]}
        if verb == "alias" and "version" in content:
            models.alias(self._workspace, f"{name}/{content['version']}", str(content["alias"]))
            return {}
        if verb == "alias":
            return {"model_version": self._shown(model_journal.find(self._workspace, f"{name}@{content['alias']}"))}
        raise UnknownCallError

    def _of_version(self, verb: str, content: Answer) -> Answer:
        if verb == "create":
            return {"model_version": self._create(content)}
        if verb == "search":
            return {"model_versions": self._searched(str(content.get("filter") or ""))}
        name, number = str(content["name"]), str(content["version"])
        if verb == "get" and (name, number) in self._promised:
            return {"model_version": self._promised[name, number]}
        version = model_journal.find(self._workspace, f"{name}/{number}")
        if verb == "get":
            return {"model_version": self._shown(version)}
        if verb == "get-download-uri":
            return {"artifact_uri": self._folder(version).as_uri()}
        if verb == "set-tag":
            tag = {str(content["key"]): str(content["value"])}
            models.describe(
                self._workspace,
                version.title,
                lambda about: About({**about.tags, **tag}, about.properties, about.description),
            )
            return {}
        raise UnknownCallError

    def _create(self, content: Answer) -> Answer:
        name, source = str(content["name"]), str(content["source"])
        if source.startswith("models:/"):
            source = self._place_of(source.removeprefix("models:/"))
        path = Path(unquote(urlsplit(source).path))
        tags = {str(tag["key"]): str(tag.get("value") or "") for tag in content.get("tags") or []}
        about = About(tags, {}, str(content.get("description") or ""))
        run_dir = next((folder for folder in (path, *path.parents) if (folder / "run.json").is_file()), None)
        if run_dir is None:
            version = models.register_local(self._workspace, path, name, about)
        elif self._is_open(run_dir):
            entry = {"tags": tags, "properties": {}, "description": about.description}
            number, _ = pending_models.add(context.RunContext(run_dir), name, path, entry, local=False)
            answer = {**_facts(name, number), "source": path.as_uri(), "run_id": content.get("run_id"), "tags": []}
            self._promised[name, str(number)] = answer
            return answer
        else:
            version, _ = models.register(self._workspace, run_dir, name, str(path), about=about, exclude=None)
        self._empty.discard(name)
        return {**self._shown(version), **({"run_id": content["run_id"]} if content.get("run_id") else {})}

    def _searched(self, text: str) -> list[Answer]:
        wanted = re.fullmatch(r"\s*(name|run_id)\s*=\s*['\"]([^'\"]*)['\"]\s*", text)
        if text and wanted is None:
            raise RefusedCallError(
                "INVALID_PARAMETER_VALUE", f"{text!r}: labrun finds versions only by name='NAME' or run_id='ID'"
            )
        key, value = ("", "") if wanted is None else wanted.groups()
        every = [one for versions in model_journal.read(self._workspace).versions.values() for one in versions.values()]
        found = [one for one in every if not key or value == (one.name if key == "name" else one.run)]
        return [self._shown(one) for one in sorted(found, key=lambda one: (one.name, -one.number))]

    def _model(self, name: str) -> Answer:
        versions = model_journal.read(self._workspace).versions.get(name) or {}
        latest = [self._shown(versions[max(versions)])] if versions else []
        return {"name": name, "creation_timestamp": 0, "last_updated_timestamp": 0, "latest_versions": latest}

    def _shown(self, version: Version) -> Answer:
        moment = int(datetime.fromisoformat(version.time).timestamp() * 1000)
        return {
            **_facts(version.name, version.number),
            "creation_timestamp": moment,
            "last_updated_timestamp": moment,
            "source": self._folder(version).as_uri(),
            "run_id": version.run,
            "description": version.description,
            "tags": [{"key": key, "value": value} for key, value in version.tags.items()],
        }

    def _folder(self, version: Version) -> Path:
        """Return the model's folder for MLflow: the registered content if it is an MLflow model, else the version's."""
        content = model_journal.content(self._workspace, version) / Path(version.file).name
        is_mlflows = (content / "MLmodel").is_file()
        return content if is_mlflows else model_journal.folder(self._workspace, version.name, version.number)


def _facts(name: str, number: int) -> Answer:
    return {"name": name, "version": str(number), "current_stage": "None", "status": "READY"}
