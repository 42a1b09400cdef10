"""Diagnosis of a remote machine: what it has for runs, what they will use, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from labrun.errors import ConfigError
from labrun.remote import environment
from labrun.remote.remotes import Remote

LOW_GB = 12.0
"""Disk space for an environment with torch and its cache, in GB."""


def in_a_line(found: Mapping[str, Any]) -> str:
    """Describe a machine in a few words."""
    gpus = f", {len(found['gpus'])} GPU{'s' * (len(found['gpus']) > 1)} ({', '.join(sorted(set(found['gpus'])))})"
    memory = f", {found['memory_gb']:.1f} GB of memory" if found.get("memory_gb") else ""
    return f"{found['cores']} cores{memory}{gpus if found['gpus'] else ''}{', Slurm' if found['sbatch'] else ''}"


def report(remote: Remote) -> tuple[list[str], bool]:
    """Return lines to print, and whether runs can be sent to the machine.

    Args:
        remote: the machine, with facts from a query just made.
    """
    found, problems = remote.facts, list(_problems(remote))
    lines = [
        f"{remote.name} ({remote.address})",
        f"  machine   {found['host']}: {found['system']} {found['machine']}, {in_a_line(found)}",
        f"  folder    {remote.folder}, {found['disk_gb']:.1f} GB free",
        f"  helper    Python {found['helper']}",
        f"  runs      {_interpreter(remote)}",
        f"  uv        {found['uv'] or 'none; the local one is sent when needed'}",
        f"  GPUs      {', '.join(found['gpus']) or 'none'}",
        f"  Slurm     {_slurm(found)}",
    ]
    lines += [f"  missing   {problem}" for problem in problems]
    lines += [] if problems else [f"  use       compute.host={remote.name}{_slurm_use(remote)}"]
    return lines, not problems


def _interpreter(remote: Remote) -> str:
    there = remote.facts["python"]
    if remote.python is None:
        return f"an environment with the local packages, Python {sys.version_info.major}.{sys.version_info.minor}"
    if not isinstance(there, Mapping):
        return f"{remote.python}, which cannot be used"
    others = environment.differences(there["packages"])
    return f"{remote.python}, Python {there['version']}{', other versions: ' * bool(others)}{', '.join(others)}"


def _slurm(found: Mapping[str, Any]) -> str:
    if not found["sbatch"]:
        return "none"
    lines = [line.split() for line in (found.get("partitions") or "").splitlines()]
    names = [f"{line[0]} ({line[2]} nodes of {line[3]} cores)" for line in lines if len(line) > 3]
    return ", ".join(names) or "sbatch exists, but sinfo does not answer"


def _slurm_use(remote: Remote) -> str:
    return f", or compute=slurm compute.host={remote.name}" if remote.facts.get("partitions") else ""


def _problems(remote: Remote) -> Iterator[str]:
    found, there = remote.facts, remote.facts["python"]
    if remote.python is not None:
        if not isinstance(there, Mapping):
            yield f"an interpreter: {there}. Another one: lab remote add {remote.name} {remote.address} --python PATH"
        elif lacking := [text for text in environment.differences(there["packages"]) if " missing " in text]:
            yield f"in {remote.python}: {', '.join(lacking)}. Install them there"
        return
    try:
        environment.check_platform(remote.name, found)
        environment.present()
    except ConfigError as error:
        yield str(error)
    if not found["uv"] and environment.uv_here() is None:
        yield "uv: neither there nor here. Install it there: curl -LsSf https://astral.sh/uv/install.sh | sh"
    if found["disk_gb"] < LOW_GB:
        add = f"lab remote add {remote.name} {remote.address} --folder PATH"
        yield f"room: torch and its cache take up to {LOW_GB:.0f} GB. Elsewhere: {add}"
