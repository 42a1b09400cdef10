"""One run in its own interpreter: `python -m labrun.backends.one_run RUN_DIR`, for backends that start processes.

The run's own variables must be set in the environment. Its output goes to its `driver.log`. The process exits when its
standard input is closed, so that it does not outlive its parent; with `/dev/null` as standard input it exits at once.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from labrun.backends.base import draws_pictures
from labrun.backends.local import threads, worker
from labrun.backends.local.forkserver import print_to
from labrun.runs.record import read_record
from labrun.tasks.threads import wait_asleep


def main(run_dir: Path) -> int:
    """Execute a run whose record is written. Return the exit code: 0 completed, 1 failed, 130 canceled."""
    tether = os.dup(0)
    threading.Thread(target=_end_with, args=(tether,), daemon=True).start()
    log = str(run_dir / "driver.log")
    print_to(log, log)
    wait_asleep()
    record = read_record(run_dir)
    compute = record.typed.compute
    threads.limit_run(compute.cpus_per_run, threads.own_variables(compute))
    return worker.run(str(run_dir), draws_pictures(record))


def _end_with(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    os._exit(code)  # skip the cleanup of imported libraries
