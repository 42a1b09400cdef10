"""`Dataset`: how data sets are made and found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from labrun._io import append_line
from labrun.azureml import data_sets, dataset_table
from labrun.azureml.data_sets import FileDataset, TabularDataset
from labrun.azureml.dataset_factories import FileDatasetFactory, TabularDatasetFactory
from labrun.azureml.dataset_table import Version
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import place, tables
from labrun.compat.azureml.training.data import Inputs
from labrun.compat.azureml.training.dataset import input_by_id
from labrun.compat.azureml.training.tabular import Missing
from labrun.data.stores.local import LocalDatastore
from labrun.runs import context


class Dataset(metaclass=Missing):
    """The SDK's entry to data."""

    File = FileDatasetFactory
    Tabular = TabularDatasetFactory
    from_delimited_files = TabularDatasetFactory.from_delimited_files
    from_parquet_files = TabularDatasetFactory.from_parquet_files

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        not_here("Dataset(...)", "Dataset.File.from_files(), Dataset.Tabular.from_...(), Dataset.get_by_name()")

    @classmethod
    def get_by_name(cls, workspace: Any, name: str, version: Any = "latest") -> Any:
        """A registered data set; inside of a run, an input of that name comes first.

        Raises:
            UserErrorException: there is none like it.
        """
        if name in _inputs() and version in (None, "latest"):
            pinned = _pinned(_workspace(workspace), name)
            return Inputs()[name] if pinned is None else data_sets.of(pinned)
        return _read(dataset_table.get(_workspace(workspace), name, version))

    @classmethod
    def get_by_id(cls, workspace: Any, id: str, **kwargs: Any) -> Any:
        """A data set by its `id`; inside of a run also by an argument's path, since labrun passes that as argument.

        Raises:
            UserErrorException: there is none like it.
        """
        if context.current() is not None and (found := input_by_id(id)) is not None:
            return found
        name, _, version = str(id).rpartition(":")
        if not name or not version.isdecimal():
            raise UserErrorException(f"{id!r} is not an id of a data set: those of labrun are NAME:VERSION")
        return _read(dataset_table.get(_workspace(workspace), name, version))

    @classmethod
    def get_all(cls, workspace: Any) -> Mapping[str, Any]:
        """All registered data sets by name."""
        return Registered(_workspace(workspace))

    get = get_by_name


class Registered(Mapping[str, Any]):
    """All registered data sets by name, the newest version of each; inside of a run, its inputs first.

    Args:
        workspace: the workspace.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def __getitem__(self, name: str) -> Any:
        if name in _inputs():
            return Dataset.get_by_name(self._workspace, name)
        found = dataset_table.versions(self._workspace, name)
        if not found:
            raise KeyError(name)
        return _read(found[max(found)])

    def __iter__(self) -> Iterator[str]:
        return iter(dataset_table.names(self._workspace))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return repr({name: self[name] for name in self})


def _inputs() -> dict[str, str]:
    """The inputs of the run that this script belongs to, if any."""
    return place.inputs() if context.current() is not None else {}


def _pinned(workspace: Workspace, name: str) -> Version | None:
    """The version that an input mounts, if the workspace knows more of it than the input does: how it is read."""
    run = context.current()
    if run is None or name in place.tables():
        return None
    script = json.dumps(place.record(run.run_dir).get("config", {}).get("script") or {})
    found = re.search(rf"\$\{{mount:(?:[^{{}}@]*/)?{re.escape(place.asset_name(name))}@(\d+)\}}", script)
    if found is None:
        return None
    for version in dataset_table.versions(workspace, name).values():
        asset = version.content.asset
        if version.table not in (None, tables.ANY) and asset is not None and asset.number == int(found[1]):
            return version
    return None


def _workspace(given: Any) -> Workspace:
    return given if isinstance(given, Workspace) else Workspace()


def _read(version: Version) -> FileDataset | TabularDataset:
    """A data set; a run that asks for one has it in its record."""
    run, asset = context.current(), version.content.asset
    if run is not None and asset is not None and version.content.datastore is not None:
        store = version.content.store
        told = {
            "input": f"{version.content.datastore.name}/{asset.name}@{asset.number}",
            "path": str(store.path(asset.path)) if isinstance(store, LocalDatastore) else asset.path,
            "datastore": version.content.datastore.name,
            "asset": asset.name,
            "version": asset.version,
            "number": asset.number,
        }
        path = run.run_dir / context.INPUTS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, json.dumps(told))
    return data_sets.of(version)
