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

from labrun._io import FileStamp, atomic_write, file_sha256
from labrun.runs import store

LIMIT = 100_000
"""Maximum number of files cached per folder."""

Known = dict[str, list[int | str]]


@dataclass(frozen=True)
class Entry:
    """A file of a data set or asset."""

    path: str
    """Relative to the data's folder."""
    size: int
    sha256: str


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
    memory = _memory(files) if files else None
    known = {} if afresh or memory is None else _load(memory)
    new: Known = {}

    def digest(path: Path) -> str:
        name, stamp = str(path), FileStamp.of(path)
        entry = known.get(name)
        if entry is None or entry[:-1] != _cached(stamp):
            was_old_enough = stamp.is_old_enough()
            entry = [*_cached(stamp), file_sha256(path)]
            if was_old_enough and FileStamp.of(path) == stamp:
                new[name] = entry
        return str(entry[-1])

    try:
        yield digest
    finally:
        if new and memory is not None and len(files) <= LIMIT:
            _save(memory, {**known, **new})


def _cached(stamp: FileStamp) -> list[int | str]:
    """Return the part of a stamp that is cached: without the device, whose number can change with the next mount."""
    return [stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode]


def _memory(files: Sequence[Path]) -> Path:
    folder = os.path.commonpath([str(path.parent) for path in files])
    key = hashlib.sha256(folder.encode()).hexdigest()[:24]
    return store.state_folder(store.workspace()) / "digests" / f"{key}.json"


def _load(memory: Path) -> Known:
    try:
        content = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _save(memory: Path, known: Known) -> None:
    """Save the cache; if that fails, the digests are computed again next time."""
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(memory) as file:
            file.write(json.dumps(known).encode())
