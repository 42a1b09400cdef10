"""`FileDataset` and `TabularDataset`: files, or rows in files, from a datastore, this machine or the registry."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labrun.azureml import dataset_table
from labrun.azureml.content import Content
from labrun.azureml.data_reference import tell_input_path
from labrun.azureml.dataset_table import Version
from labrun.azureml.datastore import Datastore
from labrun.azureml.notices import notify_once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import arguments
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import partitions, steps, tabular
from labrun.data.stores.local import LocalDatastore

METADATA = ("Size", "LastModifiedTime", "CreationTime", "Extension", "CanSeek")


class AbstractDataset:
    """Base class of both kinds of data set.

    Args:
        content: the files.
        table: the table definition (how the files are read); None for a file data set.
        version: the registered version; None if it is not registered or only part of a registered one.
    """

    def __init__(
        self, content: Content, table: Mapping[str, Any] | None = None, version: Version | None = None
    ) -> None:
        self._content, self._version = content, version
        self._partition: dict[str, str] | None = None
        self._definition = None if table is None else dict(table)

    def __getattr__(self, name: str) -> Any:
        return tabular.missing(type(self).__name__, name)

    def __repr__(self) -> str:
        source = [f"/{one}" for one in self._content.patterns]
        if self._content.datastore is not None:
            source = [f"('{self._content.datastore.name}', '{one}')" for one in self._content.patterns]
        known = f", name={self.name!r}, version={self.version}" if self._version else ""
        return f"{type(self).__name__}(source=[{', '.join(source)}]{known})"

    @property
    def name(self) -> str | None:
        """The registered name; None if not registered."""
        return self._version.name if self._version else None

    @property
    def version(self) -> int | None:
        """The registered version number; None if not registered."""
        return self._version.number if self._version else None

    @property
    def description(self) -> str | None:
        """The registered description; None if not registered."""
        return self._version.description if self._version else None

    @property
    def tags(self) -> dict[str, str]:
        """The registered tags; empty if not registered."""
        return dict(self._version.tags) if self._version else {}

    @property
    def id(self) -> str:
        """The id for `Dataset.get_by_id`, `NAME:VERSION`. Unregistered files get a hidden registration."""
        if self._version is None:
            content = self._content if self._content.datastore else self._content.copied_to(Datastore())
            table = self._definition
            name = content.anonymous_name()
            self._version_hidden = dataset_table.add(Workspace(), name, content, table, new_version=True, hidden=True)
            return self._version_hidden.id
        return self._version.id

    @property
    def data_changed_time(self) -> datetime.datetime | None:
        """The newest modification time; None if the datastore does not report it."""
        found = self._content.changed()
        return None if found is None else datetime.datetime.fromtimestamp(found, datetime.UTC)

    def register(
        self,
        workspace: Any,
        name: str,
        description: str | None = None,
        tags: Mapping[str, Any] | None = None,
        create_new_version: bool = False,
    ) -> Any:
        """Register it as a version of a data set.

        Raises:
            UserErrorException: the name is empty, it already has other content and `create_new_version` is False, or
                the tags are not a mapping.
        """
        if not isinstance(name, str) or not name.strip():
            raise UserErrorException(f"register: name={name!r}: give a non-empty string")
        _check_tags("register", tags)
        target = workspace if isinstance(workspace, Workspace) else Workspace()
        if self._partition:
            notify_once("register: a file data set does not keep its partition_format: pass it to from_files() again")
        made = dataset_table.add(target, name, self._content, self._definition, description, tags, create_new_version)
        return of(made)

    def unregister_all_versions(self) -> None:
        """Unregister all versions of the data set; the files stay."""
        if self._version is not None:
            dataset_table.forget(Workspace(), self._version.name)

    def update(self, description: str | None = None, tags: Mapping[str, Any] | None = None) -> Any:
        """Change the description, or replace all tags.

        Raises:
            UserErrorException: it is not registered, or the tags are not a mapping.
        """
        _check_tags("update", tags)
        if self._version is None:
            raise UserErrorException("only a registered data set has a description and tags: register it first")
        self._version = dataset_table.tell(Workspace(), self._version, description, self.tags if tags is None else tags)
        return self

    def add_tags(self, tags: Mapping[str, Any] | None = None) -> Any:
        """Add tags.

        Raises:
            UserErrorException: it is not registered, or the tags are not a mapping.
        """
        _check_tags("add_tags", tags)
        return self.update(tags={**self.tags, **(tags or {})})

    def remove_tags(self, tags: Any = None) -> Any:
        """Remove tags by key."""
        gone = [tags] if isinstance(tags, str) else list(tags or ())
        return self.update(tags={key: value for key, value in self.tags.items() if key not in gone})

    # As a run's input

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """Return the data set as an input with this name."""
        return DatasetConsumptionConfig(name, self)

    def as_mount(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """Return the data set as an input to mount; labrun chooses the path."""
        return DatasetConsumptionConfig(self._input_name(), self, "mount", path_on_compute)

    def as_download(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """Return the data set as an input to download; labrun chooses the path."""
        return DatasetConsumptionConfig(self._input_name(), self, "download", path_on_compute)

    def _input_name(self) -> str:
        last = self._content.patterns[0].rstrip("/").rpartition("/")[2]
        return "input_" + re.sub(r"\W+", "_", self.name or last or "data").strip("_")

    def labrun_mount(self) -> str:
        """Return the text that stands for the data in a run's config: a `${mount:...}` or a path."""
        return self._content.mount(Datastore())

    @property
    def labrun_name(self) -> str | None:
        """The registered name; None if not registered."""
        return self.name

    @property
    def labrun_table(self) -> dict[str, Any] | None:
        """The table definition by which a run reads it; None for files."""
        return self._definition

    @property
    def labrun_alias(self) -> str | None:
        """The input name of a tabular data set, which a run needs to find the table definition; None for files."""
        return None if self._definition is None else self._input_name()

    # As files

    def to_path(self) -> list[str]:
        """Return the file paths relative to their common folder, each with a leading slash."""
        return [f"/{self._content.below(name)}" for name in self._content.files]

    def download(
        self, target_path: Any = None, overwrite: bool = False, ignore_not_found: bool = False, **unknown: Any
    ) -> list[str]:
        """Copy all files into a folder (default: a temporary one) and return the copies' paths.

        Args:
            target_path: the folder.
            overwrite: replace existing files.
            ignore_not_found: leave out files that no longer exist.
            **unknown: refused.

        Raises:
            UserErrorException: a file already exists and `overwrite` is False, or a file no longer exists.
            TypeError: there is no such argument.
        """
        refuse_streams("download", unknown)
        arguments.check(AbstractDataset.download, unknown)
        target = Path(os.fsdecode(target_path) if target_path is not None else tempfile.mkdtemp(prefix="labrun-"))
        copies = []
        for path, shown in self._content.local():
            copy = target / shown.lstrip("/")
            if not os.path.exists(path):
                if ignore_not_found:
                    continue
                raise UserErrorException(f"download: {path} no longer exists; ignore_not_found=True leaves it out")
            if copy.exists() and not overwrite:
                raise UserErrorException(f"download: {copy} exists already; overwrite=True replaces it")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copies.append(str(copy.absolute()))
        return copies

    def mount(self, mount_point: Any = None, **unknown: Any) -> MountContext:
        """Return a context for a folder with the files: use `with`, or `start()` and `stop()`.

        Raises:
            TypeError: there is no such argument.
        """
        refuse_streams("mount", unknown)
        arguments.check(AbstractDataset.mount, unknown)
        return MountContext(self._content, mount_point)


