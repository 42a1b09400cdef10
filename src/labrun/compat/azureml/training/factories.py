"""Factories for the data sets that a script creates from its own paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.data import InputDataset, TabularDataset, fetched, matching
from labrun.compat.azureml.training.table_types import common, delimited, json_lines


def _local(call: str, path: Any) -> list[str]:
    """Return local paths and URLs as strings; raise for a path in a datastore."""
    paths = path if isinstance(path, list) else [path]
    found = []
    for one in paths:
        if not isinstance(one, (str, os.PathLike)):
            absent.datastore_way(f"{call} of a path in a datastore")
        found.append(os.fsdecode(one))
    return found


def _checked(paths: list[str], validate: bool) -> list[str]:
    """Return paths, with `validate` only if each has files.

    Raises:
        UserErrorException: one has none.
    """
    for path in paths if validate else ():
        if "://" not in path and not matching(path)[1]:
            raise UserErrorException(
                f"there are no files on this machine under {path} (the working folder is {os.getcwd()})"
            )
    return paths


class TabularDatasetFactory:
    """`Dataset.Tabular`."""

    @staticmethod
    def from_delimited_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        infer_column_types: bool = True,
        set_column_types: Any = None,
        separator: str = ",",
        header: Any = True,
        partition_format: Any = None,
        support_multi_line: bool = False,
        empty_as_string: bool = False,
        encoding: str = "utf8",
    ) -> TabularDataset:
        """Return a data set of the rows in delimited text files.

        Args:
            path: a local path, a pattern or a URL, or a list of them.
            validate: check that there are any files.
            include_path: add a column `Path`.
            infer_column_types: False: read every column as text.
            set_column_types: a `DataType` per column name.
            separator: the column separator.
            header: True, False, or one of `PromoteHeadersBehavior`.
            partition_format: columns to extract from the paths; see `partitions.py`.
            support_multi_line: not needed: a quoted value may always span several lines.
            empty_as_string: read an empty cell of a text column as an empty string, not as None.
            encoding: the text encoding.
        """
        definition = delimited(
            separator,
            header,
            encoding,
            infer_column_types,
            set_column_types,
            include_path,
            partition_format,
            empty_as_string,
        )
        paths = _local("Dataset.Tabular.from_delimited_files()", path)
        return TabularDataset(_checked(paths, validate), definition)

    @staticmethod
    def from_parquet_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Any = None,
        partition_format: Any = None,
    ) -> TabularDataset:
        """Return a data set of the rows in Parquet files."""
        shared = common(set_column_types, include_path, partition_format)
        paths = _local("Dataset.Tabular.from_parquet_files()", path)
        return TabularDataset(_checked(paths, validate), {"format": "parquet", **shared})

    @staticmethod
    def from_json_lines_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Any = None,
        partition_format: Any = None,
        invalid_lines: str = "error",
        encoding: str = "utf8",
    ) -> TabularDataset:
        """Return a data set of the rows in files with one JSON object per line."""
        definition = json_lines(set_column_types, include_path, partition_format, invalid_lines, encoding)
        paths = _local("Dataset.Tabular.from_json_lines_files()", path)
        return TabularDataset(_checked(paths, validate), definition)

    @staticmethod
    def from_sql_query(*args: Any, **kwargs: Any) -> Any:
        """Raise: labrun has no database datastores."""
        absent.not_here("Dataset.Tabular.from_sql_query()", "pandas.read_sql, and Dataset.Tabular.from_parquet_files")

    @staticmethod
    def register_pandas_dataframe(*args: Any, **kwargs: Any) -> Any:
        """Raise: a run writes only to its own folder."""
        absent.datastore_way("Dataset.Tabular.register_pandas_dataframe()")


class FileDatasetFactory:
    """`Dataset.File`."""

    @staticmethod
    def from_files(
        path: Any, validate: bool = True, partition_format: Any = None, is_file: bool = False
    ) -> InputDataset:
        """Return a data set of a local file or folder, or of a file on the web.

        Args:
            path: a local path, a pattern or a URL.
            validate: check that there are any files.
            partition_format: not supported without labrun in the interpreter.
            is_file: not used: labrun checks this itself.

        Raises:
            NotInLabrun: there are several paths, or a partition format.
            UserErrorException: there are no files.
        """
        if partition_format:
            absent.not_here("Dataset.File.from_files(partition_format=...)", "take the values from to_path()")
        found = _local("Dataset.File.from_files()", path)
        if len(found) > 1:
            absent.not_here("Dataset.File.from_files() of several paths", "give their folder")
        if "://" in found[0]:
            return InputDataset.called("", fetched(found[0]))
        _checked(found, validate)
        if os.path.exists(os.path.expanduser(found[0])) or not validate:
            return InputDataset.called("", found[0])
        folder, files = matching(found[0])
        return InputDataset.called("", folder)._selected([Path(one) for one in files])

    @staticmethod
    def upload_directory(*args: Any, **kwargs: Any) -> Any:
        """Raise: use `lab data upload` instead."""
        absent.datastore_way("Dataset.File.upload_directory()")
