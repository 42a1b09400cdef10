"""One run in an interpreter of its own: `python -m labrun.backends.one_run RUN_DIR`, for backends that start processes.

Its own variables stand in the environment; what it prints goes to its `driver.log`. It ends when its standard input
does, so that nothing goes on when whoever started it has died; with `/dev/null` for standard input, at once.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from labrun.backends.base import draws_pictures
from labrun.backends.local import threads, worker
from labrun.backends.local.forkserver import print_to
from labrun.runs import record as records
from labrun.schema import Compute
from labrun.tasks.threads import wait_asleep


def main(run_dir: Path) -> int:
    """Execute a run whose record is written; the exit code: 0 completed, 1 failed, 130 canceled."""
    tether = os.dup(0)
    threading.Thread(target=_end_with, args=(tether,), daemon=True).start()
    log = str(run_dir / "driver.log")
    print_to(log, log)
    wait_asleep()
    record = records.read(run_dir)
    compute = Compute.of(record.config["compute"])
    threads.limit_run(compute.cpus_per_run, threads.own_variables(compute))
    return worker.run(str(run_dir), draws_pictures(record))


def _end_with(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    os._exit(code)  # the libraries that were imported need not be tidied up
