"""The manifest of a submission, which each of its jobs reads (`job.py`). Only a type, which no process imports."""

from __future__ import annotations

from typing import TypedDict


class Manifest(TypedDict):
    """What the jobs of one submission execute, and how; stored as JSON."""

    token: str
    """Identifies the submission in the journal."""
    jobs: list[list[str]]
    """The folders of each job's runs."""
    path: list[str]
    """The import path, with the frozen code."""
    preload: list[str]
    """Targets that the pool imports in advance."""
    own_python: bool
    """Whether the interpreter is `compute.python`, whose own packages come after `path`."""
    parallel: int
    """Number of runs that a job executes at once."""
    ledger: str
    """Path of the journal of submissions (`queue.py`)."""
    signal_delay_s: int
    """How long before the time limit Slurm warns a job, in seconds."""
    timeout_min: float | None
    """Time limit of each run."""
    gpus_per_run: int
    runs_per_gpu: int
