"""Measures the processor time and memory of a process tree, from Linux's `/proc`.

Uses only the standard library, since it also runs in a bare interpreter (`sidecar.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

PROC = "/proc"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """A process, from `/proc/<pid>/stat`."""

    parent: int
    cpu_s: float
    """Processor time, including that of children that ended and were waited for."""
    start: int
    """Start time, in clock ticks since boot; distinguishes processes that reuse a PID."""
    resident: int
    """Resident memory, bytes."""


class Usage(NamedTuple):
    """Resource usage of a process tree."""

    cpu_s: float
    """Processor time since each process started, including ended ones, seconds."""
    memory: int
    """Resident memory, bytes. Shared pages count once per process."""


def stat(pid: int) -> Stat | None:
    """Return a process's statistics, or None if it does not exist (any more) or `/proc` cannot be read."""
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        times = sum(int(field) for field in fields[11:15])
        return Stat(int(fields[1]), times / TICKS, int(fields[19]), int(fields[21]) * PAGE)
    except (OSError, ValueError, IndexError):
        return None


def tree(root: int, without: int | None = None) -> Iterator[int]:
    """Yield the PIDs of a process and its descendants.

    Args:
        root: the process.
        without: a descendant to leave out, along with its own descendants.
    """
    if not os.path.exists(f"{PROC}/{root}/task/{root}/children"):
        yield from _tree_of_all(root, without)
        return
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid == root or pid != without:
            yield pid
            waiting += _children(pid)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"{PROC}/{pid}/task"):
            with open(f"{PROC}/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except (OSError, ValueError):  # the process has just ended
        pass
    return found


def _tree_of_all(root: int, without: int | None) -> Iterator[int]:
    """Do what `tree` does on kernels that list no children, using the parents of all processes."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(PROC):
        if name.isdecimal() and (found := stat(int(name))) is not None:
            children.setdefault(found.parent, []).append(int(name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid == root or pid != without:
            yield pid
            waiting += children.get(pid, [])


def usage(root: int, start: int, without: int | None = None) -> Usage | None:
    """Return the current usage of a process tree, or None if its root process has ended.

    Args:
        root: the root process.
        start: its start time (`Stat.start`).
        without: see `tree`.
    """
    found = [own for pid in tree(root, without) if (own := stat(pid)) is not None]
    if not found or found[0].start != start:
        return None
    return Usage(sum(own.cpu_s for own in found), sum(own.resident for own in found))


def has_open(root: int, prefix: str, without: int | None = None) -> bool:
    """Return whether a process of the tree has an open file whose path starts with `prefix`."""
    for pid in tree(root, without):
        try:
            for name in os.listdir(f"{PROC}/{pid}/fd"):
                if os.readlink(f"{PROC}/{pid}/fd/{name}").startswith(prefix):
                    return True
        except OSError:  # the process has ended, closed the file, or belongs to another user
            continue
    return False
