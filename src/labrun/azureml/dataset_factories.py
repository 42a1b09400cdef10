"""`Dataset.File` and `Dataset.Tabular`: factories that create data sets from paths."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun._io import file_sha256
from labrun.azureml.content import MANAGED, Content
from labrun.azureml.data_reference import DataPath, DataReference
from labrun.azureml.data_sets import FileDataset, TabularDataset
from labrun.azureml.datastore import Datastore
from labrun.azureml.local_paths import local
from labrun.azureml.notices import notify_once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import partitions
from labrun.compat.azureml.training.data import fetched
from labrun.compat.azureml.training.table_types import below, common, delimited, json_lines
from labrun.runs.workspace import Workspace as StateFolder


def content_of(call: str, path: Any, validate: bool = True) -> Content:
    """Return the files that a call's `path` argument selects.

    Args:
        call: the call's name, for messages.
        path: a local path, a URL, `(datastore, path)`, a `DataPath`, or a list of these.
        validate: check that there are any files.

    Raises:
        UserErrorException: the list is empty, a path has the wrong type, or there are no such files.
    """
    items = path if isinstance(path, list) else [path]
    if not items:
        raise UserErrorException(f"{call}: the list of paths is empty")
    pairs = [_store_and_path(call, one) for one in items]
    if len({None if store is None else store.name for store, _ in pairs}) > 1:
        not_here(f"{call} of several datastores", "one data set for each of them")
    made = Content(pairs[0][0], tuple(dict.fromkeys(name for _, name in pairs)))
    if validate:
        _ = made.files
    return made


def _store_and_path(call: str, path: Any) -> tuple[Datastore | None, str]:
    """Return a path's datastore (None for this machine) and its name relative to the root."""
    if isinstance(path, (DataPath, DataReference)):
        return path.datastore, path.path_on_datastore
    if isinstance(path, Datastore):
        return path, ""
    if isinstance(path, (tuple, list)) and len(path) == 2 and isinstance(path[0], Datastore):
        return path[0], path[0]._clean(str(path[1]))
    if not isinstance(path, (str, os.PathLike)):
        raise UserErrorException(
            f"{call}: {path!r} is not a path: give (datastore, 'folder/file'), a local path or an address"
        )
    text = os.fsdecode(path)
    if "://" in text:
        return None, _from_web(text).strip("/")
    return None, os.path.normpath(local(text).absolute()).strip("/")


def _from_web(address: str) -> str:
    """Download a file from the web and return the local path. If it cannot be reached, use an earlier copy."""
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = StateFolder(Workspace().folder).azureml / "web" / key
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return fetched(address, folder)
    except UserErrorException:
        earlier = [path for path in folder.iterdir() if not path.name.endswith(".part")]
        if not earlier:
            raise
        notify_once(f"{address} cannot be reached now: using the earlier copy")
        return str(earlier[0])


