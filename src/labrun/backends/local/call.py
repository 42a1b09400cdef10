"""What a process does for a call of a plain application: submitit's work, on our pickle.

It is forked from a server that has imported what is needed (`carry_out`), or an interpreter of its own, or a Slurm
job's, that executes this module (`main`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.core.plugins import get_job_environments
from submitit.core.submission import process_job
from submitit.core.utils import JobPaths

from labrun.backends.local.pickling import check_own
from labrun.backends.local.threads import limit_threads
from labrun.errors import LabrunError
from labrun.tasks.threads import number

REQUEUE = 144
"""Exit code of a call that has saved its state and is to go on from there."""
SEEN_S = 60.0
"""How long a pickle that was just written may take to be seen through a network file system."""

_is_seeded = False
"""Whether what was imported has seeded numpy's own generator: each call goes on from there then."""


def preload(modules: Sequence[str]) -> None:
    """Import what calls will need."""
    get_job_environments()  # each call asks which of them it is in
    drawn = random_state()
    for name in modules:
        # A module's own errors, sys.exit in it too: the call that needs it meets them again, and tells them.
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
    global _is_seeded
    _is_seeded = random_state() != drawn


def random_state() -> bytes | None:
    """What numpy's own generator would draw next; None without numpy."""
    if "numpy" not in sys.modules:
        return None
    import numpy.random

    return bytes(numpy.random.get_state(legacy=False)["state"]["key"])


def carry_out(message: Mapping[str, Any]) -> int:
    """Carry out one task of a call, in a forked process, as submitit's own executors do it; the exit code.

    Args:
        message: `call`: the executor's folder; `run`: its id; `rank`: of the task; `variables`: all that the task has;
            `cwd`: its folder; `threads`: how many the libraries may use (None: as its variables say).

    Raises:
        LabrunError: its pickle could be another user's.
    """
    os.environ.clear()
    os.environ.update(message["variables"])
    time.tzset()
    # Kept back until there is a handler for it: importing what the function needs may take its time.
    signal.pthread_sigmask(signal.SIG_BLOCK, {JobEnvironment._usr_sig()})
    os.chdir(message["cwd"])
    check_own(JobPaths(message["call"], message["run"], message["rank"]).submitted_pickle)
    limit_threads(message["threads"] or number(os.environ.get("OMP_NUM_THREADS")) or 1)
    if "numpy.random" in sys.modules and not _is_seeded:  # each draws its own, as in an interpreter of its own
        sys.modules["numpy.random"].seed()
    let_workers_be_ended()
    try:
        process_job(message["call"])
    except Exception:  # noqa: BLE001 - submitit has put it in the result
        return 1
    except SystemExit as end:
        if end.code == REQUEUE:
            return REQUEUE
        sys.stderr.write(f"the function ended the process: {end!r}\n")
        return end.code if isinstance(end.code, int) and end.code else 1
    return 0


def let_workers_be_ended() -> None:
    """Have processes that a call forks obey SIGTERM.

    submitit has its jobs pass that signal by, their workers inherit this, and `multiprocessing`, which ends its workers
    so, then waits for one for ever.
    """
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def main(folder: str) -> None:
    """Carry out this job's call, in an interpreter of its own.

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
