"""Submission of a sweep's runs, or of a single run that is executed outside this process."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, open_dict, read_write

from labrun import messages, terminal
from labrun.backends import registry
from labrun.backends.base import Backend, Head
from labrun.compose import composed, hydra_files, hydra_job
from labrun.config import exact, schema, trust
from labrun.config.schema import Config, Tracking
from labrun.control import controller, lease, monitor, objective, results
from labrun.errors import ConfigError, RecordError
from labrun.runs import context, finalize, store, sweep_state
from labrun.runs.attempts import Failure
from labrun.runs.end_requests import forget_requests
from labrun.runs.groups import SweepMember
from labrun.runs.record import (
    CANCELED,
    COMPLETED,
    FAILED,
    STOPPED,
    Record,
    check_path_length,
    is_scoring,
    read_record,
    write_record,
)
from labrun.runs.recording import terminating_politely
from labrun.runs.sweep_state import WITH_HYDRA, SweepState
from labrun.submission import freeze, origin, prerequisites, resume, snapshot, sweep_settings
from labrun.submission.publish import publish_location
from labrun.tracking import trackers
from labrun.tracking.feed import follow
from labrun.user_errors import EXIT_CANCELED

log = logging.getLogger(__name__)


@dataclass
class FrozenJob:
    """A run that is about to be submitted: its record, its folder, Hydra's files for it, and its variables."""

    record: Record
    run_dir: Path
    hydra: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    subfolder: str | None = context.HYDRA
    """The subfolder for Hydra's files (`hydra.output_subdir`)."""
    is_done: bool = False
    """Whether it completed in an earlier session of this sweep."""


class Freezer:
    """Freezes the jobs of a sweep while the pool's server, started with the first job, imports their modules.

    Args:
        sweep_dir: the sweep's folder.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self._sweep_dir = sweep_dir
        self._around = freeze.capture_provenance(store.workspace(), all_of_it=True)
        self.head: Head | None = None

    def __enter__(self) -> Freezer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.head is not None:
            self.head.close(at_once=kind is not None)

    def state(self) -> object:
        """Return the state that one job leaves for the jobs frozen after it."""
        return self._around.pinned, self.head is None

    def freeze(self, config: DictConfig, run_dir: Path | None = None) -> FrozenJob:
        """Freeze one composed job, whose config must be set in `HydraConfig`.

        Args:
            config: the complete config, including Hydra's node.
            run_dir: the run's folder; by default `hydra.sweep.subdir` in the sweep's folder.

        Raises:
            ConfigError, RecordError: see `freeze.freeze`.
        """
        hydra = config.hydra
        run_dir = run_dir or self._sweep_dir / str(hydra.sweep.subdir)
        check_path_length(run_dir)
        with open_dict(hydra), read_write(hydra):
            hydra.runtime.output_dir = str(run_dir)
        overrides = composed.task_overrides(hydra)
        with hydra_job.given_variables(config, hydra):
            record = freeze.freeze(config, origin.new_id(), overrides, store.workspace(), self._around)
            variables = freeze.environment(config)
        record.sweep = SweepMember(str(self._sweep_dir), hydra.job.num)
        record.hydra = hydra_job.settings(hydra)
        record.command = hydra_files.command(hydra, record.overrides)
        job = FrozenJob(record, run_dir, hydra_files.texts(config), variables, hydra.output_subdir)
        compute = record.typed.compute
        backend = registry.chosen(compute, sweep=True)
        early = self.head is None and record.typed.sweep.resume is None and not compute.detach
        if early and backend.starts_ahead:
            registry.check(compute, sweep=True)
            path = snapshot.import_path(record.code, own=compute.python is None)
            self.head = backend.start_ahead(compute, path, targets([job]))
        return job


def targets(submitted: Sequence[FrozenJob]) -> list[str]:
    """Return the targets that the runs' processes import."""
    configs = [job.record.typed for job in submitted]
    nodes = [config.dataset for config in configs]
    nodes += [config.datastore for config in configs if not schema.is_local_datastore(config.datastore)]
    nodes += [config.model for config in configs if not is_scoring(config.task) or _is_models(config)]
    found = sorted({str(node["_target_"]) for node in nodes if node})
    return found or ([WITH_HYDRA] if any(job.record.needs_hydra for job in submitted) else [])


