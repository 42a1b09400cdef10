"""Cached SHA-256 of local files: a file whose inode, size and times are unchanged has the same content.

A digest is cached only if the stamp was old enough when the file was read (see `FileStamp`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labrun._io import FileStamp, file_sha256
from labrun.runs import store
from labrun.runs.json_cache import JsonCache
from labrun.runs.workspace import Workspace

LIMIT = 100_000
"""Maximum number of files cached per folder."""

FORMAT = 1
"""Version of the cached entries' layout."""


@dataclass(frozen=True)
class Entry:
    """A file of a data set or asset."""

    path: str
    """Relative to the data's folder."""
    size: int
    sha256: str


def manifest_digest(entries: Sequence[Entry]) -> str:
    """Return the digest of a manifest."""
    return hashlib.sha256(json.dumps([vars(entry) for entry in entries], sort_keys=True).encode()).hexdigest()


def of(files: Sequence[Path], afresh: bool = False) -> list[str]:
    """Return the SHA-256 of each file.

    Args:
        files: local files.
        afresh: ignore the cache and read every byte.

    Raises:
        OSError: a file cannot be read.
    """
    with remembered(files, afresh) as digest:
        return [digest(path) for path in files]


@contextlib.contextmanager
def remembered(files: Sequence[Path], afresh: bool = False) -> Iterator[Callable[[Path], str]]:
    """Provide a thread-safe function that returns the SHA-256 of each of these files; save new digests on exit.

    Args:
        files: see `of`.
        afresh: see `of`.
    """
    cache = _cache_of(files) if files else None
    known = {} if afresh or cache is None else cache.load()
    new: dict[str, list[int | str]] = {}

    def digest(path: Path) -> str:
        name, stamp = str(path), FileStamp.of(path)
        entry = known.get(name)
        if not isinstance(entry, list) or entry[:-1] != _cached(stamp):
            was_old_enough = stamp.is_old_enough()
            entry = [*_cached(stamp), file_sha256(path)]
            if was_old_enough and FileStamp.of(path) == stamp:
                new[name] = entry
        return str(entry[-1])

    try:
        yield digest
    finally:
        if new and cache is not None and len(files) <= LIMIT:
            cache.save({**known, **new})


def _cached(stamp: FileStamp) -> list[int | str]:
    """Return the part of a stamp that is cached: without the device, whose number can change with the next mount."""
    return [stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode]


def _cache_of(files: Sequence[Path]) -> JsonCache:
    folder = os.path.commonpath([str(path.parent) for path in files])
    key = hashlib.sha256(folder.encode()).hexdigest()[:24]
    return JsonCache(Workspace(store.workspace()).digests / f"{key}.json", FORMAT)
