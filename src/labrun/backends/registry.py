"""Backends by name: labrun's own, and those of installed packages (entry points `labrun.backends`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

from labrun.backends.base import Backend
from labrun.backends.this_machine import DEFAULTS
from labrun.compose import paths
from labrun.config.schema import SPECIAL, Compute
from labrun.errors import ConfigError
from labrun.plugins import BACKENDS, IN_PROCESS, POOL
from labrun.runs.attempts import Job

names, values, forget = BACKENDS.names, BACKENDS.values, BACKENDS.forget


def get(name: str, key: str | None = None) -> Backend:
    """Return the backend with this name.

    Args:
        name: the name.
        key: the key that holds it, for messages; None: `compute.target`.

    Raises:
        ConfigError: there is no such backend, or its package cannot be used.
    """
    backend: Backend = BACKENDS.get(name, key)
    return backend


def all_known() -> Iterator[Backend]:
    """Yield every backend whose package can be used."""
    yield from BACKENDS.all_known()


def with_programs() -> Iterator[tuple[str, Backend]]:
    """Yield the backends that need a program on the PATH of their machines, each with that program."""
    yield from ((backend.program, backend) for backend in all_known() if backend.program is not None)


def chosen(compute: Compute, sweep: bool) -> Backend:
    """Return the backend that executes the runs.

    `auto` selects this process for a single run, and the local pool for a sweep or if the settings need a supervisor.
    With `compute.host` it is the remote backend; the controller on that machine then chooses among the backends there.

    Raises:
        ConfigError: see `get`.
    """
    if compute.host is not None:
        return get("remote")
    name = compute.target
    if name != "auto":
        return get(name, compute.key("target"))
    from labrun.backends.inline import SUPERVISED

    held = any(getattr(compute, key) != getattr(DEFAULTS, key) for key in (*SUPERVISED, "tasks_per_node"))
    return get(POOL if sweep or held else IN_PROCESS)


def unattended(compute: Compute, sweep: bool) -> Backend:
    """Return the backend of runs that are started where no user is at a terminal: the pool instead of this process.

    `local.server.serves` says without imports whether it is the pool.

    Raises:
        ConfigError: see `get`.
    """
    backend = chosen(compute, sweep)
    return get(POOL) if backend.in_process else backend


def may_be_in_process(target: str) -> bool:
    """Return whether a run with this `compute.target` may stay in the process that composes it."""
    try:
        return target == "auto" or get(target).in_process
    except ConfigError:  # its package is no longer installed
        return False


def choices(compute: Compute, fits: Callable[[Backend], bool]) -> list[str]:
    """Return the choices of `compute=` that name a suitable backend, as the user writes them."""
    targets = {name: paths.option("compute", name).get("target") for name in paths.groups().get("compute", {})}
    backends = {name: BACKENDS.find(target) for name, target in targets.items()}
    suitable = [name for name, backend in backends.items() if backend is not None and fits(backend)]
    return list(dict.fromkeys(compute.choice(name, str(targets[name])) for name in suitable))


def check(compute: Compute, sweep: bool) -> None:
    """Check that the requested resources are available.

    Raises:
        ConfigError: they are not; the message says what is available.
    """
    backend = chosen(compute, sweep)
    problems = list(backend.problems(compute))
    for key in SPECIAL:
        if key not in backend.settings and getattr(compute, key) != getattr(DEFAULTS, key):
            problems.append(f"{compute.key(key)}={getattr(compute, key)}: {_who_knows(compute, key)}")
    if compute.gpus_per_run > 1 and compute.runs_per_gpu > 1:
        problems.append(
            f"{compute.key('runs_per_gpu')}={compute.runs_per_gpu}: runs of more than one GPU do not share them"
        )
    if compute.tasks_per_node > compute.gpus_per_run > 0:
        problems.append(
            f"{compute.key('tasks_per_node')}={compute.tasks_per_node}, "
            f"{compute.key('gpus_per_run')}={compute.gpus_per_run}: each process of a run needs its own GPU; leave "
            "tasks_per_node out to get one process per GPU"
        )
    python = compute.python
    if python is not None and backend.supervises and not backend.is_remote:
        if not shutil.which(python):
            problems.append(f"{compute.key('python')}={python!r}: there is no such program")
        elif not _has_labrun(python):
            problems.append(
                f"{compute.key('python')}={python!r} has no labrun, which executes the runs: install it with that "
                "interpreter's pip"
            )
    if problems:
        raise ConfigError(problems)


def _who_knows(compute: Compute, key: str) -> str:
    """Say which choices of `compute=` have a backend that supports a key."""
    knowing = choices(compute, lambda backend: key in backend.settings)
    if not knowing:
        return f"no choice of {compute.choice()} supports it"
    return f"only {' and '.join(knowing)} support{'s' if len(knowing) == 1 else ''} it"


def _has_labrun(python: str) -> bool:
    """Return whether an interpreter finds labrun among its packages or in the code of the working folder."""
    found = "import importlib.util as u, sys; sys.exit(u.find_spec('labrun') is None)"
    where = os.pathsep.join(filter(None, [os.getcwd(), os.path.join(os.getcwd(), "src"), os.environ.get("PYTHONPATH")]))
    try:
        answer = subprocess.run(
            [python, "-c", found], env={**os.environ, "PYTHONPATH": where}, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def of_job(job: Job | None) -> Backend | None:
    """Return the backend of a run's job (`Record.job`); None if there is no job, or its package is not installed."""
    try:
        return None if job is None else get(str(job.cluster))
    except ConfigError:
        return None
