"""Index of a workspace's runs, which makes listing ten thousand of them take less than a second.

The index holds a copy of each record without its config, and the modification time, size and inode of the record's
file. It is only a cache: if it is lost, damaged or not writable, the records are read again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from labrun import garbage
from labrun.errors import RecordError
from labrun.runs import context, custom_locations
from labrun.runs.attempts import Failure
from labrun.runs.groups import Code, plain
from labrun.runs.json_cache import JsonCache
from labrun.runs.record import Record, parse_groups, read_record
from labrun.runs.workspace import Workspace

FORMAT = 1
LEFT_OUT = frozenset({"config", "hydra", "packages", "host", "git", "signature", "attempts", "model", "command"})
"""Fields that a listing does not need and that make records large."""
NOT_OF_DATA = frozenset({"input_shape", "class_names", "table", "notes", "reading"})
"""The same, of an entry of `data`."""
KEPT = tuple(f.name for f in fields(Record) if f.name not in LEFT_OUT)
FEW = 20
"""Up to this many changed records are reread on each listing instead of rewriting the index."""
Stamp = list[int]


@dataclass
class Listing:
    """The runs of a workspace in no particular order, with records that lack `LEFT_OUT` and `NOT_OF_DATA`."""

    runs: list[tuple[Path, Record]]
    damaged: list[tuple[Path, str]]
    """Folders with an unreadable record, and the reason."""


def listing(root: Path) -> Listing:
    """List every run of a workspace."""
    with garbage.gc_disabled():
        return _listing(root)


def _listing(root: Path) -> Listing:
    cache = JsonCache(Workspace(root).index, _version())
    known = cache.load()
    entries: dict[str, Any] = {}
    found = Listing([], [])
    top = f"{root}{os.sep}"
    changed = 0
    for run_dir, stamp in scan(root):
        name = run_dir.removeprefix(top)
        entry = known.get(name)
        record = _kept(entry) if entry is not None else None
        if entry is None or record is None or entry[0] != stamp:
            entry, changed = [stamp, *_read(Path(run_dir))], changed + 1
            record = _kept(entry)
        entries[name] = entry
        if isinstance(record, Record):
            found.runs.append((Path(run_dir), record))
        else:
            found.damaged.append((Path(run_dir), str(record)))
    if changed > FEW or len(known) - len(entries) > FEW or (changed and not known):
        cache.save(entries)
    return found


def scan(root: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield the folder of every run of a workspace, and a stamp that changes whenever its record does."""
    usual = {
        folder: None
        for top, depth in (("outputs", 2), ("multirun", 3))
        for folder in _folders(os.path.join(root, top), depth)
    }
    others = dict.fromkeys(map(str, custom_locations.run_dirs(root)))
    for top in ("outputs", "multirun") if others else ():  # noted folders are resolved paths
        link = os.path.join(root, top)
        if (real := os.path.realpath(link)) != link:
            others = {one: None for one in others if link + one.removeprefix(real) not in usual}
    for folder in [*usual, *(one for one in others if one not in usual)]:
        try:
            status = os.stat(f"{folder}/run.json")
        except OSError:
            continue
        stamp = [status.st_mtime_ns, status.st_size, status.st_ino]
        with contextlib.suppress(OSError):
            more = os.stat(f"{folder}/{context.ANNOTATIONS_FILE}")
            stamp += [more.st_mtime_ns, more.st_size]
        yield folder, stamp


def _folders(top: str, depth: int) -> Iterator[str]:
    """Yield the folders `depth` levels below `top`, without hidden ones and links."""
    try:
        with os.scandir(top) as entries:
            names = [e.path for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in names:
        if depth == 1:
            yield path
        else:
            yield from _folders(path, depth - 1)


def _read(run_dir: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        record = read_record(run_dir)
    except RecordError as error:
        return None, str(error)
    if record.finished:
        record.process = None
    if (code := record.code) is not None:
        record.code = Code(digest=code.digest, script=code.script, environment=code.environment)
    for entry in record.data:
        for name in NOT_OF_DATA:
            setattr(entry, name, None)
    if record.error is not None:
        record.error = Failure(record.error.type, record.reason)
    content = {name: value for name in KEPT if (value := plain(getattr(record, name))) not in (None, "", [], {})}
    return content, ""


def _kept(entry: Any) -> Record | str | None:
    """Return a run's record from its index entry, or why it is unreadable; None if the entry itself is damaged."""
    try:
        _, content, why = entry
        if content is None:
            return str(why)
        record = Record(config={}, **content)
        parse_groups(record)
        return record
    except (TypeError, ValueError):
        return None


def _version() -> list[Any]:
    """Return the format and the names of the record's fields, since labrun of another version may keep others."""
    return [FORMAT, *sorted(f.name for f in fields(Record))]
