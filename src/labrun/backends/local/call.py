"""Executes a call of a plain application in its own process: submitit's work, on our pickle.

The process is either forked from a server that has imported the needed modules (`run_task`), or it is a new
interpreter, locally or in a Slurm job, that executes this module (`main`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from submitit.core.job_environment import JobEnvironment
from submitit.core.plugins import get_job_environments
from submitit.core.submission import process_job
from submitit.core.utils import JobPaths

from labrun.backends.local.pickling import check_own
from labrun.backends.local.threads import limit_threads
from labrun.errors import LabrunError
from labrun.tasks.threads import number

if TYPE_CHECKING:
    from labrun.backends.local.messages import CallTask

REQUEUE = 144
"""Exit code of a call that has saved its state and must be resumed from it."""
SEEN_S = 60.0
"""How long a new pickle may take to become visible on a network file system, in seconds."""

_is_seeded = False
"""Whether an imported module has seeded numpy's global generator; each call then continues from that state."""


def preload(modules: Sequence[str]) -> None:
    """Import the modules that calls will need."""
    get_job_environments()  # each call looks up its own environment among these
    drawn = random_state()
    for name in modules:
        # Ignore a module's own errors, sys.exit included: the call that needs the module will raise and report them.
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
    global _is_seeded
    _is_seeded = random_state() != drawn


def random_state() -> bytes | None:
    """Return the state of numpy's global generator; None if numpy is not imported."""
    if "numpy" not in sys.modules:
        return None
    import numpy.random

    return bytes(numpy.random.get_state(legacy=False)["state"]["key"])


def run_task(message: CallTask) -> int:
    """Execute one task of a call in a forked process, as submitit's executors do. Return the exit code.

    Raises:
        LabrunError: another user could have written the pickle.
    """
    os.environ.clear()
    os.environ.update(message["variables"])
    time.tzset()
    # Block the signal until there is a handler for it: importing the function's modules may take a while.
    signal.pthread_sigmask(signal.SIG_BLOCK, {JobEnvironment._usr_sig()})
    os.chdir(message["cwd"])
    check_own(JobPaths(message["call"], message["run"], message["rank"]).submitted_pickle)
    limit_threads(message["threads"] or number(os.environ.get("OMP_NUM_THREADS")) or 1)
    if "numpy.random" in sys.modules and not _is_seeded:  # each call draws different numbers, as in a new interpreter
        sys.modules["numpy.random"].seed()
    let_workers_be_ended()
    try:
        process_job(message["call"])
    except Exception:  # noqa: BLE001 - submitit has stored it in the result
        return 1
    except SystemExit as end:
        if end.code == REQUEUE:
            return REQUEUE
        sys.stderr.write(f"the function ended the process: {end!r}\n")
        return end.code if isinstance(end.code, int) and end.code else 1
    return 0


def let_workers_be_ended() -> None:
    """Make processes that a call forks obey SIGTERM.

    submitit makes its jobs ignore that signal, and their workers inherit this. `multiprocessing` ends its workers with
    SIGTERM and would then wait for them forever. `Pool` may do so right after it has forked them, so a new worker
    receives the signal only once it obeys.
    """
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def obey() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=obey)


def main(folder: str) -> None:
    """Execute this job's call in a new interpreter.

    Raises:
        LabrunError: another user could have written the pickle.
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