def _is_models(config: Config) -> bool:
    """Return whether a scored model's class may be imported in advance: its name comes from another run's record."""
    target = str(config.model.get("_target_"))
    return target in config.trusted or not trust.refusal(target, may_import=False)


def execute_jobs(
    submitted: Sequence[FrozenJob], folder: Path, head: Head | None = None, prepare: Callable[[], None] | None = None
) -> list[Record]:
    """Submit and execute every job; the failure of one does not affect the others.

    Args:
        submitted: the frozen jobs.
        folder: the sweep's folder, or the run's if it is not a sweep.
        head: result of the backend's `start_ahead`; the caller closes it.
        prepare: writes further files to the folder, after all checks have passed.

    Returns:
        The records, in the order of the jobs; with `compute.detach`, as they are right after submission.

    Raises:
        DataError, RecordError: the data are missing, or the folder cannot be written; nothing has run then.
        ConfigError: `compute` requests resources that are not available.
        SystemExit: after Ctrl-C (130).
    """
    config = submitted[0].record.typed
    asked = {objective.of(job.record.typed)[0] for job in submitted}  # before older records replace these
    is_sweep = submitted[0].record.sweep is not None
    backend = check(submitted)
    wanted = config.sweep.resume is not None and is_sweep
    if not wanted:
        _check_folders(submitted, fresh=True)
    with controller_lease(folder, backend, fresh=not wanted):
        runs = _resume(submitted, folder, backend) if wanted else [job.run_dir for job in submitted]
        if wanted:
            _check_folders([job for job in submitted if not job.is_done], fresh=False)
        if prepare is not None:
            prepare()
        plan = make_plan(submitted, folder, runs, backend)
        plan.write(folder)
        try:
            for job in submitted:
                if not (job.run_dir / "run.json").exists():
                    write(job)
        except KeyboardInterrupt:
            _cancel(folder, plan)
        sweep_state.note_submitted(folder)
    publish_location(folder, plan.runs)
    environment = {job.run_dir: job.environment for job in submitted}
    if config.compute.detach:
        controller.detach(folder, environment)
        print(f"In the background: {messages.counted(len(runs), 'run')} in {folder}\n  lab runs watch {folder}")
    else:
        _attached(folder, runs, environment, plan, head, next(iter(asked)) if len(asked) == 1 else None)
    return [_as_it_is(job) for job in submitted]


def _as_it_is(job: FrozenJob) -> Record:
    """Return a run's current record, or the submitted one if the run has been removed since."""
    try:
        return read_record(job.run_dir)
    except RecordError:
        return job.record


def write(job: FrozenJob) -> None:
    """Write a frozen run's record and the files that Hydra would save to its folder."""
    freeze.submit(job.record, job.run_dir)
    hydra_files.save_of_run(job.hydra, job.run_dir, job.subfolder)


def check(submitted: Sequence[FrozenJob]) -> Backend:
    """Check that the requests of a sweep's runs can be met and are compatible with each other.

    Returns:
        The backend that will execute them.

    Raises:
        DataError, ConfigError: see `execute_jobs`.
    """
    is_sweep = submitted[0].record.sweep is not None
    for record in (job.record for job in submitted if is_sweep):
        objective.check(record.typed)
    first = submitted[0].record.typed.compute
    backend = registry.chosen(first, is_sweep)
    raw = [job.record.config for job in submitted]
    sweep_settings.check_frozen(raw, backend.once_per_sweep)
    if (why := backend.folder_problem(submitted[0].run_dir, first)) is not None:
        raise ConfigError(why)
    if problems := dict.fromkeys(why for job in submitted for why in backend.run_problems(job.record)):
        raise ConfigError(list(problems))
    trackers.check(submitted[0].record.typed.tracking)
    for one in {exact.canonical(one["compute"]): one for one in raw}.values():
        registry.check(Config(one).compute, is_sweep)
    read = [{key: one.get(key) for key in ("dataset", "datastore", "script")} for one in raw]
    for data in {exact.canonical(one): one for one in read}.values() if not backend.is_remote else ():
        prerequisites.prepare(Config(data))
    return backend


