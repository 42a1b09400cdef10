"""Carrying out the runs of a folder: one run, or a sweep's. Everything that is needed lies in the folder.

The submitter writes each run's record and the folder's plan; then a controller, here or in a process of its own,
takes the lease and has an executor run what is not finished. Another controller can take over at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from labrun import execute
from labrun.backends import compute as computes
from labrun.backends.compute import Needs
from labrun.backends.local import threads, worker
from labrun.backends.local.pool import LocalPool, Server
from labrun.backends.local.slots import Places
from labrun.control.lease import Lease, OvertakenError
from labrun.errors import LabrunError, RecordError
from labrun.runs import context, finalize, recording, store
from labrun.runs import record as records
from labrun.runs.record import Record
from labrun.tasks.threads import wait_asleep

log = logging.getLogger(__name__)


SUBMITTED = "submitted"


class Executor(Protocol):
    """Where runs are carried out."""

    @property
    def busy(self) -> bool:
        """Whether any run is waiting or under way."""

    def submit(self, run_dir: Path, needs: Needs) -> None:
        """Take a run whose record is written."""

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Let the runs go on for a while; the runs that have ended since, their records closed."""

    def cancel_all(self, at_once: bool = False, why: str = "") -> None:
        """Cancel what waits, ask what runs to stop, or end it at once."""

    def draw(self, run_dir: Path) -> bool:
        """Draw a finished run's pictures; whether it worked."""

    def close(self) -> None:
        """Give back what is held."""


