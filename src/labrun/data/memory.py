"""The rule that decides whether a data set is held in memory or streamed from disk, and the limits it uses.

The rule looks at memory limits, never at the memory that is free at the moment, so the same run on the same machine
always decides the same way.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labrun.config.schema import Compute
from labrun.messages import size_text
from labrun.runs import allocation, machine
from labrun.runs.groups import SampleReading

SHARE = 0.5
"""Largest share of a run's memory that arrays may take: splitting them holds two copies for a while."""
ENDLESS = 2**60
"""Some cgroups report a value above this where they set no limit."""
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Limit:
    """The memory that a run may use, and the source of the limit."""

    bytes: int
    why: str


@dataclass(frozen=True)
class Reading:
    """Whether samples are in memory, and why."""

    in_memory: bool
    why: str

    def recorded(self) -> SampleReading:
        """Return the form stored in a run's record."""
        return SampleReading(self.in_memory, self.why)


def limit(compute: Compute) -> Limit:
    """Return the tightest memory limit of one run on this machine.

    Concurrent runs share the limits of the machine, the cgroup and Slurm: a run's share equals its share of the cores.
    `compute.mem_gb` and the process limits (`ulimit -v`, `-d`) apply to the run alone.

    Args:
        compute: the run's `compute` config.
    """
    found = [Limit(round(one.bytes * _part(compute)), one.why) for one in _shared()]
    if compute.mem_gb:
        found.append(Limit(round(compute.mem_gb * 2**30), "compute.mem_gb"))
    for name, words in (("RLIMIT_AS", "ulimit -v"), ("RLIMIT_DATA", "ulimit -d")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            found.append(Limit(soft, words))
    return min(found, key=lambda one: one.bytes)


def decide(setting: bool | str, needed: int, limit: Limit) -> Reading:
    """Decide whether a data set is held in memory.

    Args:
        setting: `dataset.in_memory`.
        needed: size of its arrays, bytes.
        limit: memory limit of the run.
    """
    if isinstance(setting, bool):
        return Reading(setting, f"dataset.in_memory={str(setting).lower()}")
    most = round(limit.bytes * SHARE)
    allowed = f"the limit is {size_text(most)}, half of the run's memory ({limit.why})"
    return Reading(needed <= most, f"its arrays take {size_text(needed)}, and {allowed}")


def _part(compute: Compute) -> float:
    return min(1.0, compute.cpus_per_run / (allocation.cores() or machine.cores()))


def _shared() -> Iterator[Limit]:
    yield Limit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine's")
    yield from (Limit(found, "its cgroup's limit") for found in _of_cgroups() if found < ENDLESS)
    if (allocated := allocation.memory_bytes()) is not None:
        yield Limit(allocated, "Slurm's limit")


def _of_cgroups() -> Iterator[int]:
    """Yield the limits of this process's cgroups (versions 1 and 2), from its own up to the root."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, kinds, path = line.split(":", 2)
        if number != "0" and "memory" not in kinds.split(","):
            continue
        top, name = (GROUPS, "memory.max") if number == "0" else (GROUPS / "memory", "memory.limit_in_bytes")
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            try:
                text = (folder / name).read_text(encoding="utf-8").strip()
            except OSError:  # in a container the parent groups may be invisible
                text = ""
            if text.isdigit():
                yield int(text)
            if folder == top:
                break
