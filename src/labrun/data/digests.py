"""Cached SHA-256 of local files: a file whose size, times and inode are unchanged has the same content.

A file that was modified just before it was read is not cached: a second change within the same tick of the file
system's clock would go unnoticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labrun._io import atomic_write, file_sha256
from labrun.runs import store

TRUSTED_AGE_NS = 2 * 10**9
"""Age from which a file's stamp tells any later change; digests of newer files are not cached."""
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
        name, now = str(path), stamp(path)
        entry = known.get(name)
        if entry is None or entry[:-1] != now:
            read_at = time.time_ns()
            entry = [*now, file_sha256(path)]
            if stamp(path) == now and read_at - int(now[1]) > TRUSTED_AGE_NS:
                new[name] = entry
        return str(entry[-1])

    try:
        yield digest
    finally:
        if new and memory is not None and len(files) <= LIMIT:
            _save(memory, {**known, **new})


def stamp(path: Path) -> list[int | str]:
    """Return the values that reveal a change of the file: size, times, inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


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