class View(Protocol):
    """What is shown of the runs while they go on."""

    def update(self, running: bool = True) -> None:
        """Look at the records and show what has changed."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """A run has ended."""


class Feed(Protocol):
    """Where a search's runs come from, one by one."""

    @property
    def is_open(self) -> bool:
        """Whether there is more to come."""

    @property
    def patience_s(self) -> float:
        """How long it may take until it looks again."""

    def more(self) -> Sequence[tuple[Path, Mapping[str, str]]]:
        """Runs that are to begin now, their records written, with their own variables."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """A run has ended."""

    def look(self) -> None:
        """Look at what goes on, and ask what is not worth it to stop."""

    def close(self, why: str) -> None:
        """Nothing more is to begin."""


@dataclass
class Plan:
    """What the controller of a folder must know that stands in no single record; `.launch/plan.json`."""

    target: str
    """`inline`, `local` or `slurm`."""
    runs: list[str]
    """The runs' folders, relative to this one; `.` where it is a run itself."""
    path: list[str]
    preload: list[str]
    cwd: str
    name: str
    tracking: dict[str, Any]
    parallel: int = 1
    cores: int | None = None
    """Those that the runs share, unless `compute.max_parallel` says how many there are at once."""
    python: str | None = None
    gpus_per_run: int = 0
    """As many as any of the runs needs."""
    runs_per_gpu: int = 1
    max_failures: int | None = None
    draws: bool = False
    """Whether the best run's pictures are drawn in the end."""
    command: list[str] | None = None
    """A search's own arguments: who takes it over composes its next runs from them."""
    is_marked: bool = False
    """Whether a file beside it tells that all runs have their records (`note_submitted`)."""

    def write(self, folder: Path) -> None:
        """Put it in the folder.

        Raises:
            RecordError: the folder cannot be written.
        """
        try:
            state_folder(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            (state_folder(folder) / SUBMITTED).unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(records.cannot_write(folder, error)) from error
        records.replace_text(state_folder(folder) / "plan.json", json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def state_folder(folder: Path) -> Path:
    """What labrun keeps of the launch of a folder's runs."""
    return folder / ".launch"


def note_submitted(folder: Path) -> None:
    """Every run of the plan has its record now."""
    with contextlib.suppress(OSError):
        (state_folder(folder) / SUBMITTED).touch()


def never_submitted(folder: Path, plan: Plan) -> int:
    """How many runs of a plan have no record since whoever submitted them was killed; removed ones do not count."""
    if not plan.is_marked or plan.command is not None or (state_folder(folder) / SUBMITTED).exists():
        return 0
    return sum(not os.path.exists(folder / name / "run.json") for name in plan.runs)


def read_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    path = state_folder(folder) / "plan.json"
    try:
        plan = Plan(**json.loads(context.content(path)))
        _check(plan)
        return plan
    except FileNotFoundError:
        raise RecordError(f"{folder} holds no sweep: there is no {path}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is damaged or cannot be read: {error}") from error


def _check(plan: Plan) -> None:
    """Whether a plan's values are of the kinds that readers rely on; its runs lie in its folder.

    Raises:
        ValueError: they are not.
    """
    lists = (plan.runs, plan.path, plan.preload, plan.command or [])
    if not all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in lists):
        raise ValueError("runs, path, preload or command is no list of texts")
    for name in plan.runs:
        if "\0" in name or os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise ValueError(f"the run {name!r:.100} does not lie in its folder")
    if not all(isinstance(one, str) for one in (plan.target, plan.cwd, plan.name)) or "\0" in plan.cwd:
        raise ValueError("target, cwd or name is no text")
    if not isinstance(plan.tracking, dict) or not isinstance(plan.python, str | None):
        raise ValueError("tracking or python is of another kind")
    for number in (plan.parallel, plan.cores, plan.gpus_per_run, plan.runs_per_gpu, plan.max_failures):
        if not isinstance(number, int | None):
            raise ValueError(f"{number!r:.60} is no whole number")


def readable(folder: Path, plan: Plan) -> list[tuple[Path, Record]]:
    """The runs of a plan whose record can be read, with it; what is gone or damaged is told and left out."""
    return store.readable([(folder / name).resolve() for name in plan.runs])


def run_dirs(folder: Path, plan: Plan) -> list[Path]:
    """The folders of the runs that `readable` gives."""
    return [run_dir for run_dir, _ in readable(folder, plan)]


def executor(plan: Plan, folder: Path, count: int, server: Server | None = None) -> Executor:
    """The executor that a plan names.

    Args:
        plan: the folder's.
        folder: the sweep, or the run.
        count: how many runs there are to do.
        server: the local pool's, if it is starting already.
    """
    if plan.target == "slurm":
        from labrun.backends.slurm.backend import Settings, SlurmPool

        settings = Settings(state_folder(folder), plan.name, plan.path, plan.preload, plan.cwd, plan.python)
        return SlurmPool(settings)
    if plan.target == "inline":
        return Inline(plan)
    gpus = computes.visible_gpus() if plan.gpus_per_run else None
    places = Places(min(plan.parallel, count), plan.cores, gpus, plan.runs_per_gpu)
    return LocalPool(plan.path, plan.preload, places, python=plan.python, cwd=plan.cwd, server=server, draws=plan.draws)


class Inline:
    """Carries out runs in this process, one after another."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._queue: list[tuple[Path, Needs]] = []
        self._canceled: list[Path] = []
        self._warm = False

    @property
    def busy(self) -> bool:
        """Whether any run waits."""
        return bool(self._queue or self._canceled)

    def submit(self, run_dir: Path, needs: Needs) -> None:
        """Put a run in the queue."""
        self._queue.append((run_dir, needs))

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Carry out the next run."""
        ended, self._canceled = self._canceled, []
        if not self._queue:
            return ended
        run_dir, needs = self._queue.pop(0)
        if finalize.is_asked_to_end(run_dir):
            finalize.close_unrun(run_dir, "canceled before it began")
            return [*ended, run_dir]
        from labrun.config import hydra_job

        if not self._warm:
            wait_asleep()
            worker.preload(self._plan.preload)
            self._warm = True
        record = records.read(run_dir)
        log.info("[%s] %s", (record.sweep or {}).get("number"), " ".join(record.overrides))
        before = dict(os.environ)
        # As many threads as in the pool: sums in another order round otherwise, and the results would differ.
        threads.limit_run(needs.cpus, needs.environment)
        try:
            execute.execute(run_dir, pictures=needs.pictures, around=hydra_job.around)
        except KeyboardInterrupt:
            if not finalize.is_asked_to_end(run_dir):
                raise
            log.info("This run was canceled; the others go on")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - its record holds it; the others go on
            log.error("This run failed: %s", recording.first_line(error))
        finally:
            os.environ.clear()
            os.environ.update(before)
        return [*ended, run_dir]

    def cancel_all(self, at_once: bool = False, why: str = "canceled before it began") -> None:
        """Cancel what waits."""
        for run_dir, _ in self._queue:
            finalize.close_unrun(run_dir, why)
            self._canceled.append(run_dir)
        self._queue.clear()

    def draw(self, run_dir: Path) -> bool:
        """Draw a finished run's pictures."""
        return worker.draw_quietly(run_dir)

    def close(self) -> None:
        """Nothing is held."""


def conduct(
    folder: Path,
    view: View,
    environment: Mapping[Path, Mapping[str, str]] | None = None,
    server: Server | None = None,
    feed: Feed | None = None,
) -> Executor:
    """Run what is not finished in a folder, until all is.

    Args:
        folder: a sweep or a run, with its plan and its records.
        view: is told what happens.
        environment: the runs' own variables, which records do not hold.
        server: the local pool's, if it is starting already.
        feed: brings further runs while these go on.

    Returns:
        The executor, for what comes after the runs; the caller closes it.

    Raises:
        RecordError: another controller is at it, or has taken over.
        LabrunError: the runs cannot be carried out; those that had not begun are canceled.
        KeyboardInterrupt: after Ctrl-C, once the runs have stopped.
    """
    plan = read_plan(folder)
    lease = Lease(state_folder(folder))
    try:
        pending = _pending(folder, plan)
        runner = executor(plan, folder, plan.parallel if feed else len(pending), server)
        try:
            _conduct(runner, folder, plan, pending, view, lease, environment or {}, feed)
        except BaseException:
            runner.close()
            raise
    finally:
        lease.release()
    return runner


def _pending(folder: Path, plan: Plan) -> list[Path]:
    """What is to be run, in order; a run that a dead controller left behind goes back in the queue."""
    pending = []
    for run_dir, record in readable(folder, plan):
        if record.finished:
            continue
        if plan.target != "slurm" and record.status in (records.RUNNING, records.PREEMPTED):
            finalize.wait_gone(run_dir)
            record = records.read(run_dir)
            if record.finished:
                continue
            if records.process_lives(record.process):
                raise RecordError(
                    f"run {record.id} in {run_dir} is still running, as process {(record.process or {}).get('pid')}; "
                    "'lab runs cancel' ends it"
                )
            finalize.note_interrupted(run_dir, record, "its controller ended")
        pending.append(run_dir)
    return pending


def _conduct(
    runner: Executor,
    folder: Path,
    plan: Plan,
    pending: Sequence[Path],
    view: View,
    lease: Lease,
    environment: Mapping[Path, Mapping[str, str]],
    feed: Feed | None = None,
) -> None:
    for run_dir in pending:
        runner.submit(run_dir, computes.needs(records.read(run_dir), environment.get(run_dir)))
    failures, stopped = 0, False
    try:
        while runner.busy or (feed is not None and feed.is_open):
            lease.beat()
            for run_dir, variables in feed.more() if feed is not None else ():
                runner.submit(run_dir, computes.needs(records.read(run_dir), variables))
            patience_s = 0.5 if feed is None else feed.patience_s
            for run_dir in runner.poll(patience_s) if runner.busy else ():
                record = records.read(run_dir)
                if feed is not None:
                    feed.ended(run_dir, record)
                view.ended(run_dir, record)
                failures += record.status == records.FAILED
            if feed is not None:
                feed.look()
            if plan.max_failures is not None and failures > plan.max_failures and not stopped:
                stopped = True
                log.error(
                    "%d runs failed, and compute.max_failures=%d: canceling the rest", failures, plan.max_failures
                )
                why = f"more than compute.max_failures={plan.max_failures} runs failed"
                if feed is not None:
                    feed.close(why)
                runner.cancel_all(why=why)
            view.update()
    except KeyboardInterrupt:
        _stop(runner, view)
        raise
    except OvertakenError:
        raise
    except LabrunError:
        runner.cancel_all(why="the sweep ended before it began")
        cancel_rest(folder, read_plan(folder), "the sweep ended before it began")
        raise


def _stop(runner: Executor, view: View) -> None:
    """Ctrl-C once asks the runs to stop; a second time ends them."""
    log.info("Asking the runs to stop; Ctrl-C again ends them at once")
    at_once = False
    while True:
        try:
            runner.cancel_all(at_once=at_once, why="the sweep was canceled before it began")
            while runner.busy:
                for run_dir in runner.poll():
                    view.ended(run_dir, records.read(run_dir))
            return
        except KeyboardInterrupt:
            at_once = True


def cancel_rest(folder: Path, plan: Plan, why: str) -> None:
    """Close the records of runs that will not begin."""
    for run_dir, record in readable(folder, plan):
        if record.status == records.QUEUED:
            finalize.close_unrun(run_dir, why)


def detach(
    folder: Path,
    environment: Mapping[Path, Mapping[str, str]],
    command: Sequence[str] | None = None,
    patience_s: float = 120.0,
) -> None:
    """Start a controller that outlives this terminal, and wait until it has taken up the runs.

    Args:
        folder: the runs'.
        environment: the runs' own variables.
        command: a search's own arguments; None: the runs are all there.
        patience_s: how long to wait.

    Raises:
        LabrunError: it could not; with its own words.
    """
    import subprocess

    output = state_folder(folder) / "controller.log"
    begun = state_folder(folder) / "begun"
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
            words = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = next((line for line in reversed(words) if line.strip()), "it said nothing")
            raise LabrunError(f"the runs were not taken up: {reason.removeprefix('labrun: ')} (log: {output})")
        time.sleep(0.05)
