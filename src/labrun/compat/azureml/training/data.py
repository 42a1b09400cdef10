"""The inputs that a run's config mounted: local paths that behave like the SDK's data sets."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import NoSuchInputError, UserErrorException
from labrun.compat.azureml.training import script_context, steps, tables, tabular

if TYPE_CHECKING:
    _Mapping = Mapping[str, "InputDataset"]
else:
    _Mapping = Mapping  # Python 3.8 cannot subscript it at run time

__all__ = ["FileDataset", "InputDataset", "Inputs", "TabularDataset"]

WAIT_S = 30


class InputDataset(tabular.Tabular, str):
    """An input's local path, which also behaves like the SDK's data sets.

    It is a string because in Azure a script receives the path of a mounted input, but a data set otherwise. If all of
    its files are tables, `take` and similar methods select rows; otherwise they select files.
    """

    name = ""
    version: Any = None
    description: Any = None
    _definition: Any = None

    @classmethod
    def called(cls, name: str, path: str, definition: Any = None) -> InputDataset:
        """Return an input with its name and its table definition."""
        made = cls(path)
        made.name, made._definition = name, definition
        return made

    def __enter__(self) -> InputDataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the mount: it belongs to the run."""

    def __getattr__(self, name: str) -> Any:
        return tabular.missing("Dataset", name)

    def __getitem__(self, key: Any) -> Any:
        """Return the column with this name for `filter`; with an index, a character of the path."""
        return steps.Column(key) if isinstance(key, str) else str.__getitem__(self, key)

    @property
    def id(self) -> str:
        """`NAME:VERSION`, or the name alone."""
        return self.name if self.version is None else f"{self.name}:{self.version}"

    @property
    def tags(self) -> dict[str, str]:
        """Empty: the workspace keeps the tags."""
        return {}

    @property
    def mount_point(self) -> str:
        return str(self)

    def mount(self, mount_point: Any = None, **unknown: Any) -> InputDataset:
        """Return the path. It is already mounted, so `mount_point` is not used; a notice says so.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(InputDataset.mount, unknown)
        arguments.tell_unused("mount", {"mount_point": mount_point}, f"the data are already mounted at {self}")
        return self

    def as_mount(self, path_on_compute: Any = None) -> InputDataset:
        """Return the path."""
        return self

    def as_download(self, path_on_compute: Any = None) -> InputDataset:
        """Return the path."""
        return self

    def as_named_input(self, name: str) -> InputDataset:
        """Return the same input."""
        return self

    def start(self) -> None:
        """Do nothing: it is already mounted."""

    def stop(self) -> None:
        """Do nothing: the mount belongs to the run."""

    def to_path(self) -> list[str]:
        """Return the relative file paths, each with a leading slash as in the SDK."""
        root = Path(self)
        return (
            [f"/{root.name}"] if root.is_file() else [f"/{path.relative_to(root).as_posix()}" for path in _files(root)]
        )

    def download(
        self, target_path: Any = None, overwrite: bool = False, ignore_not_found: bool = False, **unknown: Any
    ) -> list[str]:
        """Return the paths of all files or, with a target, of copies in that folder.

        Args:
            target_path: the folder.
            overwrite: replace existing files.
            ignore_not_found: not needed: all files exist.
            **unknown: refused.

        Raises:
            UserErrorException: a file already exists and `overwrite` is False.
            TypeError: there is no such argument.
        """
        arguments.check(InputDataset.download, unknown)
        root = Path(self)
        if target_path is None:
            return [str(path) for path in _files(root)]
        copies = []
        for path in _files(root):
            copy = Path(os.fsdecode(target_path)) / (path.name if root.is_file() else path.relative_to(root))
            if copy.exists() and not overwrite:
                raise UserErrorException(f"download: {copy} exists already; overwrite=True replaces it")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(path), str(copy))
            copies.append(str(copy))
        return copies

    # As a table

    def _is_table(self) -> bool:
        files = _files(Path(self))
        return self._definition is not None or (bool(files) and all(tables.is_table(path.name) for path in files))

    def _table(self) -> Any:
        return self._definition or tables.ANY

    def _table_files(self) -> Any:
        root = Path(self)
        files = _files(root)
        if self._table()["format"] is None:  # also after `filter` and the like, which set a definition
            files = [path for path in files if tables.is_table(path.name)]
            if not files:
                raise UserErrorException(f"input {self.name}: no table (.csv, .tsv, .parquet, .jsonl) in {self}")
        shown = [path.name if root.is_file() else path.relative_to(root).as_posix() for path in files]
        return [(str(path), f"/{name}") for path, name in zip(files, shown)]  # noqa: B905

    def _with_table(self, table: Any) -> Any:
        made = InputDataset.called(self.name, str(self), table)
        made.version = self.version
        return made

    def _of_folder(self, folder: str) -> Any:
        return InputDataset.called(self.name, folder)

    # As files

    def take(self, count: int) -> Any:
        if self._is_table():
            return super().take(count)
        return self._selected(_files(Path(self))[: tabular.count_of("take", count)])

    def skip(self, count: int) -> Any:
        if self._is_table():
            return super().skip(count)
        return self._selected(_files(Path(self))[tabular.count_of("skip", count) :])

    def sample(self, probability: float, seed: Any = None) -> Any:
        return super().sample(probability, seed) if self._is_table() else self.random_split(probability, seed)[0]

    def random_split(self, percentage: float, seed: Any = None) -> Any:
        if self._is_table():
            return super().random_split(percentage, seed)
        files, part = _files(Path(self)), tabular.share("random_split", percentage)
        first = steps.in_part(len(files), part, tabular.seed_of(seed), True)
        return (
            self._selected([path for path, taken in zip(files, first) if taken]),  # noqa: B905
            self._selected([path for path, taken in zip(files, first) if not taken]),  # noqa: B905
        )

    def _selected(self, files: list[Path]) -> InputDataset:
        """Return a folder of links to these files."""
        root, folder = Path(self), Path(tempfile.mkdtemp(prefix="labrun-files-"))
        for path in files:
            link = folder / (path.name if root.is_file() else path.relative_to(root))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        return InputDataset.called(self.name, str(folder))


FileDataset = InputDataset


class TabularDataset(tabular.Tabular):
    """Tables in local files or on the web.

    Args:
        paths: local paths, patterns or URLs.
        definition: the table definition; see `tables`.
    """

    name = None
    version = None

    def __init__(self, paths: list[str], definition: Any = None) -> None:
        self.paths = paths
        self._definition = definition or tables.ANY

    def __getattr__(self, name: str) -> Any:
        return tabular.missing("TabularDataset", name)

    def __getitem__(self, name: str) -> Any:
        return steps.Column(name)

    def _table(self) -> Any:
        return self._definition

    def _table_files(self) -> Any:
        found: dict[str, str] = {}  # a file that two paths select is read once
        parts = {path: matching(path) for path in self.paths if "://" not in path}
        base = os.path.commonpath([folder for folder, _ in parts.values()]) if parts else ""
        for path in self.paths:
            if "://" in path:
                found[fetched(path)] = path
            else:
                found.update((one, "/" + Path(os.path.relpath(one, base)).as_posix()) for one in parts[path][1])
        return list(found.items())

    def _with_table(self, table: Any) -> Any:
        return TabularDataset(self.paths, table)

    def _of_folder(self, folder: str) -> Any:
        return InputDataset.called("", folder)


def matching(text: str) -> tuple[str, list[str]]:
    """Return the folder of a local path or pattern, and its files in order, as absolute paths.

    Args:
        text: a file, a folder, or a pattern in which `*` and `?` match within a name and `**` any depth.
    """
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.exists():
        return str(path.parent if path.is_file() else path), [str(one) for one in _files(path)]
    fixed = []
    for part in path.parts:
        if any(mark in part for mark in "*?["):
            break
        fixed.append(part)
    folder = Path(*fixed) if len(fixed) < len(path.parts) else path.parent
    files = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]
    return str(folder), [str(below) for one in files for below in _files(one)]


def fetched(address: str, folder: Any = None) -> str:
    """Download a file from the web and return the local path.

    Args:
        address: an `http` or `https` URL.
        folder: the target folder; None: a temporary one.

    Raises:
        UserErrorException: the URL has another scheme or cannot be reached.
    """
    target = Path(folder or tempfile.mkdtemp(prefix="labrun-web-")) / (
        address.partition("?")[0].rpartition("/")[2] or "file"
    )
    if not address.startswith(("http://", "https://")):
        raise UserErrorException(f"{address}: labrun reads only URLs that begin with http:// or https://")
    partial = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(address, timeout=WAIT_S) as answer, open(str(partial), "wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserErrorException(
            f"{address} cannot be reached from this machine ({reason}): get the file by other means, and pass its "
            "local path or upload it to a datastore"
        ) from None
    partial.replace(target)
    return str(target)


class Inputs(_Mapping):
    """The inputs of this run by name."""

    def __init__(self) -> None:
        self._paths = script_context.inputs()
        self._tables = script_context.tables()

    def __getitem__(self, name: str) -> InputDataset:
        if name not in self._paths:
            there = f"it has: {', '.join(sorted(self._paths))}" if self._paths else "it has no inputs"
            asset = script_context.asset_name(name)
            raise NoSuchInputError(
                f"The input {name!r}, which this run does not have ({there}), is part of Azure ML and not of labrun. "
                "Instead: mount it on the command line: "
                f"'script.inputs.{script_context.alias(name)}=${{mount:{asset}}}' (`lab data ls` lists the data sets); "
                f"or, if it is also an argument of the script, 'script.arguments.data_path=${{mount:{asset}}}'"
            )
        return InputDataset.called(name, self._paths[name], self._tables.get(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths


def _files(root: Path) -> list[Path]:
    return [root] if root.is_file() else [path for path in sorted(root.rglob("*")) if path.is_file()]
