"""Keeping the libraries to the threads that a run may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from labrun.schema import Compute
from labrun.tasks.threads import VARIABLES, number, set_variables


def limit_run(count: int, environment: Mapping[str, str], set_before: str | None = None) -> None:
    """Give a run in this process its variables, and keep the libraries to its threads.

    Args:
        count: threads that its `compute` allows.
        environment: the run's own variables; OMP_NUM_THREADS among them comes before `count`.
        set_before: OMP_NUM_THREADS as it was when the libraries were loaded: they need no telling where it is the same.
    """
    count = number(environment.get(VARIABLES[0])) or count
    if set_before == str(count):
        limit_torch(count)
    else:
        limit_threads(count)
    os.environ.update(environment)


def own_variables(compute: Compute) -> dict[str, str]:
    """The thread variables that a run's config gives it, as they stand in this process: records hold names alone."""
    return {name: os.environ[name] for name in VARIABLES if name in compute.environment and name in os.environ}


def limit_threads(count: int) -> None:
    """Limit the loaded libraries, and child processes, to this many threads."""
    set_variables(count)
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    limit_torch(count)


def limit_torch(count: int) -> None:
    """Limit torch, if it is loaded, to this many threads."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
