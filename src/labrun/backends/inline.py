"""Runs in the process that composes them, one after another: for debugging, and for single runs at a terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from labrun import execute
from labrun._io import environ_restored
from labrun.backends import this_machine
from labrun.backends.base import Backend, Capacity, Head, Resources
from labrun.backends.local import threads, worker
from labrun.backends.this_machine import DEFAULTS
from labrun.config.schema import Compute
from labrun.runs import finalize, machine, recording
from labrun.runs.end_requests import end_requested
from labrun.runs.record import read_record
from labrun.runs.sweep_state import Plan
from labrun.tasks.threads import wait_asleep

log = logging.getLogger(__name__)

SUPERVISED = ("timeout_min", "mem_gb", "retries", "python", "detach", "gpus_per_run")
"""Keys of `compute` that only a supervisor outside the run can enforce."""


class Inline(Backend):
    """Executes runs in this process."""

    name = "inline"
    in_process = True
    supervises = False

    def problems(self, compute: Compute) -> Iterator[str]:
        """Yield a message for everything that this machine lacks, or that needs a supervisor."""
        yield from this_machine.problems(compute)
        for key in (*SUPERVISED, "max_parallel"):
            if getattr(compute, key) != getattr(DEFAULTS, key):
                request, local = f"{compute.key(key)}={getattr(compute, key)}", compute.choice("local")
                yield f"{request}: an inline run has no supervisor; choose {local}"

    def summary(self, compute: Compute) -> str:
        """Describe this machine's cores and memory, or its GPUs."""
        return this_machine.summary(compute)

    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """Return 1: runs are executed one after another."""
        return Capacity(1)

    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> InlineExecutor:
        """See `Backend.executor`."""
        return InlineExecutor(plan)


def limit_threads(compute: Compute) -> None:
    """Limit the libraries to the threads of a run that is the only one of this process.

    If it may use every core, there is nothing to limit: the libraries are not even asked, which takes time. Runs of a
    sweep are always limited (`InlineExecutor`), because the previous run may have had another limit.
    """
    wait_asleep()
    own = threads.own_variables(compute)
    if own or compute.cpus_per_run < machine.cores():
        threads.limit_run(compute.cpus_per_run, own)


class InlineExecutor:
    """See `Executor`: `poll` executes the next run to its end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._queue: list[tuple[Path, Resources]] = []
        self._canceled: list[Path] = []
        self._warm = False

    @property
    def busy(self) -> bool:
        """Whether any run is waiting."""
        return bool(self._queue or self._canceled)

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Put a run in the queue."""
        self._queue.append((run_dir, needs))

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Execute the next run."""
        ended, self._canceled = self._canceled, []
        if not self._queue:
            return ended
        run_dir, needs = self._queue.pop(0)
        if end_requested(run_dir):
            finalize.close_unstarted(run_dir)
            return [*ended, run_dir]
        from labrun.compose import hydra_job

        if not self._warm:
            wait_asleep()
            worker.preload(self._plan.preload)
            self._warm = True
        record = read_record(run_dir)
        log.info("[%s] %s", record.number, " ".join(record.overrides))
        try:
            with environ_restored():
                # As many threads as in the pool: another number would change how sums round, and so the results.
                threads.limit_run(needs.cpus, needs.environment)
                execute.execute(run_dir, pictures=needs.pictures, around=hydra_job.around)
        except KeyboardInterrupt:
            if not end_requested(run_dir):
                raise
            log.info("This run was canceled; the others continue")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - its record holds the error; the others go on
            log.error("This run failed: %s", recording.first_line(error))
        return [*ended, run_dir]

    def cancel_all(self, at_once: bool = False, why: str = "canceled") -> None:
        """Cancel all waiting runs."""
        for run_dir, _ in self._queue:
            finalize.close_unstarted(run_dir, why)
            self._canceled.append(run_dir)
        self._queue.clear()

    def draw(self, run_dir: Path) -> bool:
        """Draw a finished run's pictures."""
        return worker.draw_quietly(run_dir)

    def close(self) -> None:
        """Do nothing: there are no resources to release."""
