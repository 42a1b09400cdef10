"""The backends by name: labrun's own, and those that installed packages bring (entry points `labrun.backends`)."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from labrun import checking
from labrun.backends.base import Backend
from labrun.backends.machine import DEFAULTS
from labrun.config import paths
from labrun.errors import ConfigError
from labrun.schema import SPECIAL

GROUP = "labrun.backends"
OWN = {
    "inline": "labrun.backends.inline:Inline",
    "local": "labrun.backends.local.backend:Local",
    "slurm": "labrun.backends.slurm.backend:Slurm",
}


@functools.cache
def _others() -> dict[str, metadata.EntryPoint]:
    """Those of installed packages; looked up only where a name is none of ours."""
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """Every backend's name."""
    return [*OWN, *sorted(set(_others()) - set(OWN))]


@functools.cache
def get(name: str) -> Backend:
    """The backend of that name.

    Raises:
        ConfigError: there is none, or its package cannot be imported.
    """
    if name in OWN:
        module, _, attribute = OWN[name].partition(":")
        backend: type[Backend] = getattr(importlib.import_module(module), attribute)
        return backend()
    if name not in _others():
        raise ConfigError(
            f"compute.target={name!r}: expected one of auto, {', '.join(names())}.{checking.suggest(name, names())}"
        )
    try:
        loaded = _others()[name].load()
    except Exception as error:
        raise ConfigError(f"compute.target={name!r}: its package fails: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise ConfigError(
            f"compute.target={name!r}: {_others()[name].value} is no class of labrun.backends.base.Backend"
        )
    return loaded()


def chosen(compute: Mapping[str, Any], sweep: bool) -> Backend:
    """The backend that runs go to; `auto` is this process for one run, the pool where it takes a supervisor.

    Raises:
        ConfigError: see `get`.
    """
    name = str(compute["target"])
    if name != "auto":
        return get(name)
    from labrun.backends.inline import SUPERVISED

    held = any(compute[key] != getattr(DEFAULTS, key) for key in SUPERVISED)
    return get("local" if sweep or held else "inline")


def check(compute: Mapping[str, Any], sweep: bool) -> None:
    """Whether what a run asks for can be had.

    Raises:
        ConfigError: it cannot; the message says what is there.
    """
    backend = chosen(compute, sweep)
    problems = list(backend.problems(compute))
    for key in SPECIAL:
        if key not in backend.settings and compute[key] != getattr(DEFAULTS, key):
            problems.append(f"compute.{key}={compute[key]}: only {_who_knows(key)} know it")
    if compute["gpus_per_run"] > 1 and compute["runs_per_gpu"] > 1:
        problems.append(f"compute.runs_per_gpu={compute['runs_per_gpu']}: runs of more than one GPU do not share them")
    python = compute["python"]
    if python is not None and backend.supervises:
        if not shutil.which(python):
            problems.append(f"compute.python={python!r}: there is no such program")
        elif not _has_labrun(python):
            problems.append(
                f"compute.python={python!r} has no labrun, which carries out the runs there: install labrun with that "
                "interpreter's pip"
            )
    if problems:
        raise ConfigError(problems)


def _who_knows(key: str) -> str:
    """The choices of `compute=` whose backend knows a key."""
    targets = {name: str(paths.option("compute", name).get("target")) for name in paths.groups().get("compute", {})}
    knowing = [f"compute={name}" for name, target in targets.items() if target in OWN and key in get(target).settings]
    return " and ".join(knowing)


def _has_labrun(python: str) -> bool:
    """Whether an interpreter finds labrun: among its packages, or in the code of the working folder."""
    found = "import importlib.util as u, sys; sys.exit(u.find_spec('labrun') is None)"
    where = os.pathsep.join(filter(None, [os.getcwd(), os.path.join(os.getcwd(), "src"), os.environ.get("PYTHONPATH")]))
    try:
        answer = subprocess.run(
            [python, "-c", found], env={**os.environ, "PYTHONPATH": where}, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def of_job(job: Mapping[str, Any] | None) -> Backend | None:
    """The backend that a run's job belongs to (`Record.job`); None: it has none, or its package is not here."""
    try:
        return None if job is None else get(str(job.get("cluster")))
    except ConfigError:
        return None


def all_known() -> Iterable[Backend]:
    """Every backend that can be imported."""
    for name in names():
        try:
            yield get(name)
        except ConfigError:  # it is told where somebody names it
            continue