def _attached(
    folder: Path,
    runs: Sequence[Path],
    environment: Mapping[Path, Mapping[str, str]],
    plan: sweep_state.Plan,
    head: Head | None,
    wanted: objective.Objective | None,
) -> None:
    with follow(store.workspace(), Tracking.of(plan.tracking)), terminating_politely():
        try:
            with monitor.shown(folder, list(runs)) as view:
                runner = controller.run(folder, view, environment, head)
        except KeyboardInterrupt:
            _cancel(folder, plan, runs)
        try:
            results.print_summary(folder, runs, runner.draw, wanted)
        except KeyboardInterrupt:
            if not (folder / "results.csv").exists():
                results.print_summary(folder, runs, None, wanted)
            sys.stderr.write(f"labrun: interrupted, but the runs are over; their records are in {folder}\n")
            sys.exit(EXIT_CANCELED)
        finally:
            runner.close()


def _cancel(folder: Path, plan: sweep_state.Plan, runs: Sequence[Path] = ()) -> NoReturn:
    """Handle Ctrl-C: close the runs that have not started, show the results so far, and exit."""
    controller.cancel_rest(folder, plan, "the sweep was canceled")
    if runs:
        results.print_summary(folder, runs, None)
    sys.stderr.write(f"labrun: canceled; the records are in {folder}\n")
    sys.exit(EXIT_CANCELED)


def make_plan(submitted: Sequence[FrozenJob], folder: Path, runs: Sequence[Path], backend: Backend) -> sweep_state.Plan:
    """Return the plan for the controller of a sweep's folder.

    Args:
        submitted: the frozen jobs.
        folder: the sweep's folder.
        runs: all its runs.
        backend: the backend that executes them.
    """
    # A finished run may have been executed by another backend, under other limits.
    record = next((job.record for job in submitted if not job.is_done), submitted[0].record)
    config, compute = record.typed, record.typed.compute
    needs = [job.record.typed.compute.on_a_node for job in submitted]
    capacity = backend.capacity(needs, compute)
    frozen = snapshot.import_path(record.code, own=compute.python is None)
    return sweep_state.Plan(
        target=backend.name,
        runs=[os.path.relpath(run_dir, folder) for run_dir in runs],
        path=frozen,
        preload=targets(submitted),
        cwd=os.getcwd(),
        name=f"{config.name}-{folder.name.rpartition('-')[2]}",
        tracking=record.config["tracking"],
        parallel=capacity.parallel,
        cores=capacity.cores,
        python=compute.python,
        gpus_per_run=max(count for _, count in needs),
        runs_per_gpu=compute.runs_per_gpu,
        max_failures=compute.max_failures,
        draws=record.sweep is not None and config.report == "auto",
        is_marked=True,
    )


def _check_folders(submitted: Sequence[FrozenJob], fresh: bool) -> None:
    folders = [job.run_dir for job in submitted]
    taken = [d for d in folders if fresh and (d / "run.json").exists()]
    if taken:
        raise RecordError(f"{taken[0]} already holds a run; a new sweep needs its own folder, or sweep.resume=FOLDER")
    twice = {str(d) for d in folders if folders.count(d) > 1}
    if twice:
        raise RecordError(
            f"hydra.sweep.dir and hydra.sweep.subdir give more than one run the folder {min(twice)}; each needs its own"
        )


@contextlib.contextmanager
def controller_lease(folder: Path, backend: Backend, fresh: bool = False) -> Iterator[None]:
    """Hold a sweep's lease, so that no other process resumes it; see `check_left`. A fresh sweep needs no check."""
    if not fresh:
        check_left(folder, backend)
    own = lease.Lease(SweepState(folder))
    try:
        yield
    finally:
        own.release()


def _resume(submitted: Sequence[FrozenJob], folder: Path, backend: Backend) -> list[Path]:
    """Assign each job the run that it repeats, and queue all incomplete runs again.

    Returns:
        Every run of the sweep: the existing ones, then the new ones.
    """
    old = resume.previous_runs(folder)
    _check_same(submitted, old, folder)
    fresh_code = submitted[0].record.typed.sweep.resume_code == "new"
    resume.warn_about_changes([job.record for job in submitted], old, fresh_code)
    runs, taken = [one.run_dir for one in old], 0
    held = backend.attached(folder)
    frozen = None if fresh_code or not old else snapshot.import_path(old[0].record.code)
    matched = resume.match([job.record for job in submitted], old, frozen)
    for job, one in zip(submitted, matched, strict=True):
        if one is None:
            _add(job, folder, runs)
            if old and not fresh_code:
                job.record.code = old[0].record.code
        else:
            _repeat(job, one.run_dir, is_held=one.run_dir in held, fresh_code=fresh_code)
            taken += job.is_done
    log.info("Resuming %s: %d of %d runs are done", folder, taken, len(submitted))
    asked = {job.run_dir for job in submitted}
    others = sum(not one.record.finished and one.run_dir not in asked for one in old)
    if others:
        log.info("%s of the sweep that this command does not include will also run", messages.counted(others, "run"))
    return runs