class FileDatasetFactory:
    """`Dataset.File`."""

    @staticmethod
    def from_files(
        path: Any, validate: bool = True, partition_format: Any = None, is_file: bool = False
    ) -> FileDataset:
        """Return a data set of files.

        Args:
            path: see `content_of`.
            validate: check that there are any files.
            partition_format: the columns in the paths, such as `/{person}/{day:yyyy-MM-dd}/*.wav`; see `partitions.py`.
            is_file: not used: labrun checks this itself.
        """
        content = content_of("Dataset.File.from_files()", path, validate)
        made = FileDataset(content)
        if partition_format:
            made._partition = {"format": partitions.check(partition_format), "base": ""}
            _ = made.get_partition_key_values() if validate else None
        return made

    @staticmethod
    def upload_directory(
        src_dir: Any,
        target: Any,
        pattern: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> FileDataset:
        """Upload a folder's files to a datastore and return the data set of the target folder.

        Args:
            src_dir: the local folder.
            target: `(datastore, path)`, a `DataPath` or a datastore.
            pattern: only files that match it, such as `*.csv`.
            overwrite: replace existing files.
            show_progress: print a line per file.
        """
        datastore, folder = _target("upload_directory", target)
        if pattern is None:
            datastore.upload(src_dir, folder, overwrite, show_progress)
        else:
            root = local(src_dir)
            found = sorted(str(one) for one in root.glob(pattern) if one.is_file())
            if not found:
                raise UserErrorException(f"upload_directory: no file in {root} matches pattern={pattern!r}")
            datastore.upload_files(found, root, folder, overwrite, show_progress)
        return FileDatasetFactory.from_files((datastore, folder))


class TabularDatasetFactory:
    """`Dataset.Tabular`."""

    @staticmethod
    def from_delimited_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        infer_column_types: bool = True,
        set_column_types: Mapping[str, Any] | None = None,
        separator: str = ",",
        header: Any = True,
        partition_format: Any = None,
        support_multi_line: bool = False,
        empty_as_string: bool = False,
        encoding: str = "utf8",
    ) -> TabularDataset:
        """Return a data set of the rows in delimited text files.

        Args:
            path: see `content_of`.
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
        return _tabular(content_of("Dataset.Tabular.from_delimited_files()", path, validate), definition, validate)

    @staticmethod
    def from_parquet_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Mapping[str, Any] | None = None,
        partition_format: Any = None,
    ) -> TabularDataset:
        """Return a data set of the rows in Parquet files."""
        options = common(set_column_types, include_path, partition_format)
        content = content_of("Dataset.Tabular.from_parquet_files()", path, validate)
        return _tabular(content, {"format": "parquet", **options}, validate)

    @staticmethod
    def from_json_lines_files(
        path: Any,
        validate: bool = True,
        include_path: bool = False,
        set_column_types: Mapping[str, Any] | None = None,
        partition_format: Any = None,
        invalid_lines: str = "error",
        encoding: str = "utf8",
    ) -> TabularDataset:
        """Return a data set of the rows in files with one JSON object per line."""
        table = json_lines(set_column_types, include_path, partition_format, invalid_lines, encoding)
        content = content_of("Dataset.Tabular.from_json_lines_files()", path, validate)
        return _tabular(content, table, validate)

    @staticmethod
    def from_sql_query(*args: Any, **kwargs: Any) -> Any:
        """Raise: labrun has no database datastores."""
        not_here("Dataset.Tabular.from_sql_query()", "pandas.read_sql, and register_pandas_dataframe() of the rows")

    @staticmethod
    def register_pandas_dataframe(
        dataframe: Any,
        target: Any,
        name: str,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        show_progress: bool = True,
        row_group_size: int | None = None,
        make_target_path_unique: bool = True,
    ) -> TabularDataset:
        """Write a data frame to a datastore as Parquet and register it.

        Args:
            dataframe: the rows.
            target: `(datastore, path)`, a `DataPath` or a datastore.
            name: the data set's name; an existing one gets a new version.
            description: the version's description.
            tags: the version's tags.
            show_progress: print the SDK's progress lines.
            row_group_size: the number of rows in a row group of the file; None: pyarrow's default.
            make_target_path_unique: write to a subfolder of the path, named by the content; False: to the path itself.

        Raises:
            UserErrorException: the target is no datastore, `make_target_path_unique` is False and its path is in use,
                or Parquet cannot hold the rows.
        """
        datastore, folder = _target("register_pandas_dataframe", target)
        if not hasattr(dataframe, "to_parquet"):
            raise UserErrorException(f"register_pandas_dataframe: {type(dataframe).__name__} is not a pandas.DataFrame")
        with tempfile.TemporaryDirectory(prefix="labrun-") as temporary:
            file = Path(temporary, "part-00000.parquet")
            groups = {"row_group_size": row_group_size} if row_group_size else {}
            try:
                dataframe.to_parquet(file, index=False, **groups)
            except (ValueError, TypeError) as error:  # pyarrow's errors are among these
                raise UserErrorException(
                    f"register_pandas_dataframe: Parquet cannot hold the rows: {error}. Each column needs values of "
                    "one type"
                ) from error
            target_path = f"{folder or MANAGED}/{file_sha256(file)[:12]}"
            if not make_target_path_unique:
                target_path = _unused(datastore, folder)
            _say(show_progress, f"Uploading file to {target_path}")
            datastore.upload_files([str(file)], target_path=target_path, overwrite=False, show_progress=False)
        _say(show_progress, "Successfully uploaded file to datastore.")
        _say(show_progress, "Creating and registering a new dataset.")
        rows = TabularDatasetFactory.from_parquet_files((datastore, f"{target_path}/part-00000.parquet"))
        made: TabularDataset = rows.register(datastore.workspace, name, description, tags, create_new_version=True)
        _say(show_progress, "Successfully created and registered a new dataset.")
        return made

    @staticmethod
    def register_dask_dataframe(*args: Any, **kwargs: Any) -> Any:
        """Raise: labrun does not support Dask."""
        not_here("Dataset.Tabular.register_dask_dataframe()", "register_pandas_dataframe() of its compute()")

    @staticmethod
    def register_spark_dataframe(*args: Any, **kwargs: Any) -> Any:
        """Raise: labrun does not support Spark."""
        not_here("Dataset.Tabular.register_spark_dataframe()", "register_pandas_dataframe() of its toPandas()")


def _tabular(content: Content, table: dict[str, Any], validate: bool) -> TabularDataset:
    """Return a tabular data set. With `validate`, check that the paths match its partition format.

    Raises:
        UserErrorException: a path does not match.
    """
    made = TabularDataset(content, below(table, content.base) if "partition" in table else table)
    if made.partition_keys and validate:
        made.get_partition_key_values()
    return made


def _unused(datastore: Datastore, folder: str) -> str:
    """Return a folder of a datastore, which must not have files yet.

    Raises:
        UserErrorException: it has files, or is the whole datastore.
    """
    call = "register_pandas_dataframe(make_target_path_unique=False)"
    if not folder:
        raise UserErrorException(f"{call}: give a path in the datastore: target=(datastore, 'folder')")
    if datastore.store.files(folder):
        raise UserErrorException(f"{call}: {folder} in the datastore {datastore.name} already has files")
    return folder


def _target(call: str, target: Any) -> tuple[Datastore, str]:
    datastore, folder = _store_and_path(call, target)
    if datastore is None:
        raise UserErrorException(f"{call}: target={target!r}: give a datastore and a path: (datastore, 'folder')")
    return datastore, folder


def _say(show: bool, line: str) -> None:
    if show:
        print(line, flush=True)
