"""Registered models, as far as a script reads them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.exceptions import ModelNotFoundException
from labrun.compat.azureml.training import place

SHELF = ("outputs", ".labrun", "models")
"""Below the workspace: `<name>/<version>/` with the files of a registered model."""


class Model:
    """A registered model.

    Args:
        workspace: whatever the script gives; there is one workspace.
        name: the model's name; `name:version` too.
        id: the same as `name:version`.
        version: None: the newest.
        **kwargs: whatever else the SDK's constructor takes; not used.

    Raises:
        ModelNotFoundException: no such model.
    """

    def __init__(
        self, workspace: Any = None, name: str | None = None, id: str | None = None, version: Any = None, **kwargs: Any
    ) -> None:
        folder = _find(name or id or "", version)
        self.name, self.version, self.id = folder.parent.name, int(folder.name), f"{folder.parent.name}:{folder.name}"
        self._folder = folder

    def __repr__(self) -> str:
        return f"Model(name={self.name}, version={self.version})"

    @staticmethod
    def get_model_path(model_name: str, version: Any = None, _workspace: Any = None) -> str:
        """The path of a registered model: its file, or its folder where it has several.

        Args:
            model_name: its name; `name:version` too.
            version: None: the newest.
            _workspace: not used.

        Raises:
            ModelNotFoundException: no such model.
        """
        return str(_content(_find(model_name, version)))

    def download(self, target_dir: str = ".", exist_ok: bool = False, **kwargs: Any) -> str:
        """Copy the model's file or folder; returns the copy's path.

        Raises:
            ModelNotFoundException: something of this name is there, and `exist_ok` is not given.
        """
        content = _content(self._folder)
        target = Path(target_dir) / (content.name if content.is_file() else self.name)
        if target.exists() and not exist_ok:
            raise ModelNotFoundException(f"Model.download: {target} exists already; exist_ok=True replaces it")
        target.parent.mkdir(parents=True, exist_ok=True)
        if content.is_file():
            shutil.copyfile(str(content), str(target))
        else:
            if target.exists():
                shutil.rmtree(str(target))
            shutil.copytree(str(content), str(target))
        return str(target)

    @staticmethod
    def register(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: models are registered from finished runs."""
        absent.models_way("Model.register()")

    @staticmethod
    def deploy(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: there are no web services."""
        absent.not_here("Model.deploy()", absent.INSTEAD["Webservice"])

    @staticmethod
    def list(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: the registry is `lab`'s."""
        absent.not_here("Model.list()", "`lab models ls`")


def _find(name: str, version: Any) -> Path:
    """The folder of a model's version."""
    shelf = place.workspace().joinpath(*SHELF)
    if version is None and ":" in name:
        name, version = name.rsplit(":", 1)
    names = sorted(path.name for path in shelf.iterdir() if path.is_dir()) if shelf.is_dir() else []
    if name not in names:
        raise ModelNotFoundException(
            f"no model {name!r} is registered in {shelf} (there is: {', '.join(names) or 'none'}). "
            "`lab models register` puts a finished run's model there"
        )
    versions = sorted(int(path.name) for path in (shelf / name).iterdir() if path.name.isdigit() and path.is_dir())
    if not versions or (version is not None and str(version) not in map(str, versions)):
        there = ", ".join(map(str, versions)) or "none"
        raise ModelNotFoundException(f"the model {name!r} has no version {version or ''}; there is: {there}")
    return shelf / name / str(versions[-1] if version is None else version)


def _content(folder: Path) -> Path:
    """The one file of a version, or its folder: what was registered lies in it below what MLflow needs."""
    own = folder / "data" / "model"
    folder = own if own.is_dir() else folder
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    # The card that labrun writes beside a model tells of it and is no part of it.
    models = [path for path in files if os.path.basename(str(path)) != "model.json"]
    return models[0] if len(models) == 1 else folder
