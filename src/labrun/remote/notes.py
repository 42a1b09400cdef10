"""Tags, notes and properties of runs on another machine: each side has the lines of both (`annotations.jsonl`).

Lines are only ever added, and each names its time. So the two files are one once either has what it lacks of the other;
a line that was sent twice is there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from labrun._io import append_line
from labrun.remote import link as links
from labrun.remote.link import Link
from labrun.runs import context
from labrun.runs import record as records
from labrun.runs.record import Record


def unsent(folder: Path, link: Link, runs: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """What was said here of runs since it was passed on last.

    Returns:
        Lines, by run; and how long each file is, for `Link.said`.
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
    """Add what was said there."""
    known, size = _lines(run_dir, -1)
    was_sent = link.said.get(run, 0) == size
    have = set(known)
    for line in raw.decode(errors="replace").splitlines():
        if line.strip() and line not in have:
            append_line(run_dir / context.ANNOTATIONS_FILE, line)
    if was_sent:
        link.said[run] = _lines(run_dir, -1)[1]


def owe(pairs: Sequence[tuple[Path, Record]]) -> bool:
    """Have the next look at other machines pass on what was just said of runs; whether any lies on one."""
    folders = {folder for run_dir, record in pairs if (folder := links.folder_of(run_dir, record)) is not None}
    for folder in folders:
        if not _is_over(folder):
            continue  # who brings its news passes it on
        with links.locked(folder, wait=True):
            link = links.read(folder)
            if link is not None:
                link.owed = True
                links.write(folder, link)
    return bool(folders)


def owe_of(run_dirs: Iterable[Path]) -> None:
    """As `owe`, of runs whose records were not read yet."""
    owe([(run_dir, records.read(run_dir)) for run_dir in run_dirs])


def _is_over(folder: Path) -> bool:
    link = links.read(folder)
    return link is not None and link.state == links.OVER
