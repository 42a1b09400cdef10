"""`FileDataset` and `TabularDataset`: files, and rows in files, of datastores, of this machine, or registered."""

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
from labrun.azureml.dataset_table import Version
from labrun.azureml.datastore import Datastore
from labrun.azureml.telling import once
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import partitions, steps, tabular
from labrun.data.stores.local import LocalDatastore

METADATA = ("Size", "LastModifiedTime", "CreationTime", "Extension", "CanSeek")


class AbstractDataset:
    """What data sets of both kinds have.

    Args:
        content: the files.
        table: how they are read; None: they are files.
        version: what is registered; None: nothing is, or it is a part of that.
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
        """As it is registered."""
        return self._version.name if self._version else None

    @property
    def version(self) -> int | None:
        """As it is registered."""
        return self._version.number if self._version else None

    @property
    def description(self) -> str | None:
        """As it is registered."""
        return self._version.description if self._version else None

    @property
    def tags(self) -> dict[str, str]:
        """As it is registered."""
        return dict(self._version.tags) if self._version else {}

    @property
    def id(self) -> str:
        """For `Dataset.get_by_id`: name and version; files that have none are registered without being listed."""
        if self._version is None:
            content = self._content if self._content.datastore else self._content.brought(Datastore())
            table = self._definition
            name = content.anonymous_name()
            self._version_hidden = dataset_table.add(Workspace(), name, content, table, new_version=True, hidden=True)
            return self._version_hidden.id
        return self._version.id

    @property
    def data_changed_time(self) -> datetime.datetime | None:
        """When the newest file was changed; None where the datastore does not tell."""
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
            UserErrorException: the name has other content, and no new version is asked for.
        """
        place = workspace if isinstance(workspace, Workspace) else Workspace()
        if self._partition:
            once("register: partition_format is not kept with a data set of files: give it again to from_files()")
        made = dataset_table.add(place, name, self._content, self._definition, description, tags, create_new_version)
        return of(made)

    def unregister_all_versions(self) -> None:
        """Forget the data set; the files stay."""
        if self._version is not None:
            dataset_table.forget(Workspace(), self._version.name)

    def update(self, description: str | None = None, tags: Mapping[str, Any] | None = None) -> Any:
        """Another description, or other tags."""
        if self._version is None:
            raise UserErrorException("only a registered data set has a description and tags: register it first")
        self._version = dataset_table.tell(Workspace(), self._version, description, self.tags if tags is None else tags)
        return self

    def add_tags(self, tags: Mapping[str, Any] | None = None) -> Any:
        """More tags."""
        return self.update(tags={**self.tags, **(tags or {})})

    def remove_tags(self, tags: Any = None) -> Any:
        """Fewer tags, by their keys."""
        return self.update(tags={key: value for key, value in self.tags.items() if key not in (tags or ())})

    # For a run

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """The same, as an input of that name."""
        return DatasetConsumptionConfig(name, self)

    def as_mount(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """The same, as an input; labrun says where it lies."""
        return DatasetConsumptionConfig(self._input_name(), self, "mount", path_on_compute)

    def as_download(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """The same, as an input; labrun says where it lies."""
        return DatasetConsumptionConfig(self._input_name(), self, "download", path_on_compute)

    def _input_name(self) -> str:
        last = self._content.patterns[0].rstrip("/").rpartition("/")[2]
        return "input_" + re.sub(r"\W+", "_", self.name or last or "data").strip("_")

    def labrun_mount(self) -> str:
        """What its argument is."""
        return self._content.mount(Datastore())

    @property
    def labrun_name(self) -> str | None:
        """As it is registered."""
        return self.name

    @property
    def labrun_table(self) -> dict[str, Any] | None:
        """How a run reads it."""
        return self._definition

    @property
    def labrun_alias(self) -> str | None:
        """The name of an input that a run has to know how to read."""
        return None if self._definition is None else self._input_name()

    # As files

    def to_path(self) -> list[str]:
        """The files, each with a leading slash, below the folder that they have in common."""
        return [f"/{self._content.below(name)}" for name in self._content.files]

    def download(
        self, target_path: Any = None, overwrite: bool = False, ignore_not_found: bool = False, **kwargs: Any
    ) -> list[str]:
        """Copies of all files, below a folder; a temporary one if none is named.

        Raises:
            UserErrorException: a file is there already, and `overwrite` is not given.
        """
        target = Path(os.fsdecode(target_path) if target_path is not None else tempfile.mkdtemp(prefix="labrun-"))
        copies = []
        for path, shown in self._content.local():
            copy = target / shown.lstrip("/")
            if copy.exists() and not overwrite:
                raise UserErrorException(f"download: {copy} exists already; overwrite=True replaces it")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            copies.append(str(copy.absolute()))
        return copies

    def mount(self, mount_point: Any = None, **kwargs: Any) -> MountContext:
        """A folder with the files, to be used by `with`, or between `start()` and `stop()`."""
        return MountContext(self._content, mount_point)


class MountContext:
    """A folder that has a data set's files: links to where they lie.

    Args:
        content: the files.
        mount_point: where the folder is to be; None: a temporary one.
    """

    def __init__(self, content: Content, mount_point: Any = None) -> None:
        self._content = content
        self._given = None if mount_point is None else Path(os.fsdecode(mount_point))
        self._made: Path | None = None

    @property
    def mount_point(self) -> str:
        """The folder; there from `start` on."""
        if self._made is None:
            self._made = self._given or Path(tempfile.mkdtemp(prefix="labrun-mount-"))
        return str(self._made)

    def start(self) -> None:
        """Make the links."""
        for path, shown in self._content.local():
            link = Path(self.mount_point) / shown.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(os.path.abspath(path))

    def stop(self) -> None:
        """Take the links away."""
        for link in sorted(Path(self.mount_point).rglob("*"), reverse=True):
            if link.is_symlink():
                link.unlink()
            elif link.is_dir() and not any(link.iterdir()):
                link.rmdir()

    def __enter__(self) -> MountContext:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()


class FileDataset(AbstractDataset):
    """Files."""

    def _only(self, keep: Callable[[int], bool]) -> FileDataset:
        names = [name for place, name in enumerate(self._content.files) if keep(place)]
        made = FileDataset(self._content.only(names))
        made._partition = self._partition
        return made

    @property
    def partition_keys(self) -> list[str]:
        """The columns that `partition_format` makes of paths."""
        return partitions.keys(self._partition["format"]) if self._partition else []

    def get_partition_key_values(self, partition_keys: Any = None) -> list[dict[str, Any]]:
        """The different values of these keys, or of all.

        Raises:
            UserErrorException: a name is none of them; a path is not like the format.
        """
        return partitions.different(self._partition, [(name, name) for name in self._content.files], partition_keys)

    def __getitem__(self, name: str) -> steps.Column:
        """A key of `partition_format`, for `filter`."""
        return steps.Column(name)

    def file_metadata(self, col: str) -> steps.Column:
        """What is known of each file, for `filter`.

        Args:
            col: `Size` in bytes, `LastModifiedTime`, `CreationTime`, `Extension` or `CanSeek`.

        Raises:
            UserErrorException: it is none of these.
        """
        if col not in METADATA:
            raise UserErrorException(f"file_metadata({col!r}): there are {', '.join(METADATA)}")
        return steps.Column(f"file_metadata.{col}")

    def filter(self, expression: Any) -> FileDataset:
        """Only files of which a comparison is true: `files.filter(files.file_metadata('Size') > 1000)`.

        Raises:
            UserErrorException: it is not a comparison, or names what is not known of the files.
        """
        if not isinstance(expression, steps.Condition):
            raise UserErrorException(f"filter({expression!r}): give a comparison, as data.file_metadata('Size') > 1000")
        taken = steps.truth(self._known_of_files(), expression.told)
        return self._only(lambda place: bool(taken.iloc[place]))

    def _known_of_files(self) -> Any:
        """A row for each file: the keys of its path, its metadata."""
        import pandas

        files, store = self._content.files, self._content.store
        pairs = [(name, name) for name in files]
        told = partitions.of_files(self._partition, pairs) if self._partition else [{} for _ in files]
        for row, (name, info) in zip(told, files.items(), strict=True):
            row |= {"file_metadata.Size": info.size, "file_metadata.CanSeek": True}
            row["file_metadata.Extension"] = name.rpartition("/")[2].rpartition(".")[2] if "." in name else ""
            if isinstance(store, LocalDatastore):
                stat = store.path(name).stat()
                row["file_metadata.LastModifiedTime"] = pandas.Timestamp(stat.st_mtime, unit="s")
                row["file_metadata.CreationTime"] = pandas.Timestamp(stat.st_ctime, unit="s")
        return pandas.DataFrame(told, index=range(len(files)))

    def take(self, count: int) -> FileDataset:
        """The first files."""
        number = tabular.count_of("take", count)
        return self._only(lambda place: place < number)

    def skip(self, count: int) -> FileDataset:
        """Without the first files."""
        number = tabular.count_of("skip", count)
        return self._only(lambda place: place >= number)

    def take_sample(self, probability: float, seed: Any = None) -> FileDataset:
        """Each file with this probability."""
        return self.random_split(tabular.share("take_sample", probability), seed)[0]

    def random_split(self, percentage: float, seed: Any = None) -> tuple[FileDataset, FileDataset]:
        """Two data sets: each file is in the first with this probability, else in the second."""
        part = tabular.share("random_split", percentage)
        first = steps.in_part(len(self._content.files), part, tabular.seed_of(seed), True)
        return self._only(lambda place: first[place]), self._only(lambda place: not first[place])

    def to_pandas_dataframe(self, *args: Any, **kwargs: Any) -> Any:
        """The rows of its tables: for files that are some."""
        return TabularDataset(self._content).to_pandas_dataframe()


class TabularDataset(tabular.Tabular, AbstractDataset):
    """Rows, in one or several files."""

    def __getitem__(self, name: str) -> steps.Column:
        """A column, for `filter`."""
        return steps.Column(name)

    def take_sample(self, probability: float, seed: Any = None) -> Any:
        """The older name of `sample`."""
        return self.sample(probability, seed)

    def _table(self) -> Any:
        from labrun.compat.azureml.training import tables

        return self._definition or tables.ANY

    def _table_files(self) -> Any:
        return self._content.local()

    def _with_table(self, table: Any) -> TabularDataset:
        is_named = table["steps"] == self._table()["steps"]  # with_timestamp_columns only says more of the same
        return TabularDataset(self._content, table, self._version if is_named else None)

    def _of_folder(self, folder: str) -> FileDataset:
        return FileDataset(Content(None, (folder.strip("/"),)))


class DatasetConsumptionConfig:
    """A data set as a run's input.

    Args:
        name: the input's.
        dataset: the data set, or a registered one's name.
        mode: kept.
        path_on_compute: not used: labrun says where it lies.
    """

    def __init__(self, name: str, dataset: Any, mode: str = "direct", path_on_compute: Any = None) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            raise UserErrorException(
                f"{name!r} is not a name of an input: letters, digits and '_', a letter or '_' first"
            )
        self.name, self.dataset, self.mode, self.path_on_compute = name, dataset, mode, path_on_compute

    def __getattr__(self, name: str) -> Any:
        return tabular.missing("DatasetConsumptionConfig", name)

    def as_mount(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """To be mounted."""
        return DatasetConsumptionConfig(self.name, self.dataset, "mount", path_on_compute)

    def as_download(self, path_on_compute: Any = None) -> DatasetConsumptionConfig:
        """To be brought; labrun does that where the data are remote, and mounts them else."""
        return DatasetConsumptionConfig(self.name, self.dataset, "download", path_on_compute)

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """Under another name."""
        return DatasetConsumptionConfig(name, self.dataset, self.mode, self.path_on_compute)

    @property
    def labrun_alias(self) -> str:
        """The input's name."""
        return self.name

    @property
    def labrun_name(self) -> Any:
        """As it is registered."""
        return getattr(self.dataset, "labrun_name", None)

    @property
    def labrun_table(self) -> Any:
        """How a run reads it."""
        return getattr(self.dataset, "labrun_table", None)

    def labrun_mount(self) -> str:
        """What its argument is."""
        found: str = self.dataset.labrun_mount()
        return found


def of(version: Version) -> FileDataset | TabularDataset:
    """What is registered, in the class of its kind."""
    if version.table is None:
        return FileDataset(version.content, None, version)
    return TabularDataset(version.content, version.table, version)
