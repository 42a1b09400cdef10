"""Runs as Slurm jobs, submitted through submitit as arrays or as jobs of several runs, and the tracking of these jobs.

A job executes `job.py` with a JSON manifest; nothing is pickled. The journal `jobs.jsonl` maps runs to jobs. It is
written before and after each sbatch, so that a later controller finds the jobs again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.backends.base import Backend, Calls, Capacity, Head, Resources
from labrun.backends.local import worker
from labrun.backends.local.server import frozen_file
from labrun.backends.slurm import partitions
from labrun.backends.slurm.queue import (
    ASK_S,
    OVER,
    JobState,
    end_jobs,
    known_jobs,
    last_lines,
    note_job,
    note_submission,
    scancel,
    states,
)
from labrun.backends.slurm.sbatch import minutes_asked, signal_delay_s
from labrun.config.schema import SPECIAL, Compute
from labrun.runs.end_requests import end_requested
from labrun.runs.finalize import (
    cancel_reason,
    close,
    close_requested,
    close_unstarted,
    note_interrupted,
    request,
    requeue,
)
from labrun.runs.ownership import foreign_writer
from labrun.runs.record import FAILED, PREEMPTED, RUNNING, Record, RunPaths, read_record, replace_text
from labrun.runs.status import EndReason
from labrun.runs.sweep_state import Plan, SweepState

if TYPE_CHECKING:
    from labrun.backends.slurm.manifest import Manifest

log = logging.getLogger(__name__)

TRIALS = 10
"""Default number of trials of a search, or calls of an application, that are submitted to Slurm at once."""
GONE_S = 5.0
"""How long a job must be gone before the controller closes the record of its run, in seconds."""


@dataclass
class _Active:
    run_dir: Path
    needs: Resources
    job: str
    gone_since: float | None = None
    canceled: bool = False


@dataclass
class JobSettings:
    """Settings that a sweep's jobs share.

    Args:
        state: the state of the sweep's folder.
        name: the name shown by squeue.
        path: the import path of the runs' processes.
        preload: targets that a job's pool imports in advance.
        cwd: the working folder of the jobs.
    """

    state: SweepState
    name: str
    path: Sequence[str]
    preload: Sequence[str]
    cwd: str
    python: str | None = None


class SlurmJobs:
    """Runs submitted runs on a Slurm cluster; see `Executor`."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        self._waiting: list[tuple[Path, Resources]] = []
        self._active: dict[Path, _Active] = {}
        self._closed: list[Path] = []
        self._next_ask = 0.0
        self._stamps: dict[Path, int] = {}
        self._known = known_jobs(settings.state.jobs)
        self._limits: dict[str, int] = {}
        """Number of runs of each array that may be active at once."""
        self._full_at = 0
        """Number of submitted runs when others had to wait for them; 0 if none had to."""
        self._tries: dict[Path, int] = {}
        """Retries of each run with several processes in this session."""

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Queue a run, whose record is written, for submission by the next poll, or track its existing job again."""
        job = self._known.pop(run_dir, None)
        state = states([job])[job] if job else JobState.GONE
        if job and state not in OVER:
            log.info("Run %s is already in Slurm job %s (%s)", run_dir.name, job, state.lower())
            self._active[run_dir] = _Active(run_dir, needs, job)
            return
        record = read_record(run_dir)
        if record.status in (RUNNING, PREEMPTED):
            why = f"its Slurm job {job} is gone ({state})" if job else "its controller ended"
            note_interrupted(run_dir, record, why)
        self._waiting.append((run_dir, needs))
        self._full_at = 0

    @property
    def busy(self) -> bool:
        """Whether any run is waiting or active."""
        return bool(self._waiting or self._active or self._closed)

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Submit waiting runs, then return those that have ended.

        Raises:
            LabrunError: sbatch refuses the jobs; the message contains its reason.
        """
        if self._waiting and not (self._full_at and len(self._active) == self._full_at):
            waiting, self._waiting = self._waiting, []
            self._submit_all(waiting)
        if self._active:
            time.sleep(timeout_s)
        ended, self._closed = self._closed, []
        for active in list(self._active.values()):
            if self._changed(active.run_dir) and (record := read_record(active.run_dir)).finished:
                if self._has_tries_left(active, record) or _is_retried_in_job(active, record):
                    continue  # its job may still write; `_ask` handles it when the job is over
                ended.append(active.run_dir)
                del self._active[active.run_dir]
        if time.monotonic() >= self._next_ask and self._active:
            self._next_ask = time.monotonic() + ASK_S
            ended += self._ask()
        return ended

    def _has_tries_left(self, active: _Active, record: Record) -> bool:
        """Return whether a failed run of several processes is retried in another job; none of them can retry alone."""
        several = record.typed.compute.ranks > 1
        tries = self._tries.get(active.run_dir, 0)
        return record.status == FAILED and several and not active.canceled and tries < active.needs.retries

    def cancel(self, run_dir: Path, why: str = "canceled") -> None:
        """Ask an active run to stop; cancel a waiting one at once."""
        active = self._active.get(run_dir)
        if active is None:
            for entry in [entry for entry in self._waiting if entry[0] == run_dir]:
                self._waiting.remove(entry)
                close_unstarted(run_dir, why)
                self._closed.append(run_dir)
            return
        active.canceled = True
        if not end_requested(run_dir):
            request(run_dir)
        self._drop_pending(why)

    def cancel_all(self, at_once: bool = False, why: str = "canceled") -> None:
        """Cancel waiting runs, and ask active runs to stop, or end them at once."""
        for run_dir, _ in list(self._waiting):
            self.cancel(run_dir, why)
        for active in self._active.values():
            active.canceled = True
            request(active.run_dir, why)
        if at_once:
            scancel({active.job for active in self._active.values()})
        else:
            self._drop_pending(why)

    def draw(self, run_dir: Path) -> bool:
        """Draw a finished run's pictures on this machine, which has the folder but may lack the nodes' software."""
        return worker.draw_quietly(run_dir)

    def close(self) -> None:
        """Do nothing: Slurm owns the jobs."""

    def _drop_pending(self, why: str) -> None:
        """Cancel pending jobs whose runs are all canceled."""
        present = states({active.job for active in self._active.values()})
        by_job: dict[str, list[_Active]] = {}
        for active in self._active.values():
            by_job.setdefault(active.job, []).append(active)
        for job, members in by_job.items():
            if present[job] == JobState.PENDING and all(member.canceled for member in members):
                scancel([job])
                for member in members:
                    del self._active[member.run_dir]
                    record = read_record(member.run_dir)
                    if not record.finished:
                        close_requested(member.run_dir, record, cancel_reason(record, why))
                    self._closed.append(member.run_dir)

    def _changed(self, run_dir: Path) -> bool:
        try:
            stamp = RunPaths(run_dir).record.stat().st_mtime_ns
        except OSError:
            return False
        before, self._stamps[run_dir] = self._stamps.get(run_dir), stamp
        return before != stamp

    def _ask(self) -> list[Path]:
        """Close the records of runs whose jobs have gone without closing them. Return these runs."""
        present = states({active.job for active in self._active.values()})
        ended: list[Path] = []
        for active in list(self._active.values()):
            if not active.canceled and end_requested(active.run_dir):
                self.cancel(active.run_dir)
            state = present[active.job]
            if active.run_dir not in self._active:
                continue
            if state not in OVER:
                active.gone_since = None
                continue
            active.gone_since = active.gone_since or time.monotonic()
            if time.monotonic() - active.gone_since >= GONE_S:
                ended += self._close_gone(active, state)
        return ended

    def _close_gone(self, active: _Active, state: str) -> list[Path]:
        del self._active[active.run_dir]
        record = read_record(active.run_dir)
        if self._has_tries_left(active, record):
            self._tries[active.run_dir] = self._tries.get(active.run_dir, 0) + 1
            log.info("Run %s failed (%s); retrying", record.id, record.reason)
            requeue(active.run_dir, record)
            self._waiting.append((active.run_dir, active.needs))
            return []
        if record.finished:
            return [active.run_dir]
        ending = f"its Slurm job {active.job} ended as {state}"
        if state == JobState.GONE and not record.attempts:  # a pending array task that is canceled leaves no trace
            ending = f"Slurm no longer knows its job {active.job}, which never started"
            active.canceled = True
        if active.canceled or state == JobState.CANCELLED:
            close_requested(active.run_dir, record, ending)
            return [active.run_dir]
        again = record.status == PREEMPTED or (len(record.attempts) <= active.needs.retries and record.attempts)
        if again:
            log.info("Run %s: %s; retrying", record.id, ending)
            note_interrupted(active.run_dir, record, ending)
            self._waiting.append((active.run_dir, active.needs))
            return []
        output = self._settings.state.slurm / f"{active.job}_0_log.err"
        details = ""
        if not record.attempts:
            words = last_lines(output)
            details = (
                f": {words} ({output})" if words else ", and it printed nothing: did a line of compute.setup end it?"
            )
        close(active.run_dir, record, FAILED, EndReason.JOB_ENDED, f"{ending} before the run was done{details}")
        return [active.run_dir]

    def _submit_all(self, waiting: Sequence[tuple[Path, Resources]]) -> None:
        """Submit one array for all runs with the same requirements."""
        groups: dict[str, list[tuple[Path, Resources, Compute]]] = {}
        most = partitions.largest_array()
        for run_dir, needs in waiting:
            settings = read_record(run_dir).typed.compute
            key = json.dumps([dataclasses.asdict(settings), sorted(needs.environment.items())], sort_keys=True)
            groups.setdefault(key, []).append((run_dir, needs, settings))
        for group in groups.values():
            compute = self._share(group[0][2], len(group))
            if compute is None:
                self._waiting += [(run_dir, needs) for run_dir, needs, _ in group]
                continue
            size = compute.runs_per_job
            jobs = [[(run_dir, needs) for run_dir, needs, _ in group[i : i + size]] for i in range(0, len(group), size)]
            if compute.max_parallel is not None and len(jobs) > most:  # one array at a time
                self._waiting += [entry for members in jobs[most:] for entry in members]
                jobs = jobs[:most]
            for start in range(0, len(jobs), most):
                self._submit_array(jobs[start : start + most], compute)
        self._full_at = len(self._active) if self._waiting else 0

    def _share(self, compute: Compute, runs: int) -> Compute | None:
        """Apply what is left of the sweep's `max_parallel` to a group; None: the group must wait for other runs."""
        most = compute.max_parallel
        if most is None:
            return compute
        taken: dict[str, int] = {}
        for active in self._active.values():
            array = active.job.partition("_")[0]
            taken[array] = min(taken.get(array, 0) + 1, self._limits.get(array, most))
        left = most - sum(taken.values())
        return None if left < 1 else dataclasses.replace(compute, max_parallel=min(left, runs))

    def _submit_array(self, jobs: list[list[tuple[Path, Resources]]], compute: Compute) -> None:
        settings, token = self._settings, secrets.token_hex(6)
        folder = settings.state.slurm
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        slots = _slots(compute, max(len(members) for members in jobs))
        runs = [[str(run_dir) for run_dir, _ in members] for members in jobs]
        file = folder / f"{token}.json"
        parameters = _parameters(compute, len(jobs), max(map(len, jobs)), slots, settings, token)
        manifest: Manifest = {
            "token": token,
            "jobs": runs,
            "path": list(settings.path),
            "preload": list(settings.preload),
            "own_python": settings.python is not None,
            "parallel": slots,
            "ledger": str(settings.state.jobs),  # its name in earlier versions' manifests
            "signal_delay_s": parameters["signal_delay_s"],
            "timeout_min": compute.timeout_min,
            "gpus_per_run": compute.gpus_per_run,
            "runs_per_gpu": compute.runs_per_gpu,
        }
        replace_text(file, json.dumps(manifest) + "\n")
        note_submission(settings.state.jobs, token, runs)
        script = frozen_file(settings.path, "slurm/job.py")
        python = shlex.quote(settings.python or sys.executable)
        command = f"{python} -P -u {shlex.quote(str(script))} {shlex.quote(str(file))}"
        variables = {**jobs[0][0][1].environment, "PYTHONSAFEPATH": "1"}
        from labrun.backends.slurm.batch import submit  # submitit takes a while to import

        job = submit(folder, command, len(jobs), parameters, variables)
        note_job(settings.state.jobs, token, job, is_array=len(jobs) > 1)
        if compute.max_parallel is not None:
            self._limits[job] = compute.max_parallel
        shown = f"{len(jobs)} jobs ({sum(map(len, jobs))} runs)" if len(jobs) > 1 else "one job"
        log.info("Submitted Slurm job %s: %s", job, shown)
        for index, members in enumerate(jobs):
            for run_dir, needs in members:
                self._active[run_dir] = _Active(run_dir, needs, f"{job}_{index}" if len(jobs) > 1 else job)


