"""What an interpreter of its own, or a Slurm job, executes of a plain application: submitit's work on our pickle."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from submitit.core.job_environment import JobEnvironment
from submitit.core.submission import process_job

from labrun.backends.local.executor import check_own
from labrun.errors import LabrunError

SEEN_S = 60.0
"""How long a pickle that was just written may take to be seen through a network file system."""


def main(folder: str) -> None:
    """Carry out this job's call.

    Raises:
        LabrunError: its pickle could be another user's.
    """
    os.environ["SUBMITIT_FOLDER"] = folder
    pickled: Path = JobEnvironment().paths.submitted_pickle
    end = time.monotonic() + SEEN_S
    while not pickled.exists() and time.monotonic() < end:
        time.sleep(1.0)
    check_own(pickled)
    process_job(folder)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except LabrunError as error:
        sys.exit(f"labrun: {error}")
