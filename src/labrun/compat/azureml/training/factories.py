"""Data sets made by a script from paths of its own."""

from __future__ import annotations

import os
from typing import Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.training.data import InputDataset, TabularDataset, fetched
from labrun.compat.azureml.training.table_types import common, delimited


def _local(call: str, path: Any) -> list[str]:
    """Paths and web addresses as text; what points into a datastore is refused."""
    paths = path if isinstance(path, list) else [path]
    found = []
    for one in paths:
        if not isinstance(one, (str, os.PathLike)):
            absent.datastore_way(f"{call} of a path in a datastore")
        found.append(os.fsdecode(one))
    return found


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
        """Tables of text.

        Args:
            path: a local path or a web address, or a list of them.
            validate: not used: the files are read when the data frame is asked for.
            include_path: a column `Path`.
            infer_column_types: False: every column is text.
            set_column_types: a `DataType` by the column's name.
            separator: between columns.
            header: False, or one of `PromoteHeadersBehavior`.
            partition_format: columns that are made of the paths; see `partitions.py`.
            support_multi_line: not needed: a value in quotes may go over several lines.
            empty_as_string: in columns of text, an empty cell is an empty text, not None.
            encoding: of the text.
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
        return TabularDataset(_local("Dataset.Tabular.from_delimited_files()", path), definition)

    @staticmethod
    def from_parquet_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Any = None,
        partition_format: Any = None,
    ) -> TabularDataset:
        """Tables of Apache Parquet."""
        told = common(set_column_types, include_path, partition_format)
        return TabularDataset(_local("Dataset.Tabular.from_parquet_files()", path), {"format": "parquet", **told})

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
        """Files with a JSON object a line."""
        told = common(set_column_types, include_path, partition_format)
        definition = {"format": "json", "invalid_lines": invalid_lines, "encoding": encoding, **told}
        return TabularDataset(_local("Dataset.Tabular.from_json_lines_files()", path), definition)

    @staticmethod
    def from_sql_query(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: there are no databases among its datastores."""
        absent.not_here("Dataset.Tabular.from_sql_query()", "pandas.read_sql, and Dataset.Tabular.from_parquet_files")

    @staticmethod
    def register_pandas_dataframe(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a run writes into its own folder."""
        absent.datastore_way("Dataset.Tabular.register_pandas_dataframe()")


class FileDatasetFactory:
    """`Dataset.File`."""

    @staticmethod
    def from_files(path: Any, **kwargs: Any) -> InputDataset:
        """A local file or folder, or a file at a web address."""
        found = _local("Dataset.File.from_files()", path)
        if len(found) > 1:
            absent.not_here("Dataset.File.from_files() of several paths", "give their folder")
        return InputDataset.called("", fetched(found[0]) if "://" in found[0] else found[0])

    @staticmethod
    def upload_directory(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: data are brought by `lab data upload`."""
        absent.datastore_way("Dataset.File.upload_directory()")