def _slots(compute: Compute, runs: int) -> int:
    """Return how many runs of a job are active at once."""
    if runs == 1:
        return 1
    cpus = compute.cpus_per_run
    partition = partitions.chosen_partition(compute)
    cores = partition.cpus if partition is not None else cpus
    slots = max(1, (compute.cpus_per_job or min(runs * cpus, cores)) // cpus)
    if compute.gpus_per_run:
        gpus = partition.gpus if partition is not None else compute.gpus_per_run
        share = compute.runs_per_gpu if compute.gpus_per_run == 1 else 1
        slots = min(slots, max(1, gpus * share // compute.gpus_per_run))
    if compute.mem_gb and partition is not None:
        slots = min(slots, max(1, int(partition.memory_gb // compute.mem_gb)))
    return min(slots, runs, compute.max_parallel or runs)


def _parameters(
    compute: Compute, jobs: int, runs: int, slots: int, settings: JobSettings, token: str
) -> dict[str, Any]:
    """Return the parameters for submitit's executor."""
    options: dict[str, Any] = {"chdir": settings.cwd, "requeue": True, **partitions.sbatch_options(compute.extra)}
    if compute.environment and str(options.get("export", "ALL")).upper() != "ALL":  # pass the run's variables through
        kept = [] if str(options["export"]).upper() in ("NONE", "NIL") else str(options["export"]).split(",")
        options["export"] = ",".join([*kept, *compute.environment])
    per_job = max(1, (compute.max_parallel or jobs * slots) // slots)
    parameters: dict[str, Any] = {
        "job_name": settings.name,
        "comment": token,
        "nodes": compute.nodes,
        "ntasks_per_node": compute.tasks_per_node,
        "cpus_per_task": compute.cpus_per_run * slots,
        "array_parallelism": min(jobs, per_job),
        "signal_delay_s": signal_delay_s(compute),
        "time": minutes_asked(compute, -(-runs // slots)),
        "additional_parameters": options,
        "wckey": None,
        "setup": compute.setup or None,
        "srun_args": [
            f"--cpus-per-task={compute.cpus_per_run * slots}",
            "--kill-on-bad-exit=1",
            *compute.srun_args,
        ],
    }
    if compute.mem_gb is not None:
        parameters["mem"] = f"{round(compute.mem_gb * 1024 * slots)}MB"
    if compute.gpus_per_run:
        shared = -(-slots // compute.runs_per_gpu) if compute.gpus_per_run == 1 else slots
        parameters["gpus_per_node"] = compute.gpus_per_run * shared
    for key in ("partition", "account", "qos"):
        if getattr(compute, key) is not None:
            parameters[key] = getattr(compute, key)
    for key in ("mem", "gpus_per_node", "cpus_per_task"):  # sbatch uses the last value, which would be ours
        if key.replace("_", "-") in options:
            parameters.pop(key, None)
    if "cpus-per-task" in options:
        parameters["srun_args"][0] = f"--cpus-per-task={options['cpus-per-task']}"
    return parameters


def _is_retried_in_job(active: _Active, record: Record) -> bool:
    """Return whether the pool in a failed run's own job is about to retry it; that pool counts the retries itself."""
    if record.status != FAILED or active.canceled or record.typed.compute.ranks > 1:
        return False
    jobs = [attempt.job for attempt in record.attempts]
    return bool(jobs) and sum(job == jobs[-1] for job in jobs) <= active.needs.retries


class Slurm(Backend):
    """Executes runs as jobs on the Slurm cluster that this machine belongs to."""

    name = "slurm"
    program = "sbatch"
    survey = partitions.SINFO
    outlives_controller = True
    settings = frozenset(SPECIAL)
    once_per_sweep = ()  # each job has its own settings

    def problems(self, compute: Compute) -> Iterable[str]:
        """Yield a message for everything that the partition cannot provide or sbatch refuses."""
        return partitions.problems(compute)

    def folder_problem(self, run_dir: Path, compute: Compute) -> str | None:
        """Refuse paths with a percent sign, which Slurm treats as a pattern."""
        return f"{run_dir}: Slurm treats a % in the path of a job's files as a pattern" if "%" in str(run_dir) else None

    def summary(self, compute: Compute) -> str:
        """Describe the partitions, or say why there are none."""
        try:
            described = "; ".join(partitions.describe(one) for one in partitions.partitions(compute))
        except partitions.NoClusterError as error:
            return error.why
        return f"partitions {described}"

    def status(self) -> list[str]:
        """Return lines on the partitions, their nodes and this user's jobs."""
        return ["Slurm", *(f"  {line}" for line in partitions.status())]

    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """Return `max_parallel`, or the number of runs: the cluster decides how many are active."""
        return Capacity(compute.max_parallel or len(needs))

    def trials(self, wanted: int | None, plan: Plan, compute: Compute) -> int:
        """Return ten unless the sweep or `max_parallel` says otherwise: waiting trials were proposed with less data."""
        return min(wanted or TRIALS, compute.max_parallel or wanted or TRIALS)

    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> SlurmJobs:
        """See `Backend.executor`."""
        return SlurmJobs(JobSettings(SweepState(folder), plan.name, plan.path, plan.preload, plan.cwd, plan.python))

    def attached(self, folder: Path) -> set[Path]:
        """Return the runs whose jobs from an earlier session are pending or running."""
        known = known_jobs(SweepState(folder).jobs)
        found = states(known.values())
        return {run for run, job in known.items() if found[job] not in OVER}

    def release(self, folder: Path, unfinished: Callable[[], set[Path]]) -> list[str]:
        """Cancel jobs of an earlier session, which Slurm may still run or requeue."""
        journal = SweepState(folder).jobs
        if not journal.exists():
            return []
        left = unfinished()
        return sorted(end_jobs({job for run, job in known_jobs(journal).items() if run in left}))

    def is_over(self, job: str) -> bool | None:
        """Return whether a job has ended, according to squeue or accounting; None if unknown."""
        if shutil.which("squeue") is None:
            return None
        state = states([job])[job]
        return None if state == JobState.UNKNOWN else state in OVER

    def step(self, job: str, node: str | None, programs: str = "", tty: bool = False) -> list[str]:
        """Return `srun` with its options; for an array task, a shell first asks Slurm for the job's number."""
        srun, squeue = (os.path.join(programs, name) for name in ("srun", "squeue"))
        there = [f"--nodelist={node}"] if node else []
        options = [*there, "--overlap", "--nodes=1", "--ntasks=1", "--quiet", *["--pty"] * tty]
        if job.isdigit():
            return [srun, f"--jobid={job}", *options]
        number = f"job=$({shlex.quote(squeue)} --noheader --jobs={shlex.quote(job)} --format=%A)"
        return ["sh", "-c", f'{number} && exec {shlex.quote(srun)} --jobid="$job" "$@"', "srun", *options]

    def describe_survey(self, output: str) -> str:
        """Describe the partitions."""
        return ", ".join(map(partitions.describe, partitions.parsed(output))) or "no partitions"

    def blocking_job(self, name: str, options: Sequence[str], programs: str = "") -> list[str]:
        """Return `srun` with its options."""
        return [os.path.join(programs, "srun"), "--ntasks=1", f"--job-name={name}", *options]

    def cancel_unpolled(self, folder: Path, run_dir: Path) -> bool | None:
        """Cancel a pending job; the supervisor of a running one obeys the request itself."""
        journal = SweepState(folder).jobs
        # Another user who can write the journal could insert any of this user's jobs.
        job = known_jobs(journal).get(run_dir) if foreign_writer([journal]) is None else None
        if job is None:
            return None
        state = states([job])[job]
        if state == JobState.PENDING:
            scancel([job])
            return True
        return None if state in OVER else False

    def room(self, compute: Compute) -> int:
        """Return `max_parallel`, or ten."""
        return compute.max_parallel or TRIALS

    def calls(self, folder: Path, compute: Compute, modules: Sequence[str]) -> Calls:
        """See `Backend.calls`."""
        from labrun.backends.slurm.calls import SlurmCalls

        return SlurmCalls(folder, compute)
