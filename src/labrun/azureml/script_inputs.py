"""The data of a script: data in its arguments, and inputs that it finds by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrun.azureml.data_reference import PREFIX
from labrun.azureml.overrides import Reference, override
from labrun.compat.azureml.exceptions import UserErrorException


class ScriptInputs:
    """The inputs of one run.

    Args:
        references: data by name, from `data_references` and `data` of a `RunConfiguration`.
    """

    def __init__(self, references: Mapping[str, Any]) -> None:
        self._references = {str(name): item for name, item in references.items() if hasattr(item, "labrun_mount")}
        self._mounts: dict[str, str] = {}
        self._tables: dict[str, Any] = {}
        self._named: dict[str, tuple[str, Any]] = {}

    def argument(self, value: Any) -> Any:
        """Return an argument for the script. Data become a path, and an input as well if they have an input name."""
        if hasattr(value, "labrun_mount"):
            return Reference(self._add(getattr(value, "labrun_alias", None), value))
        text = str(value)
        name, slash, below = text.removeprefix(PREFIX).partition("/")
        if text.startswith(PREFIX) and name in self._references:
            return Reference(f"{self._add(name, self._references[name])}{slash}{below}")
        return text

    def add(self, name: str, item: Any) -> None:
        """Add data that are not among the arguments."""
        if hasattr(item, "labrun_mount"):
            self._add(name, item)

    def overrides(self) -> list[str]:
        """Return the arguments for the `labrun` command."""
        for name, item in self._references.items():
            if name not in self._mounts:
                self._add(name, item)
        mounts = {name: Reference(mount) for name, mount in self._mounts.items()}
        found = [override("script.inputs", mounts)] if mounts else []
        return found + ([override("script.tables", self._tables)] if self._tables else [])

    def _add(self, name: str | None, item: Any) -> str:
        mount: str = item.labrun_mount()
        if not name:
            return mount
        table = getattr(item, "labrun_table", None) or None
        if name in self._named and self._named[name] != (mount, table):
            raise UserErrorException(
                f"two inputs of the script are called {name!r}: give each a different name with "
                "data.as_named_input('NAME')"
            )
        self._named[name] = (mount, table)
        # Also add the registered name, so that `Dataset.get_by_name` finds the data in any interpreter.
        registered_name = getattr(item, "labrun_name", None)
        for one in (name, *([registered_name] if registered_name and registered_name not in self._mounts else [])):
            self._mounts[one] = mount
            self._tables.pop(one, None)
            if table is not None:
                self._tables[one] = table
        return mount
