"""Diagnosis of a remote machine: what it has for runs, what they will use, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from labrun.backends import registry
from labrun.errors import ConfigError
from labrun.remote import environment
from labrun.remote.remotes import Facts, InterpreterFacts, Remote

LOW_GB = 12.0
"""Disk space for an environment with torch and its cache, in GB."""


def describe(facts: Facts) -> str:
    """Describe a machine in a few words."""
    gpus = f", {len(facts.gpus)} GPU{'s' * (len(facts.gpus) > 1)} ({', '.join(sorted(set(facts.gpus)))})"
    memory = f", {facts.memory_gb:.1f} GB of memory" if facts.memory_gb else ""
    programs = "".join(f", {name}" for name in sorted(facts.programs) if facts.has(name))
    return f"{facts.cores} cores{memory}{gpus if facts.gpus else ''}{programs}"


def report(remote: Remote, facts: Facts) -> tuple[list[str], bool]:
    """Return lines to print, and whether runs can be sent to the machine.

    Args:
        remote: the machine.
        facts: its facts from a full query just made.
    """
    problems = list(_problems(remote, facts))
    offers = list(_offers(facts))
    lines = [
        f"{remote.name} ({remote.address})",
        f"  machine   {facts.host}: {facts.system} {facts.machine}, {describe(facts)}",
        f"  folder    {remote.folder}, {facts.disk_gb:.1f} GB free",
        f"  helper    Python {facts.helper}",
        f"  runs      {_interpreter(remote, facts)}",
        f"  uv        {facts.uv or 'none; the local one is sent when needed'}",
        f"  GPUs      {', '.join(facts.gpus) or 'none'}",
        *(f"  {name:<9} {what}" for name, what, _ in offers),
    ]
    lines += [f"  missing   {problem}" for problem in problems]
    uses = ["", *(f"compute={name} " for name, _, is_usable in offers if is_usable)]
    lines += [] if problems else [f"  use       {', or '.join(f'{use}compute.host={remote.name}' for use in uses)}"]
    return lines, not problems


def _interpreter(remote: Remote, facts: Facts) -> str:
    interpreter = facts.python
    if remote.python is None:
        return f"an environment with the local packages, Python {sys.version_info.major}.{sys.version_info.minor}"
    if not isinstance(interpreter, InterpreterFacts):
        return f"{remote.python}, which cannot be used"
    differing = environment.differences(interpreter.packages)
    other = f", other versions: {', '.join(differing)}" if differing else ""
    return f"{remote.python}, Python {interpreter.version}{other}"


def _offers(facts: Facts) -> Iterator[tuple[str, str, bool]]:
    """Yield the backends that need a program: the name, what the machine has for it, and whether runs can use it."""
    for program, backend in registry.with_programs():
        path, output = facts.programs.get(program), facts.surveys.get(backend.name)
        if path is None:
            yield backend.name, "none", False
        elif not backend.survey:
            yield backend.name, path, True
        elif output is None:
            yield backend.name, f"{program} exists, but {backend.survey[0]} fails", False
        else:
            yield backend.name, backend.describe_survey(output), True


def _problems(remote: Remote, facts: Facts) -> Iterator[str]:
    interpreter = facts.python
    if remote.python is not None:
        if not isinstance(interpreter, InterpreterFacts):
            add = f"lab remote add {remote.name} {remote.address} --python PATH"
            yield f"an interpreter: {interpreter}. Another one: {add}"
        elif lacking := environment.differences(interpreter.packages, only_missing=True):
            yield f"in {remote.python}: {', '.join(lacking)}. Install them there"
        return
    try:
        environment.check_platform(remote.name, facts)
        environment.required_packages()
    except ConfigError as error:
        yield str(error)
    if not facts.uv and environment.local_uv() is None:
        yield "uv: neither there nor here. Install it there: curl -LsSf https://astral.sh/uv/install.sh | sh"
    if facts.disk_gb < LOW_GB:
        add = f"lab remote add {remote.name} {remote.address} --folder PATH"
        yield f"disk space: torch and its cache take up to {LOW_GB:.0f} GB. Another folder: {add}"
