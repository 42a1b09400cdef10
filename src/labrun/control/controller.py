"""The controller executes the runs of a folder: a single run, or those of a sweep. The folder holds all it needs.

The submitter writes each run's record and the folder's plan. Then a controller, in the same process or in another one,
takes the lease and passes unfinished runs to an executor. Another controller can take over at any time.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from labrun import refusal
from labrun.backends import registry
from labrun.backends.base import Executor, Head, resources
from labrun.config import masking
from labrun.control.lease import Lease, OvertakenError
from labrun.errors import LabrunError, RecordError
from labrun.runs import finalize, store
from labrun.runs.record import FAILED, PREEMPTED, QUEUED, RUNNING, Record, process_lives, read_record
from labrun.runs.sweep_state import Plan, SweepState, note_given_up, read_plan

log = logging.getLogger(__name__)

DETACHED = "LABRUN_DETACHED"
"""Variable that marks detached controllers, which have no terminal."""


class View(Protocol):
    """Displays the progress of runs."""

    def update(self, running: bool = True) -> None:
        """Read the records and display changes."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """Handle the end of a run."""


class RunSource(Protocol):
    """Supplies the runs of a search, one by one."""

    @property
    def is_open(self) -> bool:
        """Whether there will be more runs."""

    @property
    def patience_s(self) -> float:
        """Maximum time between two calls of `look`, in seconds."""

    def more(self) -> Sequence[tuple[Path, Mapping[str, str]]]:
        """Return runs to start now, with their records written, and their own variables."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """Handle the end of a run."""

    def look(self) -> None:
        """Inspect active runs, and ask unpromising ones to stop."""

    def close(self) -> None:
        """Supply no more runs: too many have failed."""

    def done(self) -> None:
        """Handle the end of all runs, while the controller still holds its lease."""


def run(
    folder: Path,
    view: View,
    environment: Mapping[Path, Mapping[str, str]] | None = None,
    head: Head | None = None,
    source: RunSource | None = None,
) -> Executor:
    """Execute all unfinished runs of a folder.

    Args:
        folder: a sweep or a run, with its plan and its records.
        view: is notified of events.
        environment: the runs' own variables, which records do not hold.
        head: result of `Backend.start_ahead`.
        source: supplies further runs while these are active.

    Returns:
        The executor, for use after the runs; the caller closes it.

    Raises:
        RecordError: another controller is active, or has taken over.
        LabrunError: the runs cannot be executed; those that had not started are canceled.
        KeyboardInterrupt: after Ctrl-C, once the runs have stopped.
    """
    plan = read_plan(folder)
    lease = Lease(SweepState(folder))
    try:
        pending = _pending(folder, plan)
        count = plan.parallel if source else len(pending)
        runner = registry.get(plan.target).executor(folder, plan, count, head)
        try:
            _drive(runner, folder, plan, pending, view, lease, environment or {}, source)
            if source is not None:
                source.done()
        except BaseException:
            runner.close()
            raise
    finally:
        lease.release()
    return runner


def _pending(folder: Path, plan: Plan) -> list[Path]:
    """Return the runs to execute, in order; runs that a dead controller left behind are queued again."""
    pending = []
    outlives = registry.get(plan.target).outlives_controller
    for run_dir, record in store.of_plan(folder, plan):
        if record.finished:
            continue
        if not outlives and record.status in (RUNNING, PREEMPTED):
            finalize.wait_gone(run_dir)
            record = read_record(run_dir)
            if record.finished:
                continue
            if record.process is not None and process_lives(record.process):
                raise RecordError(
                    f"run {record.id} in {run_dir} is still running, as process {record.process.pid}; "
                    "'lab runs cancel' ends it"
                )
            finalize.note_interrupted(run_dir, record, "its controller ended")
        pending.append(run_dir)
    return pending


def _drive(
    runner: Executor,
    folder: Path,
    plan: Plan,
    pending: Sequence[Path],
    view: View,
    lease: Lease,
    environment: Mapping[Path, Mapping[str, str]],
    source: RunSource | None = None,
) -> None:
    for run_dir in pending:
        runner.submit(run_dir, resources(read_record(run_dir), environment.get(run_dir)))
    failures, stopped = 0, False
    try:
        while runner.busy or (source is not None and source.is_open):
            lease.beat()
            for run_dir, variables in source.more() if source is not None else ():
                runner.submit(run_dir, resources(read_record(run_dir), variables))
            patience_s = 0.5 if source is None else source.patience_s
            for run_dir in runner.poll(patience_s) if runner.busy else ():
                record = read_record(run_dir)
                if record.status == FAILED and record.typed.compute.retries:
                    note_given_up(folder, record)
                if source is not None:
                    source.ended(run_dir, record)
                view.ended(run_dir, record)
                failures += record.status == FAILED
            if source is not None:
                source.look()
            if plan.max_failures is not None and failures > plan.max_failures and not stopped:
                stopped = True
                log.error(
                    "%d runs failed, and compute.max_failures=%d: canceling the rest", failures, plan.max_failures
                )
                why = f"more than compute.max_failures={plan.max_failures} runs failed"
                if source is not None:
                    source.close()
                runner.cancel_all(why=why)
            view.update()
    except KeyboardInterrupt:
        _stop(runner, view)
        raise
    except OvertakenError:
        raise
    except LabrunError as error:
        reason = masking.masked(next(iter(str(error).splitlines()), type(error).__name__))
        why = f"its controller ended ({reason})"
        runner.cancel_all(why=why)
        cancel_rest(folder, read_plan(folder), why)
        raise


def _stop(runner: Executor, view: View) -> None:
    """Ask the runs to stop after Ctrl-C; end them at once when it is pressed again."""
    log.info("Asking the runs to stop; Ctrl-C again ends them at once")
    at_once = False
    while True:
        try:
            runner.cancel_all(at_once=at_once, why="the sweep was canceled")
            while runner.busy:
                for run_dir in runner.poll():
                    view.ended(run_dir, read_record(run_dir))
            return
        except KeyboardInterrupt:
            at_once = True


def cancel_rest(folder: Path, plan: Plan, why: str) -> None:
    """Close the records of runs that will not start."""
    for run_dir, record in store.of_plan(folder, plan):
        if record.status == QUEUED:
            finalize.close_unstarted(run_dir, why)


def detach(
    folder: Path,
    environment: Mapping[Path, Mapping[str, str]],
    command: Sequence[str] | None = None,
    patience_s: float = 120.0,
) -> None:
    """Start a controller that outlives this terminal, and wait until it has taken over the runs.

    Args:
        folder: the folder of the runs.
        environment: the runs' own variables.
        command: the arguments of a search; None: all runs already exist.
        patience_s: maximum time to wait, in seconds.

    Raises:
        LabrunError: it could not take over; the message contains its error.
    """
    import subprocess

    output = SweepState(folder).controller_log
    begun = SweepState(folder).begun
    begun.unlink(missing_ok=True)
    with open(output, "ab") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                *(
                    ["from labrun.control.detached import main; main()", str(folder)]
                    if command is None
                    else ["from labrun.app import main; main()", *command]
                ),
            ],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
            text=True,
            env={
                **os.environ,
                DETACHED: "1",
                refusal.VARIABLE: str(SweepState(folder).refusal),
                "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
                "LABRUN_PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
        )
    assert process.stdin is not None
    with process.stdin as pipe:
        json.dump({str(run_dir): dict(values) for run_dir, values in environment.items()}, pipe)
    end = time.monotonic() + patience_s
    while not begun.exists() and time.monotonic() < end:
        if process.poll() is not None:
            if process.returncode == 0:
                return
            why = refusal.taken(SweepState(folder).refusal)
            reason = f"its controller ended with exit code {process.returncode}" if why is None else why.message
            raise LabrunError(f"the runs could not be started: {reason} (log: {output})")
        time.sleep(0.05)