def _add(job: FrozenJob, folder: Path, runs: list[Path]) -> None:
    """Give a new job the next free number of a sweep that it continues, and add its folder to the sweep's runs."""
    number = len(runs)
    while (folder / str(number)).exists() or folder / str(number) in runs:
        number += 1
    _move(job.record, job.run_dir, folder / str(number))
    job.run_dir, job.record.sweep = folder / str(number), SweepMember(str(folder), number)
    runs.append(job.run_dir)


def _repeat(job: FrozenJob, run_dir: Path, is_held: bool, fresh_code: bool) -> None:
    """Let a job be the run that it repeats; queue that again unless it is done, or the backend still holds it."""
    # Read the record again: hashing the data took a while, and a Slurm run may have ended since.
    job.run_dir, then = run_dir, read_record(run_dir)
    job.is_done = then.status in (COMPLETED, STOPPED)
    if not (job.is_done or (is_held and not then.finished)):
        if then.finished:
            finalize.requeue(run_dir, then)
        forget_requests(run_dir)
        then.config["compute"] = job.record.config["compute"]
        then.overrides = resume.with_compute(then.overrides, job.record.overrides)
        then.code = job.record.code if fresh_code else then.code
        write_record(run_dir, then)
    job.record = then


def _move(record: Record, old: Path, new: Path) -> None:
    """Replace the run's folder in a frozen run's configuration (`${hydra:runtime.output_dir}`)."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, list):
            return [moved(item) for item in value]
        is_own = isinstance(value, str) and (value == str(old) or f"{old}/" in value)
        return value.replace(str(old), str(new)) if is_own else value

    record.config, record.hydra = moved(record.config), moved(record.hydra)


def _check_same(submitted: Sequence[FrozenJob], old: Sequence[resume.PreviousRun], folder: Path) -> None:
    names = {one.record.name for one in old}
    if names and not names & {job.record.name for job in submitted}:
        raise RecordError(
            f"sweep.resume: the sweep in {folder} is of {', '.join(sorted(names))}, but this command's runs are of "
            f"{submitted[0].record.name}: leave sweep.resume out, or use name={min(names)} if they belong to it"
        )


def check_left(folder: Path, backend: Backend) -> None:
    """Check that no controller drives a sweep, so that it can be resumed, and end its runs in other backends.

    Args:
        folder: the sweep's folder.
        backend: the backend that will resume it.

    Raises:
        RecordError: another controller is active.
    """
    holder = lease.living(SweepState(folder))
    if holder is not None:
        raise RecordError(
            f"the sweep in {folder} is still running, under process {holder.pid} on {holder.host}: "
            f"'lab runs watch {folder}' shows it"
        )
    _end_in_other_backends(folder, backend)


def _end_in_other_backends(folder: Path, backend: Backend) -> None:
    """End all runs of a sweep that other backends may still run or requeue, since this one takes over."""

    def unfinished() -> set[Path]:
        return {one.run_dir for one in resume.previous_runs(folder) if not one.record.finished}

    for other in registry.all_known():
        if other is backend or not other.outlives_controller:
            continue
        if ended := other.release(folder, unfinished):
            log.info("%s jobs %s were canceled: their runs continue here", other.name.capitalize(), ", ".join(ended))


def answer(record: Record, run_dir: Path) -> None:
    """Report how a single run that was executed outside this process ended.

    Raises:
        SystemExit: it failed (1) or was canceled (130).
    """
    if record.status == FAILED:
        error = record.error or Failure()
        reason = next(iter(error.message.splitlines()), "?")
        output = run_dir / "driver.log"
        where = f"  log: {output}\n" if output.exists() else ""
        sys.stderr.write(terminal.lines(f"labrun: the run failed: {error.type}: {reason}\n{where}"))
        sys.exit(1)
    if record.status == CANCELED:
        sys.stderr.write(f"labrun: canceled; the record is in {run_dir}\n")
        sys.exit(EXIT_CANCELED)
