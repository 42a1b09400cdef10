"""Options for sbatch: time limits, and the environment of jobs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from labrun.backends.slurm import partitions
from labrun.schema import Compute

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
"""Which of sbatch's own variables would say otherwise than a parameter."""


def signal_delay_s(compute: Compute) -> int:
    """How long before its time is up a job begins to save. Slurm may tell it up to a minute earlier than that."""
    limit = compute.timeout_min or partitions.longest_min(compute)
    return int(min(90, max(10, 15 * limit)))


def minutes_asked(compute: Compute, rounds: int) -> int | None:
    """A job's limit: what its runs may take, and, unless that is forbidden, the time to begin and to save beyond it.

    Args:
        compute: the runs'; None where it sets no limit.
        rounds: runs one after the other.
    """
    if compute.timeout_min is None:
        return None
    least_s = 60 * compute.timeout_min * rounds
    least, wanted = partitions.whole_minutes(least_s), partitions.whole_minutes(least_s + 60 + signal_delay_s(compute))
    walls = [wall for wall in partitions.walls_min(compute) if least <= wall < wanted]
    return int(min([wanted, *walls, partitions.longest_min(compute)]))


@contextlib.contextmanager
def submitting(variables: Mapping[str, str], parameters: Mapping[str, Any]) -> Iterator[None]:
    """Inside, sbatch passes this process's environment on to the job; no variable stands in a file.

    Args:
        variables: the job's own.
        parameters: for submitit. sbatch would put variables such as SBATCH_PARTITION before the file's lines.
    """
    before = dict(os.environ)
    told = {
        "SBATCH_EXPORT",
        *(
            f"SBATCH_{name}"
            for key, value in parameters.items()
            if value is not None
            for name in SBATCH_VARIABLES.get(key, ())
        ),
    }
    for name in before:
        if name in told or partitions.is_of_a_job(name):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
