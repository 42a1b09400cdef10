"""A datastore: the place where data lie. A folder of this machine, or whatever fsspec reaches.

One interface, and two kinds: `LocalDatastore` here, `RemoteDatastore` in `remote.py`. Names of files are relative to
the datastore's root, with `/` between their parts, on every kind.

What every kind promises: under its final name a file is whole or absent, also after kill -9; a listing is never an
old one; no message holds a secret.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from labrun.errors import ConfigError, DataError, MissingDataError
from labrun.runs import context

CHUNK_BYTES = 8 * 2**20
"""How much of a file is in memory at a time."""
PARTIAL = ".labrun-part"
"""How the name of a file that is being written ends; such files are in no listing."""
STATE = ".labrun"
"""The folder below a datastore's root where its assets are registered; in no listing."""
LOCAL_TARGET = "labrun.data.datastore.LocalDatastore"

ProgressCallback = Callable[[int], None]
"""Progress callback: bytes moved since the last call; may raise to abort."""


@dataclass(frozen=True)
class FileInfo:
    """A file of a datastore."""

    size: int
    token: str
    """Changes when the file does: an ETag, or time and inode. Empty where the place tells nothing of the kind."""


class Datastore(ABC):
    """A place with files.

    Args:
        name: how a person calls it.
        root: where in that place the names begin.
    """

    is_local = False
    is_read_only = False
    streams = 1
    """Chunks of one file that may be on their way at the same time, where the place allows that."""

    def __init__(self, name: str, root: str) -> None:
        self.name, self.root = name, root

    def check_root(self) -> None:  # noqa: B027 - a folder that is not there yet is an empty one
        """Whether there is such a place at all.

        Raises:
            MissingDataError: there is not.
        """

    @abstractmethod
    def files(self, folder: str = "") -> dict[str, FileInfo]:
        """Every file below a folder, by its name (relative to the root); nothing where there is no such folder.

        Raises:
            DataError: the place cannot be reached, or refuses.
        """

    @abstractmethod
    def find(self, name: str) -> FileInfo | None:
        """One file, or None."""

    @abstractmethod
    def folders(self, folder: str = "") -> list[str]:
        """The names of what lies directly in a folder; folders end with a slash."""

    @abstractmethod
    def send(self, source: Path, name: str, heard: ProgressCallback, only_new: bool = False) -> FileInfo:
        """Put a local file there, over one that is there already; what is there afterwards.

        Raises:
            FileExistsError: it was to be new, and is there.
            DataError: it cannot be written.
        """

    @abstractmethod
    def fetch(self, name: str, target: BinaryIO, heard: ProgressCallback) -> None:
        """Write a file's content to an open local file.

        Raises:
            MissingDataError: it is not there.
            DataError: it cannot be read.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A small file's content.

        Raises:
            MissingDataError: it is not there.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, only_new: bool = False) -> bool:
        """Write a small file in one step; False if it was to be new and was there."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no mistake."""

    @property
    def identity(self) -> str:
        """The same for two datastores that hold the same files; holds no secret."""
        return f"{type(self).__name__}:{self.root}"


