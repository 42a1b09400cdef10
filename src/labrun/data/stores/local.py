"""A datastore in a local folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from labrun._io import atomic_write, partial_of
from labrun.data.stores.base import PARTIAL, STATE, Datastore, FileInfo, ProgressCallback, clean, copy
from labrun.errors import DataError, MissingDataError
from labrun.runs import context


class LocalDatastore(Datastore):
    """A local folder."""

    is_local = True

    def __init__(self, name: str, root: str) -> None:
        super().__init__(name, str(Path(root).expanduser().resolve()))
        self.folder = Path(self.root)

    def path(self, name: str) -> Path:
        """Return the path of a file.

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

    def send(self, source: Path, name: str, on_progress: ProgressCallback, only_new: bool = False) -> FileInfo:
        path = self.path(name)
        with _translate_errors(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(source, "rb") as content, _arriving(path, only_new) as file:
                copy(content, file, on_progress)
        return _of(path)

    def fetch(self, name: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        with _translate_errors(f"cannot read {self.path(name)}"), _plain(self.path(name)) as content:
            copy(content, target, on_progress)

    def read(self, name: str) -> bytes:
        with _translate_errors(f"cannot read {self.path(name)}"), _plain(self.path(name)) as content:
            return content.read()

    def write(self, name: str, content: bytes, only_new: bool = False) -> bool:
        path = self.path(name)
        try:
            with _translate_errors(f"cannot write {path}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with _arriving(path, only_new) as file:
                    file.write(content)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        with _translate_errors(f"cannot remove {self.path(name)}"):
            self.path(name).unlink(missing_ok=True)
            for folder in self.path(name).parents:
                if folder == self.folder or any(folder.iterdir()):
                    break
                folder.rmdir()


def _leads_back(place: str, name: str) -> bool:
    """Return whether a folder is a link to one of its parents, which would make a walk endless."""
    path = os.path.join(place, name)
    return os.path.islink(path) and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(path))


def _of(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo(status.st_size, f"{status.st_mtime_ns}-{status.st_ino}")


def _arriving(path: Path, only_new: bool) -> AbstractContextManager[BinaryIO]:
    """Open a file that appears atomically; see `atomic_write`."""
    return atomic_write(path, to_disk=True, only_new=only_new, partial=partial_of(path, PARTIAL, prefix=""))


@contextlib.contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    """Translate OS errors into labrun's, except `FileExistsError`, which the caller handles."""
    try:
        yield
    except FileExistsError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise MissingDataError(f"{what}: {error.strerror or error}") from error
    except OSError as error:
        raise DataError(f"{what}: {error.strerror or error}") from error


def _plain(path: Path) -> BinaryIO:
    """Open a regular file for reading; opening a pipe in its place could block forever.

    Raises:
        MissingDataError: it is not a regular file.
        OSError: it cannot be opened.
    """
    file = context.opened(path)
    if file is None:
        raise MissingDataError(f"cannot read {path}: it is not a plain file")
    return file
