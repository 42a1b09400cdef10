"""What a cluster's scheduler has given to the job that this process is part of: the variables that Slurm sets.

Also true for a job that labrun has not submitted, such as an interactive one.
"""

from __future__ import annotations

import os


def cores() -> int | None:
    """Return the job's number of cores on this machine; None outside a job."""
    return int(os.environ.get("SLURM_CPUS_ON_NODE") or 0) or None


def memory_bytes() -> int | None:
    """Return the job's memory on this machine; None outside a job, or without a limit."""
    megabytes = os.environ.get("SLURM_MEM_PER_NODE", "")
    per_core = os.environ.get("SLURM_MEM_PER_CPU", "")
    if megabytes.isdigit() and int(megabytes):
        return int(megabytes) * 2**20
    if per_core.isdigit() and int(per_core):
        return int(per_core) * 2**20 * (cores() or 1)
    return None


def start_id() -> str:
    """Return an id that all machines of the job share, and that changes when the job is requeued."""
    return "-".join(os.environ.get(name) or "0" for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
