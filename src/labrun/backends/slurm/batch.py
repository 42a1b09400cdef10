"""Submission of one of our commands with sbatch, through submitit."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from labrun.backends.slurm.queue import refusal
from labrun.backends.slurm.sbatch import submitting
from labrun.errors import LabrunError


class _Batch(SlurmExecutor):  # type: ignore[misc]
    """Uses submitit's sbatch files and submission."""

    def submit_command(self, command: str, count: int) -> str:
        """Submit a command. Return the id of the job, or of the array if `count` is above 1."""
        if count > 1:
            self.parameters["map_count"] = count
        return str(self._submit_command(command).job_id)  # private: the public call pickles a function


def submit(folder: Path, command: str, count: int, parameters: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """Submit a command as one job or as an array. Return its id.

    Args:
        folder: folder for the batch file and the logs.
        command: the command that each job executes.
        count: number of jobs.
        parameters: submitit's parameters.
        variables: environment variables of the jobs.

    Raises:
        LabrunError: sbatch refuses; the message contains its reason.
    """
    batch = _Batch(folder=folder)
    batch.update_parameters(**parameters)
    # submitit prints sbatch's error, which the exception contains as well
    with submitting(variables, parameters), contextlib.redirect_stderr(io.StringIO()):
        try:
            return batch.submit_command(command, count)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise LabrunError(refusal(error)) from error
