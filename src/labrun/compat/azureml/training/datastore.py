"""`Datastore`: a name that a script can hold; its data reach the script only through mounts."""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml import absent


class Datastore:
    """A datastore's name.

    Args:
        workspace: not used: there is only one workspace.
        name: the datastore's name in the config.
    """

    def __init__(self, workspace: Any = None, name: str = "default") -> None:
        self.name = name

    @classmethod
    def get(cls, workspace: Any, datastore_name: str) -> Datastore:
        """Return a datastore by name, without looking it up."""
        return cls(workspace, datastore_name)

    @classmethod
    def get_default(cls, workspace: Any) -> Datastore:
        """Return the run's datastore."""
        return cls(workspace)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"'Datastore' object has no attribute {name!r}")
        absent.datastore_way(f"Datastore.{name}")