def _check_tags(call: str, tags: Any) -> None:
    """Check that tags are a mapping.

    Raises:
        UserErrorException: they are not.
    """
    if tags is not None and not isinstance(tags, Mapping):
        raise UserErrorException(f"{call}: tags={tags!r}: give a dictionary, {{'team': 'red'}}")


def refuse_streams(call: str, given: Mapping[str, Any]) -> None:
    """Refuse to read the files that a table's column names.

    Raises:
        NotInLabrun: a column is given.
    """
    if given.get("stream_column") is not None:
        not_here(f"TabularDataset.{call}(stream_column=...)", "Dataset.File.from_files() of the files that it names")


class MountContext:
    """A folder of links to a data set's files.

    Args:
        content: the files.
        mount_point: the folder's path; None: a temporary folder.
    """

    def __init__(self, content: Content, mount_point: Any = None) -> None:
        self._content = content
        self._given = None if mount_point is None else Path(os.fsdecode(mount_point))
        self._made: Path | None = None
        self._links: list[Path] = []

    @property
    def mount_point(self) -> str:
        """The folder's path. `start` fills the folder."""
        if self._made is None:
            self._made = self._given or Path(tempfile.mkdtemp(prefix="labrun-mount-"))
        return str(self._made)

    def start(self) -> None:
        """Create the links, replacing links of the same names.

        Raises:
            UserErrorException: a file of such a name exists.
        """
        for path, shown in self._content.local():
            link = Path(self.mount_point) / shown.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink():  # left over from a program that ended without stop(), maybe for other data
                link.unlink()
            elif link.exists():
                raise UserErrorException(f"mount: {link} exists already: give an empty folder as mount_point")
            link.symlink_to(os.path.abspath(path))
            self._links.append(link)

    def stop(self) -> None:
        """Remove the links, and the folders that are empty without them."""
        for link in self._links:
            if link.is_symlink():
                link.unlink()
            for above in link.parents:
                if above == Path(self.mount_point) or not above.is_dir() or any(above.iterdir()):
                    break
                above.rmdir()
        self._links = []

    def __enter__(self) -> MountContext:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()


