"""Limits on the number of threads that libraries use in a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from labrun.config.schema import Compute
from labrun.tasks.threads import VARIABLES, number, set_variables


def limit_run(count: int, environment: Mapping[str, str], set_before: str | None = None) -> None:
    """Set a run's variables in this process, and limit the libraries to its threads.

    Args:
        count: threads that its `compute` allows.
        environment: the run's own variables; an OMP_NUM_THREADS in it takes precedence over `count`.
        set_before: OMP_NUM_THREADS when the libraries were loaded; if it equals the count, they need no new limit.
    """
    count = number(environment.get(VARIABLES[0])) or count
    if set_before == str(count):
        limit_torch(count)
    else:
        limit_threads(count)
    os.environ.update(environment)


def own_variables(compute: Compute) -> dict[str, str]:
    """Return the thread variables in a run's config, with their values in this process: records hold only the names."""
    return {name: os.environ[name] for name in VARIABLES if name in compute.environment and name in os.environ}


def limit_threads(count: int) -> None:
    """Limit the loaded libraries and future child processes to this many threads."""
    set_variables(count)
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    limit_torch(count)


def limit_torch(count: int) -> None:
    """Limit torch, if it is loaded, to this many threads."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
