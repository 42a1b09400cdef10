"""Uploads to and downloads from a datastore, with the SDK's progress lines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from labrun.data import transfer
from labrun.data.stores.base import Datastore as Store
from labrun.data.stores.base import FileInfo, ProgressCallback
from labrun.data.stores.local import LocalDatastore
from labrun.data.transfer import Item


class _Lines:
    """Prints the SDK's progress lines.

    Args:
        verb: `Upload` or `Download`.
        locals: the local path per file name in the datastore.
        total: the number of files, including those that already exist.
        show: False: print nothing.
    """

    def __init__(self, verb: str, locals: Mapping[str, str], total: int, show: bool) -> None:
        self._verb, self._locals, self._total, self._show = verb, locals, total, show
        self._count = 0
        self._lock = threading.Lock()
        self._say(f"{verb}ing an estimated of {total} files")

    def _say(self, line: str) -> None:
        if self._show:
            print(line, flush=True)

    def begin(self, files: int, size: int) -> None:
        """Do nothing: the constructor printed the first line."""

    def advance(self, count: int) -> None:
        """Do nothing: only whole files are reported."""

    def skipped(self, name: str) -> None:
        """Report a file that already exists."""
        self._say(f"Target already exists. Skipping {self._verb.lower()} for {name}")

    def done(self, name: str, size: int) -> None:
        """Report a file that has been transferred."""
        with self._lock:
            self._count += 1
            path = self._locals[name]
            self._say(f"{self._verb}ing {path}")
            self._say(f"{self._verb}ed {path}, {self._count} files out of an estimated total of {self._total}")

    def end(self) -> None:
        """Report the number of transferred files."""
        self._say(f"{self._verb}ed {self._count} files")


def send_all(store: Store, files: Mapping[str, Path], overwrite: bool, show: bool) -> None:
    """Upload files.

    Args:
        store: the datastore.
        files: the local file for each name in the datastore.
        overwrite: replace existing files.
        show: print the SDK's progress lines.

    Raises:
        DataError: the datastore is not writable.
    """
    lines = _Lines("Upload", {name: str(path) for name, path in files.items()}, len(files), show)
    items = []
    for name, path in files.items():
        is_itself = isinstance(store, LocalDatastore) and store.path(name).exists() and store.path(name).samefile(path)
        if is_itself or (not overwrite and store.find(name) is not None):
            lines.skipped(name)
        else:
            items.append(Item(name, path, path.stat().st_size))

    def send(item: Item, on_progress: ProgressCallback) -> None:
        store.send(item.local, item.name, on_progress)

    transfer.transfer_all(store, items, send, lines)
    lines.end()


def fetch_all(store: Store, files: Mapping[str, FileInfo], target: Path, overwrite: bool, show: bool) -> int:
    """Download files into a local folder, under their names.

    Args:
        store: the datastore.
        files: the files to download.
        target: the local folder.
        overwrite: replace existing files.
        show: print the SDK's progress lines.

    Returns:
        The number of downloaded files.

    Raises:
        DataError: the datastore cannot be read, or the local folder is not writable.
    """
    lines = _Lines("Download", {name: str(target / name) for name in files}, len(files), show)
    items = []
    for name, info in files.items():
        if (target / name).exists() and not overwrite:
            lines.skipped(str(target / name))
        else:
            items.append(Item(name, target / name, info.size))
    transfer.download(store, items, True, lines)
    lines.end()
    return len(items)
