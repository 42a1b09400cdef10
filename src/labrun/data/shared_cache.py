"""Data shared by several runs: read once in the process that the runs are forked from, and inherited in memory.

Only data sets whose reader allows it (`Reader.may_be_held`) and whose files are local and small enough are held. A run
uses held data only if every file still has the same stamp (see `FileStamp`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labrun._io import FileStamp
from labrun.config import exact
from labrun.config.schema import DatasetSettings
from labrun.data.memory import Reading

if TYPE_CHECKING:  # a script reads nothing, and needs no NumPy
    from labrun.config.instantiate import Node
    from labrun.data.arrays import Arrays
    from labrun.data.digests import Entry
    from labrun.data.memory import Limit
    from labrun.data.readers.columns import KnownTable

HELD_BYTES = 512 * 2**20
"""Limit on held data, for the files and for the arrays; the oldest data are dropped first."""

SHARED = "read once for all runs of the sweep"
"""Recorded reason why held data are in memory."""


@dataclass(frozen=True)
class _Held:
    arrays: Arrays
    manifest: list[Entry]
    stamps: dict[str, FileStamp]

    @property
    def bytes(self) -> int:
        from labrun.data.arrays import Part

        parts = (self.arrays.train, self.arrays.validation, self.arrays.test)
        return sum(part.x.nbytes + part.y.nbytes for part in parts if isinstance(part, Part))


_held: dict[str, _Held] = {}


def hold(dataset: Node, root: Path) -> bool:
    """Read a data set for later runs; return whether it is now held.

    Raises:
        DataError, ConfigError: as `reader.read`; each run that needs the data will raise it again.
    """
    from labrun.data import reader

    made = reader.make_reader(dataset)
    if not made.may_be_held or DatasetSettings.of(dataset).in_memory is False or not made.find(root):
        return False
    stamps = _stamps(made.files(root))
    if max(sum(stamp.size for stamp in stamps.values()), made.needed(root) or 0) > HELD_BYTES:
        return False
    arrays = reader.read(dataset, root)
    found = _Held(arrays, reader.manifest(arrays.files), _stamps(arrays.files))
    if found.stamps != stamps:  # files changed while reading, or `files` listed others
        return False
    _held[_key(dataset, root)] = found
    while sum(one.bytes for one in _held.values()) > HELD_BYTES:
        del _held[next(iter(_held))]
    return _key(dataset, root) in _held


def is_held(dataset: Node, root: Path) -> bool:
    """Return whether a data set is held in memory."""
    return _key(dataset, root) in _held


def is_empty() -> bool:
    """Return whether nothing is held."""
    return not _held


def read(
    dataset: Node,
    root: Path,
    tables: bool = False,
    sparse: bool = False,
    known: KnownTable | None = None,
    limit: Limit | None = None,
) -> tuple[Arrays, list[Entry]]:
    """Return a data set and its manifest, from memory if held, otherwise read now.

    Args: as `reader.read`.

    Raises:
        DataError, ConfigError: see `reader.read`.
    """
    from labrun.data import reader

    held = _held.get(_key(dataset, root))
    if held is not None and known is None and _are_unchanged(held.stamps):
        if limit is not None and "in_memory" in dataset:
            return replace(held.arrays, reading=Reading(True, SHARED)), held.manifest
        return held.arrays, held.manifest
    arrays = reader.read(dataset, root, tables, sparse, known, limit)
    return arrays, reader.manifest(arrays.files)


def _key(dataset: Node, root: Path) -> str:
    return exact.canonical([dataset, str(root)])


def _stamps(files: Iterable[str | Path]) -> dict[str, FileStamp]:
    return {str(path): FileStamp.of(path) for path in files}


def _are_unchanged(stamps: dict[str, FileStamp]) -> bool:
    try:
        return _stamps(stamps) == stamps
    except OSError:
        return False
