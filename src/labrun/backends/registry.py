"""The backends by name: labrun's own, and those that installed packages bring (entry points `labrun.backends`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from labrun.backends.base import Backend
from labrun.backends.machine import DEFAULTS
from labrun.config import paths
from labrun.errors import ConfigError
from labrun.plugins import Plugins
from labrun.schema import SPECIAL

_BACKENDS = Plugins(
    Backend,  # type: ignore[type-abstract]
    "labrun.backends",
    {
        "inline": "labrun.backends.inline:Inline",
        "local": "labrun.backends.local.backend:Local",
        "slurm": "labrun.backends.slurm.backend:Slurm",
    },
    key="compute.target",
    also=["auto"],
)
names, get, all_known, forget = _BACKENDS.names, _BACKENDS.get, _BACKENDS.all_known, _BACKENDS.forget


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
    knowing = [
        f"compute={name}" for name, target in targets.items() if target in names() and key in get(target).settings
    ]
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
