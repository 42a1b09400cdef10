"""Options for sbatch: time limits, and the environment of jobs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from labrun._io import environ_restored
from labrun.backends.slurm import partitions
from labrun.config.schema import Compute

SBATCH_VARIABLES = {
    "job_name": ("JOB_NAME",),
    "time": ("TIMELIMIT",),
    "mem": ("MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE"),
    "gpus_per_node": ("GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK"),
    "partition": ("PARTITION",),
    "account": ("ACCOUNT",),
    "qos": ("QOS",),
    "signal_delay_s": (
        "SIGNAL",
        "OPEN_MODE",
        "NO_REQUEUE",
        "REQUEUE",
        "ARRAY_INX",
        "WAIT",
        "OUTPUT",
        "ERROR",
        "COMMENT",
    ),
}
"""sbatch's own variables that would override a parameter, by parameter."""


def signal_delay_s(compute: Compute) -> int:
    """Return how long before its time limit a job saves its state, in seconds. Slurm may signal a minute earlier."""
    limit = compute.timeout_min or partitions.longest_min(compute)
    return int(min(90, max(10, 15 * limit)))


def minutes_asked(compute: Compute, rounds: int) -> int | None:
    """Return a job's time limit in minutes: that of its runs plus, unless not allowed, the time to start and to save.

    Args:
        compute: the runs' settings; without a limit the result is None.
        rounds: number of runs that follow one another.
    """
    if compute.timeout_min is None:
        return None
    least_s = 60 * compute.timeout_min * rounds
    least, wanted = partitions.whole_minutes(least_s), partitions.whole_minutes(least_s + 60 + signal_delay_s(compute))
    walls = [wall for wall in partitions.walls_min(compute) if least <= wall < wanted]
    return int(min([wanted, *walls, partitions.longest_min(compute)]))


@contextlib.contextmanager
def submitting(variables: Mapping[str, str], parameters: Mapping[str, Any]) -> Iterator[None]:
    """Make sbatch pass this process's environment to the job inside the context; variables are never written to a file.

    Args:
        variables: the job's own variables.
        parameters: parameters for submitit; variables such as SBATCH_PARTITION, which would override them, are removed.
    """
    variables_of_job = {
        "SBATCH_EXPORT",
        *(
            f"SBATCH_{name}"
            for key, value in parameters.items()
            if value is not None
            for name in SBATCH_VARIABLES.get(key, ())
        ),
    }
    with environ_restored():
        for name in list(os.environ):
            if name in variables_of_job or partitions.is_of_a_job(name):
                del os.environ[name]
        os.environ.update(variables)
        yield
