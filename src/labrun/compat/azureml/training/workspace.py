"""The workspace of the SDK: in labrun, the folder that holds `outputs/`."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml import absent, finder
from labrun.compat.azureml.absent import not_here
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

    def get_details(self) -> dict[str, str]:
        """Name and place."""
        return {"name": self.name, "location": self.location, "id": str(place.workspace())}

    def get_default_keyvault(self) -> Any:
        """Not in labrun: secrets come from the environment."""
        not_here("Workspace.get_default_keyvault()", absent.INSTEAD["Keyvault"])

    @property
    def compute_targets(self) -> Any:
        """Not in labrun: the command line chooses the machine."""
        not_here("Workspace.compute_targets", absent.INSTEAD["ComputeTarget"])

    @property
    def environments(self) -> Any:
        """Not in labrun: environments are interpreters."""
        not_here("Workspace.environments", absent.INSTEAD["Environment"])

    @property
    def models(self) -> Any:
        """The newest version of each registered model, by name."""
        from labrun.compat.azureml.training.model import Model

        return {one.name: one for one in Model.list(self, latest=True)}
