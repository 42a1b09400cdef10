"""Synchronization of remote runs' tags, notes and properties: each side has the lines of both (`annotations.jsonl`).

Lines are only appended, and each has a time. The two files are therefore equal in content once each has received the
other's lines; a line that is sent twice is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from labrun._io import append_line
from labrun.remote import links
from labrun.remote.links import Link
from labrun.runs import context
from labrun.runs.record import Record, read_record


def unsent(folder: Path, link: Link, runs: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return local annotations that were not forwarded yet.

    Returns:
        The lines by run; and the size of each file, for `Link.said`.
    """
    found, sizes = {}, {}
    for run in runs:
        lines, size = _lines(folder / run, link.said.get(run, 0))
        if lines:
            found[run], sizes[run] = lines, size
    return found, sizes


def _lines(run_dir: Path, known: int) -> tuple[list[str], int]:
    path = run_dir / context.ANNOTATIONS_FILE
    try:
        if path.stat().st_size == known:
            return [], known
        raw = context.content(path)
    except OSError:
        return [], 0
    return [line for line in raw.decode(errors="replace").splitlines() if line.strip()], len(raw)


def take(run_dir: Path, run: str, link: Link, raw: bytes) -> None:
    """Append remote annotations to the local ones."""
    known, size = _lines(run_dir, -1)
    was_sent = link.said.get(run, 0) == size
    have = set(known)
    for line in raw.decode(errors="replace").splitlines():
        if line.strip() and line not in have:
            append_line(run_dir / context.ANNOTATIONS_FILE, line)
    if was_sent:
        link.said[run] = _lines(run_dir, -1)[1]


def owe(pairs: Sequence[tuple[Path, Record]]) -> bool:
    """Make the next poll of remote machines forward new annotations. Return whether any of the runs is remote."""
    folders = {folder for run_dir, record in pairs if (folder := links.folder_of(run_dir, record)) is not None}
    for folder in folders:
        if not _is_over(folder):
            continue  # the process that mirrors it forwards them
        with links.locked(folder, wait=True):
            link = links.read(folder)
            if link is not None:
                link.owed = True
                links.write(folder, link)
    return bool(folders)


def owe_of(run_dirs: Iterable[Path]) -> None:
    """Like `owe`, for runs whose records were not read yet."""
    owe([(run_dir, read_record(run_dir)) for run_dir in run_dirs])


def _is_over(folder: Path) -> bool:
    link = links.read(folder)
    return link is not None and link.state == links.OVER
