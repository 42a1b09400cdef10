"""Data sets made by a script from paths of its own."""

from __future__ import annotations

import os
from typing import Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.training import values
from labrun.compat.azureml.training.data import InputDataset, TabularDataset


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
        path: Any, separator: str = ",", header: Any = True, encoding: str = "utf8", **kwargs: Any
    ) -> TabularDataset:
        """Tables of text.

        Args:
            path: a local path or a web address, or a list of them.
            separator: between columns.
            header: False, or the SDK's `PromoteHeadersBehavior.NO_HEADERS` (0): the first line is data.
            encoding: of the text.
            **kwargs: the SDK's other options; pandas works these out by itself.
        """
        options = {"sep": separator, "encoding": encoding, "header": None if values.as_number(header) == 0 else 0}
        return TabularDataset(_local("Dataset.Tabular.from_delimited_files()", path), **options)

    @staticmethod
    def from_parquet_files(path: Any, **kwargs: Any) -> TabularDataset:
        """Tables of Apache Parquet, local."""
        return TabularDataset(_local("Dataset.Tabular.from_parquet_files()", path))

    @staticmethod
    def register_pandas_dataframe(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a run writes into its own folder."""
        absent.datastore_way("Dataset.Tabular.register_pandas_dataframe()")


class FileDatasetFactory:
    """`Dataset.File`."""

    @staticmethod
    def from_files(path: Any, **kwargs: Any) -> InputDataset:
        """A local file or folder."""
        return InputDataset.called("", _local("Dataset.File.from_files()", path)[0])

    @staticmethod
    def upload_directory(*args: Any, **kwargs: Any) -> Any:
        """Not in labrun: data are brought by `lab data upload`."""
        absent.datastore_way("Dataset.File.upload_directory()")
