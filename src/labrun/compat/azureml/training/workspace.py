"""The workspace of the SDK: in labrun, the folder that holds `outputs/`."""

from __future__ import annotations

import os
from typing import Any

from labrun.compat.azureml import absent, finder
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import NoSuchMemberError
from labrun.compat.azureml.training import place


class Workspace:
    """The one workspace; the arguments that name one in Azure are accepted and not used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.name = place.workspace().name
        self.subscription_id = ""
        self.resource_group = ""
        self.location = "local"

    def __repr__(self) -> str:
        return f"Workspace(Name: {self.name}, Folder: {place.workspace()})"

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> Workspace:
        """The workspace; no `config.json` is read."""
        return cls()

    @classmethod
    def get(cls, *args: Any, **kwargs: Any) -> Workspace:
        """The workspace, whatever name is given."""
        return cls()

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a folder needs no creation."""
        not_here("Workspace.create()", "any folder is a workspace: go there and run `labrun` (or set LABRUN_ROOT)")

    def get_default_datastore(self) -> Any:
        """The run's datastore; by name alone where labrun is not installed."""
        whole = finder.whole()
        if whole is not None:
            return whole.find("azureml.core", "Datastore").get_default(None)
        from labrun.compat.azureml.training.datastore import Datastore

        return Datastore()

    @property
    def datasets(self) -> Any:
        """The inputs that the run's config mounted, by their names; where labrun is installed, all that there is."""
        whole = finder.whole()
        if whole is not None:
            return whole.find("azureml.core", "Dataset").get_all(None)
        from labrun.compat.azureml.training.data import Inputs

        return Inputs()

    def get_mlflow_tracking_uri(self, *args: Any, **kwargs: Any) -> Any:
        """Where MLflow logs to: inside of a run, the address that it has without being told any."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.__getattr__("get_mlflow_tracking_uri")()

    def get_details(self) -> dict[str, str]:
        """Name and place."""
        return {"name": self.name, "location": self.location, "id": str(place.workspace())}

    def __getattr__(self, name: str) -> Any:
        """What control scripts ask a workspace for, where labrun is installed: `compute_targets`, `experiments`, ..."""
        whole = None if name.startswith("_") else finder.whole()
        if whole is not None:
            return getattr(whole.find("azureml.core", "Workspace")(), name)
        if name.startswith("_"):
            raise AttributeError(name)
        raise NoSuchMemberError(
            f"Workspace.{name} is part of Azure ML and not of labrun in an interpreter without labrun: {absent.GENERAL}"
        )

    def get_default_keyvault(self) -> Any:
        """Secrets: variables of the environment."""
        from labrun.compat.azureml.training.keyvault import Keyvault

        return Keyvault()

    @property
    def models(self) -> Any:
        """The newest version of each registered model, by name."""
        from labrun.compat.azureml.training.model import Model

        return {one.name: one for one in Model.list(self, latest=True)}
