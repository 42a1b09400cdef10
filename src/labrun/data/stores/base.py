"""The datastore interface: storage for data. Every implementation guarantees the following.

- File names are relative to the datastore's root, with `/` as separator. Absolute names and names with `..` are
  rejected.
- Under its final name a file is complete or absent, even after kill -9. While it is being written, its name ends in
  `PARTIAL`, or it has no name.
- `only_new` never overwrites an existing file, even under concurrent writes. A class that can only check before it
  writes says so.
- A listing is never stale. It omits `PARTIAL` files and the folder `STATE`.
- A file's token changes when its content does, if the storage offers one.
- Methods are thread-safe.
- Library errors are raised as `DataError`; no message contains a secret.

`tests/storage/test_contract.py` checks these guarantees for each writable kind, on a real server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from labrun.errors import ConfigError

CHUNK_BYTES = 8 * 2**20
"""Bytes of a file held in memory at a time."""
PARTIAL = ".labrun-part"
"""Suffix of files that are being written; listings omit them."""
STATE = ".labrun"
"""The folder below a datastore's root that holds the registered assets; listings omit it."""

ProgressCallback = Callable[[int], None]
"""Progress callback: bytes moved since the last call; may raise to abort."""


@dataclass(frozen=True)
class FileInfo:
    """A file of a datastore."""

    size: int
    token: str
    """Changes when the file does: an ETag, or time and inode. Empty if the storage offers nothing like it."""


class Datastore(ABC):
    """Storage that holds files.

    Args:
        name: the user's name for it.
        root: path within the storage that file names are relative to.
    """

    is_local = False
    is_read_only = False
    streams = 1
    """Maximum number of concurrent chunks per file, if the storage supports it."""

    def __init__(self, name: str, root: str) -> None:
        self.name, self.root = name, root

    def check_root(self) -> None:  # noqa: B027 - a missing folder counts as empty
        """Check that the datastore's root exists.

        Raises:
            MissingDataError: it does not.
        """

    @abstractmethod
    def files(self, folder: str = "") -> dict[str, FileInfo]:
        """Return every file below a folder, by name relative to the root; empty if there is no such folder.

        Raises:
            DataError: the storage cannot be reached, or denies access.
        """

    @abstractmethod
    def find(self, name: str) -> FileInfo | None:
        """Look up one file; None if it does not exist."""

    @abstractmethod
    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the direct entries of a folder; those of folders end with a slash."""

    @abstractmethod
    def send(self, source: Path, name: str, on_progress: ProgressCallback, only_new: bool = False) -> FileInfo:
        """Upload a local file, replacing an existing one; return the stored file's `FileInfo`.

        Raises:
            FileExistsError: `only_new` is set and the file exists.
            DataError: it cannot be written.
        """

    @abstractmethod
    def fetch(self, name: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        """Write a file's content to an open local file.

        Raises:
            MissingDataError: the file does not exist.
            DataError: it cannot be read.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            MissingDataError: the file does not exist.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, only_new: bool = False) -> bool:
        """Write a small file atomically; return False if `only_new` is set and the file exists."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; do nothing if it does not exist."""

    @property
    def identity(self) -> str:
        """Equal for two datastores that hold the same files; contains no secret."""
        return f"{type(self).__name__}:{self.root}"


def is_inside(name: str) -> bool:
    """Return whether a name stays inside a datastore: listings may hold names that other tools created."""
    return not (name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts or "\0" in name)


def clean(name: str) -> str:
    """Normalise a name: no leading or trailing slash, no empty parts.

    Raises:
        ConfigError: it is absolute, or leads out of the datastore.
    """
    if not is_inside(name):
        raise ConfigError(f"{name!r} is not a name inside a datastore: it must be relative, without '..'")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def copy(source: BinaryIO, target: BinaryIO, on_progress: ProgressCallback) -> None:
    """Copy an open file chunk by chunk."""
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        on_progress(len(chunk))