class LocalDatastore(Datastore):
    """A folder of this machine."""

    is_local = True

    def __init__(self, name: str, root: str) -> None:
        super().__init__(name, str(Path(root).expanduser().resolve()))
        self.folder = Path(self.root)

    def path(self, name: str) -> Path:
        """Where a file lies.

        Raises:
            ConfigError: the name leads out of the datastore.
        """
        return self.folder / clean(name)

    def files(self, folder: str = "") -> dict[str, FileInfo]:
        top = self.path(folder)
        found = {}
        for place, folders, names in os.walk(top, followlinks=True):
            folders[:] = [name for name in folders if not _leads_back(place, name)]
            if Path(place) == self.folder and STATE in folders:
                folders.remove(STATE)
            for name in names:
                path = Path(place) / name
                if not name.endswith(PARTIAL) and path.is_file():
                    found[path.relative_to(self.folder).as_posix()] = _of(path)
        return found

    def find(self, name: str) -> FileInfo | None:
        path = self.path(name)
        return _of(path) if path.is_file() else None

    def folders(self, folder: str = "") -> list[str]:
        place = self.path(folder)
        if not place.is_dir():
            return []
        return sorted(
            f"{entry.name}/" if entry.is_dir() else entry.name
            for entry in place.iterdir()
            if entry.name != STATE and not entry.name.endswith(PARTIAL)
        )

    def send(self, source: Path, name: str, heard: ProgressCallback, only_new: bool = False) -> FileInfo:
        path = self.path(name)
        with _telling(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(source, "rb") as content, _in_one_step(path, only_new) as file:
                copy(content, file, heard)
        return _of(path)

    def fetch(self, name: str, target: BinaryIO, heard: ProgressCallback) -> None:
        with _telling(f"cannot read {self.path(name)}"), _plain(self.path(name)) as content:
            copy(content, target, heard)

    def read(self, name: str) -> bytes:
        with _telling(f"cannot read {self.path(name)}"), _plain(self.path(name)) as content:
            return content.read()

    def write(self, name: str, content: bytes, only_new: bool = False) -> bool:
        path = self.path(name)
        try:
            with _telling(f"cannot write {path}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with _in_one_step(path, only_new) as file:
                    file.write(content)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        with _telling(f"cannot remove {self.path(name)}"):
            self.path(name).unlink(missing_ok=True)
            for folder in self.path(name).parents:
                if folder == self.folder or any(folder.iterdir()):
                    break
                folder.rmdir()


def make(node: Mapping[str, Any]) -> Datastore:
    """The datastore that a config's node `datastore` describes, with what it refers to resolved.

    Raises:
        ConfigError, MissingExtraError: it cannot be built.
    """
    if node.get("_target_", LOCAL_TARGET) == LOCAL_TARGET:
        return LocalDatastore(str(node["name"]), str(node["root"]))
    from labrun.data.remote import RemoteDatastore

    return RemoteDatastore(node)


def is_local(node: Mapping[str, Any]) -> bool:
    """Whether a config's node `datastore` is a folder of this machine."""
    return bool(node.get("_target_", LOCAL_TARGET) == LOCAL_TARGET)


def _leads_back(place: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in: a walk would never end."""
    path = os.path.join(place, name)
    return os.path.islink(path) and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(path))


def is_inside(name: str) -> bool:
    """Whether a name stays inside of a datastore: other places list what anybody has put there."""
    return not (name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts or "\0" in name)


def clean(name: str) -> str:
    """A name as it is used: no slash at its ends, no empty parts.

    Raises:
        ConfigError: it is absolute, or climbs out of the datastore.
    """
    if not is_inside(name):
        raise ConfigError(f"{name!r} is no name inside a datastore: it must be relative, and must not climb with '..'")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def copy(source: BinaryIO, target: BinaryIO, heard: ProgressCallback) -> None:
    """Copy an open file chunk by chunk."""
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        heard(len(chunk))


def _of(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo(status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")


@contextlib.contextmanager
def _in_one_step(path: Path, only_new: bool = False) -> Iterator[BinaryIO]:
    """Write a file under another name, then put it in place.

    Raises:
        FileExistsError: it was to be new, and is there.
    """
    partial = path.with_name(f"{path.name[:100]}.{os.getpid()}-{os.urandom(3).hex()}{PARTIAL}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if only_new:
            os.link(partial, path)
        else:
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn the system's errors into ours; that a new file is there already is for the caller to see."""
    try:
        yield
    except FileExistsError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingDataError(f"{what}: {error.strerror or error}") from error
    except OSError as error:
        raise DataError(f"{what}: {error.strerror or error}") from error


def _plain(path: Path) -> BinaryIO:
    """A file, open for reading; nobody may ever write to a pipe that lies in its place.

    Raises:
        MissingDataError: what lies there is no plain file.
        OSError: it cannot be opened.
    """
    file = context.opened(path)
    if file is None:
        raise MissingDataError(f"cannot read {path}: it is no plain file")
    return file


def free_bytes(folder: Path) -> int:
    """The space that is left where a folder lies."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