class FileDataset(AbstractDataset):
    """A data set of files."""

    def _only(self, keep: Callable[[int], bool]) -> FileDataset:
        names = [name for index, name in enumerate(self._content.files) if keep(index)]
        made = FileDataset(self._content.only(names))
        made._partition = self._partition
        return made

    @property
    def partition_keys(self) -> list[str]:
        """The columns that `partition_format` extracts from paths."""
        return partitions.keys(self._partition["format"]) if self._partition else []

    def get_partition_key_values(self, partition_keys: Any = None) -> list[dict[str, Any]]:
        """Return the distinct values of these partition keys (default: of all).

        Raises:
            UserErrorException: a key is unknown, or a path does not match the format.
        """
        return partitions.different(self._partition, [(name, name) for name in self._content.files], partition_keys)

    def __getitem__(self, name: str) -> steps.Column:
        """Return a key of `partition_format` for `filter`."""
        return steps.Column(name)

    def file_metadata(self, col: str) -> steps.Column:
        """Return a metadata column of the files for `filter`.

        Args:
            col: `Size` in bytes, `LastModifiedTime`, `CreationTime`, `Extension` or `CanSeek`.

        Raises:
            UserErrorException: there is no such column.
        """
        if col not in METADATA:
            raise UserErrorException(f"file_metadata({col!r}): choose one of {', '.join(METADATA)}")
        return steps.Column(f"file_metadata.{col}")

    def filter(self, expression: Any) -> FileDataset:
        """Return the files that satisfy a comparison: `files.filter(files.file_metadata('Size') > 1000)`.

        Raises:
            UserErrorException: it is not a comparison, or it uses an unknown column.
        """
        if not isinstance(expression, steps.Condition):
            raise UserErrorException(
                f"filter({expression!r}): give a comparison, such as data.file_metadata('Size') > 1000"
            )
        taken = steps.truth(self._known_of_files(), expression.tree)
        return self._only(lambda index: bool(taken.iloc[index]))

    def _known_of_files(self) -> Any:
        """Return a data frame with a row per file: its partition keys and metadata."""
        import pandas

        files, store = self._content.files, self._content.store
        pairs = [(name, name) for name in files]
        rows = partitions.of_files(self._partition, pairs) if self._partition else [{} for _ in files]
        for row, (name, info) in zip(rows, files.items(), strict=True):
            row |= {"file_metadata.Size": info.size, "file_metadata.CanSeek": True}
            _, dot, extension = name.rpartition("/")[2].rpartition(".")
            row["file_metadata.Extension"] = extension if dot else ""
            if isinstance(store, LocalDatastore):
                stat = store.path(name).stat()
                row["file_metadata.LastModifiedTime"] = pandas.Timestamp(stat.st_mtime, unit="s")
                row["file_metadata.CreationTime"] = pandas.Timestamp(stat.st_ctime, unit="s")
        return pandas.DataFrame(rows, index=range(len(files)))

    def take(self, count: int) -> FileDataset:
        """Return the first `count` files."""
        number = tabular.count_of("take", count)
        return self._only(lambda index: index < number)

    def skip(self, count: int) -> FileDataset:
        """Return all but the first `count` files."""
        number = tabular.count_of("skip", count)
        return self._only(lambda index: index >= number)

    def take_sample(self, probability: float, seed: Any = None) -> FileDataset:
        """Sample each file with this probability."""
        return self.random_split(tabular.share("take_sample", probability), seed)[0]

    def random_split(self, percentage: float, seed: Any = None) -> tuple[FileDataset, FileDataset]:
        """Split into two data sets: each file goes to the first with this probability, otherwise to the second."""
        part = tabular.share("random_split", percentage)
        first = steps.in_part(len(self._content.files), part, tabular.seed_of(seed), True)
        return self._only(lambda index: first[index]), self._only(lambda index: not first[index])

    def to_pandas_dataframe(self, on_error: str = "null", out_of_range_datetime: str = "null") -> Any:
        """Return the rows of the files, which must be tables; see `TabularDataset.to_pandas_dataframe`."""
        return TabularDataset(self._content).to_pandas_dataframe(on_error, out_of_range_datetime)


