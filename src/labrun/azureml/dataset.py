"""`Dataset`: the entry point for creating and finding data sets."""

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
from labrun.compat.azureml import arguments
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import script_context, tables
from labrun.compat.azureml.training.data import Inputs
from labrun.compat.azureml.training.dataset import input_by_id
from labrun.compat.azureml.training.tabular import Missing
from labrun.data.stores.local import LocalDatastore
from labrun.runs import context


class Dataset(metaclass=Missing):
    """The SDK's entry point to data."""

    File = FileDatasetFactory
    Tabular = TabularDatasetFactory

    @staticmethod
    def from_delimited_files(
        path: Any,
        separator: str = ",",
        header: Any = True,
        encoding: str = "utf8",
        quoting: bool = False,
        infer_column_types: bool = True,
        skip_rows: int = 0,
        skip_mode: Any = None,
        comment: str | None = None,
        include_path: bool = False,
        archive_options: Any = None,
        partition_format: Any = None,
        **others: Any,
    ) -> TabularDataset:
        """Return a table like `Dataset.Tabular.from_delimited_files`, by its signature of 2019.

        Args:
            path: see `dataset_factories.content_of`.
            separator: the column separator.
            header: True, False, or one of `PromoteHeadersBehavior`.
            encoding: the text encoding.
            quoting: not needed: a quoted value may always span several lines.
            infer_column_types: False: read every column as text.
            skip_rows: not supported.
            skip_mode: not needed without `skip_rows`.
            comment: not supported.
            include_path: add a column `Path`.
            archive_options: not supported.
            partition_format: columns to extract from the paths.
            **others: arguments of `Dataset.Tabular.from_delimited_files`.

        Raises:
            NotInLabrun: lines are to be skipped, or the files are in an archive.
        """
        for name, value in (("skip_rows", skip_rows), ("comment", comment), ("archive_options", archive_options)):
            if value:
                not_here(
                    f"Dataset.from_delimited_files({name}={value!r})",
                    "pandas.read_csv, and Dataset.Tabular.register_pandas_dataframe() of the rows",
                )
        return TabularDatasetFactory.from_delimited_files(
            path,
            include_path=include_path,
            infer_column_types=infer_column_types,
            separator=separator,
            header=header,
            partition_format=partition_format,
            encoding=encoding,
            **others,
        )

    @staticmethod
    def from_parquet_files(
        path: Any, include_path: bool = False, partition_format: Any = None, **others: Any
    ) -> TabularDataset:
        """Return a table like `Dataset.Tabular.from_parquet_files`, by its signature of 2019."""
        return TabularDatasetFactory.from_parquet_files(
            path, include_path=include_path, partition_format=partition_format, **others
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        not_here("Dataset(...)", "Dataset.File.from_files(), Dataset.Tabular.from_...(), Dataset.get_by_name()")

    @classmethod
    def get_by_name(cls, workspace: Any, name: str, version: Any = "latest") -> Any:
        """Return a registered data set. Inside a run, an input with that name takes precedence.

        Raises:
            UserErrorException: there is no such data set or version.
        """
        if name in _inputs() and version in (None, "latest"):
            pinned = _pinned(_workspace(workspace), name)
            return Inputs()[name] if pinned is None else data_sets.of(pinned)
        return _read(dataset_table.get(_workspace(workspace), name, version))

    @classmethod
    def get_by_id(cls, workspace: Any, id: str, **unknown: Any) -> Any:
        """Return a data set by its `id`; inside a run also by its path, which labrun passes as argument instead.

        Raises:
            UserErrorException: there is no such data set or version.
            TypeError: there is no such argument.
        """
        arguments.check(Dataset.get_by_id, unknown)
        if context.current() is not None and (found := input_by_id(id)) is not None:
            return found
        name, _, version = str(id).rpartition(":")
        if not name or not version.isdecimal():
            raise UserErrorException(f"{id!r} is not a data set id: labrun's ids have the form NAME:VERSION")
        return _read(dataset_table.get(_workspace(workspace), name, version))

    @classmethod
    def get_all(cls, workspace: Any) -> Mapping[str, Any]:
        """Return all registered data sets by name."""
        return Registered(_workspace(workspace))

    @classmethod
    def get(cls, workspace: Any, name: str | None = None, id: str | None = None) -> Any:
        """Return the newest version of a registered data set by name, or any version by id.

        Raises:
            UserErrorException: there is no such data set, or neither a name nor an id is given.
        """
        if name is None and id is None:
            raise UserErrorException("Dataset.get: give a name or an id")
        return cls.get_by_name(workspace, name) if name is not None else cls.get_by_id(workspace, str(id))


class Registered(Mapping[str, Any]):
    """The newest version of every registered data set by name. Inside a run, its inputs take precedence.

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
    """Return the inputs of the run that this script belongs to; empty outside a run."""
    return script_context.inputs() if context.current() is not None else {}


def _pinned(workspace: Workspace, name: str) -> Version | None:
    """Return the version that an input mounts, if only the workspace knows how to read it; otherwise None."""
    run = context.current()
    if run is None or name in script_context.tables():
        return None
    script = json.dumps(script_context.record(run.run_dir).get("config", {}).get("script") or {})
    found = re.search(rf"\$\{{mount:(?:[^{{}}@]*/)?{re.escape(script_context.asset_name(name))}@(\d+)\}}", script)
    if found is None:
        return None
    for version in dataset_table.versions(workspace, name).values():
        asset = version.content.asset
        if version.table not in (None, tables.ANY) and asset is not None and asset.number == int(found[1]):
            return version
    return None


def _workspace(workspace: Any) -> Workspace:
    return workspace if isinstance(workspace, Workspace) else Workspace()


def _read(version: Version) -> FileDataset | TabularDataset:
    """Return a version as a data set. Inside a run, note it as an input of the run."""
    run, asset = context.current(), version.content.asset
    if run is not None and asset is not None and version.content.datastore is not None:
        store = version.content.store
        entry = {
            "input": f"{version.content.datastore.name}/{asset.name}@{asset.number}",
            "path": str(store.path(asset.path)) if isinstance(store, LocalDatastore) else asset.path,
            "datastore": version.content.datastore.name,
            "asset": asset.name,
            "version": asset.version,
            "number": asset.number,
        }
        path = run.run_dir / context.INPUTS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        append_line(path, json.dumps(entry))
    return data_sets.of(version)
