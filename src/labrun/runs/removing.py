"""Removes runs: only runs of this workspace, and only if nothing else needs them.

A run's folder is first renamed, so that readers never see a partly removed run. If the removal is killed, the next
clean-up removes the renamed folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labrun.errors import RecordError
from labrun.runs import context, custom_locations, index, store
from labrun.runs.groups import Code, ScriptCode
from labrun.runs.record import PREEMPTED, QUEUED, RUNNING, UNREACHABLE, Record, is_scoring, sweep_folder
from labrun.runs.status import Status
from labrun.runs.workspace import Workspace

REMOVED = ".removed-"
LIVE = frozenset({QUEUED, RUNNING, PREEMPTED, UNREACHABLE})
UNUSED_S = 3600.0
"""A code snapshot used within this time may belong to a run whose submission is in progress, seconds."""


@dataclass(frozen=True)
class Reason:
    """Reason to keep a run."""

    run: Record
    text: str
    forceable: bool = True


def reasons(
    root: Path,
    chosen: Sequence[tuple[Path, Record]],
    shown: Callable[[Path, Record], Status],
    registered: Mapping[str, Sequence[str]],
    has_controller: Callable[[Path], bool],
) -> dict[Path, Reason]:
    """Return the reasons for which some of the chosen runs must not be removed.

    Args:
        root: the workspace.
        chosen: the runs to remove.
        shown: returns a run's displayed status.
        registered: model versions registered from a run, by its ID.
        has_controller: returns whether a sweep's folder has an active controller, which needs its runs.
    """
    leaving = {record.id for _, record in chosen}
    children: dict[str, list[str]] = {}
    for _, record in store.listing(root).runs:
        if record.parent and not is_scoring(record.task) and record.id not in leaving:
            children.setdefault(record.parent, []).append(record.id)
    found = {}
    for run_dir, record in chosen:
        status = shown(run_dir, record)
        sweep_dir = sweep_folder(run_dir, record) or run_dir.parent
        if not is_ours(root, run_dir):
            where = f"{root}/outputs or {root}/multirun, without links, nor one of your choice that holds nothing else"
            found[run_dir] = Reason(record, f"{run_dir} is neither a run's folder below {where}", False)
        elif status in LIVE:
            found[run_dir] = Reason(record, f"it is {status}: lab runs cancel {record.id}")
        elif record.sweep is not None and has_controller(sweep_dir):
            found[run_dir] = Reason(record, f"its sweep is still running: lab runs watch {sweep_dir}")
        elif record.id in registered:
            found[run_dir] = Reason(record, f"it is registered as {', '.join(registered[record.id])}")
        elif record.id in children:
            found[run_dir] = Reason(record, f"run {', '.join(children[record.id])} resumed it")
    return found


def is_ours(root: Path, run_dir: Path) -> bool:
    """Return whether a folder is at a standard location for runs, reached without links, and holds a record.

    A folder that the user chose must also contain nothing but the run.
    """
    inside = Path(os.path.abspath(run_dir))
    top = Path(os.path.realpath(root))
    if not inside.is_relative_to(top) or Path(os.path.realpath(inside)) != inside:
        return False
    parts = inside.relative_to(top).parts
    record = inside / "run.json"
    usual = custom_locations.is_usual(parts) or custom_locations.is_alone(top, inside)
    return usual and record.is_file() and not record.is_symlink()


def remove(root: Path, run_dir: Path) -> None:
    """Remove a run's folder, and the folders of its sweep and experiment if they are then empty.

    Raises:
        RecordError: the folder is not that of a run in this workspace, or cannot be removed.
    """
    if not is_ours(root, run_dir):
        raise RecordError(f"{run_dir} is not a run's folder below {root}/outputs or {root}/multirun")
    parent = run_dir.parent
    chosen = run_dir in set(custom_locations.run_dirs(root))
    _remove_folder(run_dir)
    if chosen:  # its parent folders belong to the user
        return
    if parent.parent.parent.name == "multirun" and not any(parent.glob("*/run.json")):
        _remove_folder(parent)
        parent = parent.parent
    if not any(parent.iterdir()):
        parent.rmdir()


def note(root: Path, gone: Sequence[tuple[str, Path]]) -> None:
    """Note removed runs, so that other views of them can be updated: see `noted`.

    Args:
        root: the workspace.
        gone: ID and folder of each run.
    """
    lines = "".join(json.dumps({"id": run_id, "folder": str(folder)}) + "\n" for run_id, folder in gone)
    with contextlib.suppress(OSError), open(_notes(root), "ab") as file:  # the removal itself has succeeded
        file.write(lines.encode())


def noted(root: Path, offset: int) -> tuple[list[tuple[str, str]], int]:
    """Return the ID and folder of each run removed since the last call, and the new offset into the notes.

    Args:
        root: the workspace.
        offset: the offset that the last call returned.
    """
    try:
        data = context.content(_notes(root))[offset:]
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    found = []
    for text in whole.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            line = json.loads(text)
            found.append((str(line["id"]), str(line["folder"])))
    return found, offset + len(whole)


def _notes(root: Path) -> Path:
    return Workspace(root).removed


def _remove_folder(folder: Path) -> None:
    away = folder.with_name(f"{REMOVED}{folder.name}-{os.getpid()}")
    try:
        folder.rename(away)
        shutil.rmtree(away)
    except OSError as error:
        raise RecordError(f"cannot remove {folder}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing refers to any more."""

    path: Path
    what: str
    size: int


