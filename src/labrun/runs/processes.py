"""What a process and all that it started use of the processor and the memory, as Linux tells it in `/proc`.

Standard library alone: whoever measures may be a bare interpreter (`sidecar.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

PROC = "/proc"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Stat:
    """A process, by its line in `/proc/<pid>/stat`."""

    parent: int
    cpu_s: float
    """Processor time, with that of its children that have ended and were waited for."""
    start: int
    """When it began: tells it from another that has its number later."""
    resident: int
    """Bytes of memory."""


@dataclass(frozen=True)
class Usage:
    """What a process tree uses."""

    cpu_s: float
    """Since each process of it began, with those that have ended."""
    memory: int
    """Resident bytes. Pages that processes share count in each of them."""


def stat(pid: int) -> Stat | None:
    """A process; None where there is none of that number (any more), or nothing that tells."""
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        times = sum(int(field) for field in fields[11:15])
        return Stat(int(fields[1]), times / TICKS, int(fields[19]), int(fields[21]) * PAGE)
    except (OSError, ValueError, IndexError):
        return None


def tree(root: int, without: int | None = None) -> Iterator[int]:
    """A process and its descendants.

    Args:
        root: the process.
        without: a child that is left out, with its own.
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
    except (OSError, ValueError):  # it has just ended
        pass
    return found


def _tree_of_all(root: int, without: int | None) -> Iterator[int]:
    """As `tree`, where the kernel lists no children: from the parents of all processes."""
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
    """What a process tree uses now; None where its first process has ended.

    Args:
        root: the first process.
        start: when it began (`Stat.start`).
        without: see `tree`.
    """
    found = [own for pid in tree(root, without) if (own := stat(pid)) is not None]
    if not found or found[0].start != start:
        return None
    return Usage(sum(own.cpu_s for own in found), sum(own.resident for own in found))


def has_open(root: int, prefix: str, without: int | None = None) -> bool:
    """Whether a process of the tree has a file open whose path begins so."""
    for pid in tree(root, without):
        try:
            for name in os.listdir(f"{PROC}/{pid}/fd"):
                if os.readlink(f"{PROC}/{pid}/fd/{name}").startswith(prefix):
                    return True
        except OSError:  # it has ended, or closed the file, or is another user's
            continue
    return False