class TabularDataset(tabular.Tabular, AbstractDataset):
    """A data set of rows in one or more files."""

    def __getitem__(self, name: str) -> steps.Column:
        """Return a column for `filter`."""
        return steps.Column(name)

    def take_sample(self, probability: float, seed: Any = None) -> Any:
        """Call `sample`; this is its older name."""
        return self.sample(probability, seed)

    def _table(self) -> Any:
        from labrun.compat.azureml.training import tables

        return self._definition or tables.ANY

    def _table_files(self) -> Any:
        from labrun.compat.azureml.training import tables

        files = self._content.local()
        if self._table()["format"] is None:  # the file's names say which are tables
            files = [one for one in files if tables.is_table(one[0])] or files
        return files

    def _with_table(self, table: Any) -> TabularDataset:
        is_named = table["steps"] == self._table()["steps"]  # with_timestamp_columns adds metadata to the same rows
        return TabularDataset(self._content, table, self._version if is_named else None)

    def _of_folder(self, folder: str) -> FileDataset:
        return FileDataset(Content(None, (folder.strip("/"),)))


class DatasetConsumptionConfig:
    """A data set as a run's input.

    Args:
        name: the input's name.
        dataset: the data set.
        mode: kept, not used.
        path_on_compute: not used: labrun chooses the path; a notice says so if it is an absolute one.

    Raises:
        UserErrorException: the name is invalid.
    """

    def __init__(self, name: str, dataset: Any, mode: str = "direct", path_on_compute: Any = None) -> None:
        tell_input_path(f"as_{mode}({path_on_compute!r})", path_on_compute)
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            raise UserErrorException(
                f"{name!r} is not a valid input name: use letters, digits and '_', and begin with a letter or '_'"
            )
        self.name, self.dataset, self.mode, self.path_on_compute = name, dataset, mode, path_on_compute

    def __getattr__(self, name: str) -> Any:
        return tabular.missing("DatasetConsumptionConfig", name)

    def as_mount(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """Return the input in mount mode."""
        return DatasetConsumptionConfig(self.name, self.dataset, "mount", path_on_compute)

    def as_download(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """Return the input in download mode. labrun downloads remote data and mounts local data in either mode."""
        return DatasetConsumptionConfig(self.name, self.dataset, "download", path_on_compute)

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """Return the input under another name."""
        return DatasetConsumptionConfig(name, self.dataset, self.mode, self.path_on_compute)

    @property
    def labrun_alias(self) -> str:
        """The input's name."""
        return self.name

    @property
    def labrun_name(self) -> Any:
        """The data set's registered name; None if not registered."""
        return getattr(self.dataset, "labrun_name", None)

    @property
    def labrun_table(self) -> Any:
        """The table definition by which a run reads it; None for files."""
        return getattr(self.dataset, "labrun_table", None)

    def labrun_mount(self) -> str:
        """Return the text that stands for the data in a run's config: a `${mount:...}` or a path."""
        found: str = self.dataset.labrun_mount()
        return found


def of(version: Version) -> FileDataset | TabularDataset:
    """Return a registered version as a `FileDataset` or a `TabularDataset`."""
    if version.table is None:
        return FileDataset(version.content, None, version)
    return TabularDataset(version.content, version.table, version)