def garbage(root: Path, found: index.Listing, leaving: Sequence[Path] = ()) -> list[Garbage]:
    """Find garbage: leftovers of removals and imports, and code snapshots and environments that no run refers to.

    Args:
        root: the workspace.
        found: its runs.
        leaving: runs that are about to be removed.
    """
    from labrun.runs import archive_import

    rests = [path for path in _rests(root) if path.is_dir() and not path.is_symlink()]
    listed = [Garbage(path, "left over from a removal", folder_size(path)) for path in rests]
    listed += [Garbage(path, "left over from an import", folder_size(path)) for path in archive_import.left(root)]
    if found.damaged:
        return listed  # a damaged record may refer to any of the rest
    kept: set[str] = set()
    for run_dir, record in found.runs:
        if run_dir not in leaving:
            code = record.code or Code()
            kept |= {str(code.digest), str(code.environment)}
            kept.add(str((code.script or ScriptCode()).digest))
    workspace = Workspace(root)
    unused = ((workspace.code, "code that no run uses"), (workspace.environments, "an environment that no run uses"))
    for folder, what in unused:
        for path in sorted(folder.glob("*")):
            if path.is_dir() and path.name not in kept and time.time() - path.stat().st_mtime > UNUSED_S:
                listed.append(Garbage(path, what, folder_size(path)))
    return listed


def _rests(root: Path) -> Iterator[Path]:
    for pattern in (f"outputs/*/{REMOVED}*", f"multirun/*/{REMOVED}*", f"multirun/*/*/{REMOVED}*"):
        yield from root.glob(pattern)
    # Also next to runs in a folder that the user chose, but never outside it because of a plan, which others may have
    # written.
    for noted in custom_locations.noted(root):
        parents = {run_dir.parent for run_dir in custom_locations.runs_in(noted) if run_dir.is_relative_to(noted)}
        for parent in parents | ({noted.parent} if os.path.isfile(noted / "run.json") else set()):
            yield from parent.glob(f"{REMOVED}*")


def folder_size(folder: Path) -> int:
    """Return the total size of a folder's files in bytes."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_size
            except OSError:
                continue
    return total


def remove_garbage(item: Garbage) -> None:
    """Remove garbage.

    Raises:
        RecordError: the folder cannot be removed.
    """
    if REMOVED in item.path.name:
        shutil.rmtree(item.path, ignore_errors=True)
    else:
        _remove_folder(item.path)
