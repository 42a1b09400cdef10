"""One sbatch through submitit, around a command of ours."""

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
    """submitit's sbatch files and submission."""

    def submit_command(self, command: str, count: int) -> str:
        """Submit; returns the job's id, of an array's if `count` is above 1."""
        if count > 1:
            self.parameters["map_count"] = count
        return str(self._submit_command(command).job_id)  # private: the public call pickles a function


def submit(folder: Path, command: str, count: int, parameters: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """Submit a command as one job, or as an array of them; the id.

    Args:
        folder: for the batch file and the logs.
        command: what each job executes.
        count: how many jobs.
        parameters: submitit's.
        variables: the jobs' own.

    Raises:
        LabrunError: sbatch refuses; its words are in the message.
    """
    batch = _Batch(folder=folder)
    batch.update_parameters(**parameters)
    # submitit prints what sbatch says against it, and the error holds it too
    with submitting(variables, parameters), contextlib.redirect_stderr(io.StringIO()):
        try:
            return batch.submit_command(command, count)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise LabrunError(refusal(error)) from error
