"""`Workspace`: in labrun, the folder that holds `outputs/`."""

from __future__ import annotations

import os
from typing import Any

from labrun.compat.azureml import absent, arguments, finder
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import NoSuchMemberError
from labrun.compat.azureml.training import script_context


class Workspace:
    """The only workspace. Its Azure ids are kept as text but not used.

    Args:
        subscription_id: kept, not used.
        resource_group: kept, not used.
        workspace_name: the value of `name`; None: the folder's name.
        auth: not used.
        sku: not used.
        tags: not used.
        **private: the SDK's private arguments; not used.

    Raises:
        TypeError: there is no such argument.
    """

    def __init__(
        self,
        subscription_id: Any = None,
        resource_group: Any = None,
        workspace_name: Any = None,
        auth: Any = None,
        _location: Any = None,
        sku: Any = None,
        tags: Any = None,
        **private: Any,
    ) -> None:
        arguments.check(Workspace.__init__, private)
        self.name = workspace_name or script_context.workspace().name
        self.subscription_id = subscription_id or ""
        self.resource_group = resource_group or ""
        self.location = _location or "local"

    def __repr__(self) -> str:
        return f"Workspace(Name: {self.name}, Folder: {script_context.workspace()})"

    @classmethod
    def from_config(cls, path: Any = None, auth: Any = None, _logger: Any = None, _file_name: Any = None) -> Workspace:
        """Return the workspace, without reading a `config.json`."""
        return cls()

    @classmethod
    def get(
        cls,
        name: Any = None,
        auth: Any = None,
        subscription_id: Any = None,
        resource_group: Any = None,
        location: Any = None,
        cloud: Any = None,
        id: Any = None,
        **unknown: Any,
    ) -> Workspace:
        """Return the workspace, with the given name and ids.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Workspace.get, unknown)
        return cls(subscription_id, resource_group, name, _location=location)

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise: any folder is already a workspace."""
        not_here("Workspace.create()", "any folder is a workspace: run `labrun` in it (or set LABRUN_ROOT)")

    def get_default_datastore(self) -> Any:
        """Return the run's datastore; without labrun installed, only an object with its name."""
        whole = finder.whole()
        if whole is not None:
            return whole.find("azureml.core", "Datastore").get_default(None)
        from labrun.compat.azureml.training.datastore import Datastore

        return Datastore()

    @property
    def datasets(self) -> Any:
        """All data sets by name; without labrun installed, only the inputs mounted by the run's config."""
        whole = finder.whole()
        if whole is not None:
            return whole.find("azureml.core", "Dataset").get_all(None)
        from labrun.compat.azureml.training.data import Inputs

        return Inputs()

    def get_mlflow_tracking_uri(self, _with_auth: bool = False) -> Any:
        """Return MLflow's tracking URI; inside a run, it is already set in the environment."""
        return os.environ.get("MLFLOW_TRACKING_URI") or self.__getattr__("get_mlflow_tracking_uri")()

    def get_details(self) -> dict[str, str]:
        """Return the workspace's name, location and folder."""
        return {"name": self.name, "location": self.location, "id": str(script_context.workspace())}

    def __getattr__(self, name: str) -> Any:
        """Return a member for control scripts, such as `compute_targets`, if labrun is installed."""
        whole = None if name.startswith("_") else finder.whole()
        if whole is not None:
            return getattr(whole.find("azureml.core", "Workspace")(), name)
        if name.startswith("_"):
            raise AttributeError(name)
        raise NoSuchMemberError(
            f"Workspace.{name} is part of Azure ML and not of labrun in an interpreter without labrun: {absent.GENERAL}"
        )

    def get_default_keyvault(self) -> Any:
        """Return the key vault, whose secrets are environment variables."""
        from labrun.compat.azureml.training.keyvault import Keyvault

        return Keyvault()

    @property
    def models(self) -> Any:
        """The newest version of each registered model, by name."""
        from labrun.compat.azureml.training.model import Model

        return {one.name: one for one in Model.list(self, latest=True)}
