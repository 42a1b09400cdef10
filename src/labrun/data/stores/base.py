"""A datastore: the place where data lie. What every kind of them promises.

- Names of files are relative to the datastore's root, with `/` between their parts. A name that is absolute or climbs
  with `..` is refused.
- Under its final name a file is whole or absent, also after kill -9. A file that is being written has a name that ends
  in `PARTIAL`, or none at all.
- A file that was to be new is never put over another one, whoever sends at the same time. Where a kind can only look
  before it writes, its class says so.
- A listing is never an old one. It leaves out `PARTIAL` files and the folder `STATE`.
- A file's token changes when its content does, where the place has something of the kind.
- Methods may be called from several threads at a time.
- What a library raises arrives as a `DataError`; no message holds a secret.

`tests/storage/test_contract.py` holds each kind that can be written against this, on a real server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from labrun.errors import ConfigError

CHUNK_BYTES = 8 * 2**20
"""How much of a file is in memory at a time."""
PARTIAL = ".labrun-part"
"""How the name of a file that is being written ends; such files are in no listing."""
STATE = ".labrun"
"""The folder below a datastore's root where its assets are registered; in no listing."""

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
        name: how the user calls it.
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


def is_inside(name: str) -> bool:
    """Whether a name stays inside of a datastore: other places list what anybody has put there."""
    return not (name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts or "\0" in name)


def clean(name: str) -> str:
    """A name as it is used: no slash at its ends, no empty parts.

    Raises:
        ConfigError: it is absolute, or climbs out of the datastore.
    """
    if not is_inside(name):
        raise ConfigError(
            f"{name!r} is not a name inside a datastore: it must be relative, and must not climb with '..'"
        )
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def copy(source: BinaryIO, target: BinaryIO, heard: ProgressCallback) -> None:
    """Copy an open file chunk by chunk."""
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        heard(len(chunk))
