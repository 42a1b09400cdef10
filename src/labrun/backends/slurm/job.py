"""The program of a Slurm job: executes the job's runs in a local pool, inside the job's allocation.

It is started by path, with only the standard library; the manifest holds the import path (the frozen code). The first
process of a job is its supervisor. It enforces the runs' limits, and when Slurm ends the job early (preemption, time
limit) it makes the runs save their state and requeues the job. The other processes of a run with several nodes or tasks
only train.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labrun.backends.slurm.manifest import Manifest

SAVE_S = 25.0
"""Maximum time for a run to save its state, in seconds."""


class StopReason(StrEnum):
    """Why the runs of a job must stop."""

    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    """By a user or an administrator."""
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    BROKEN = "broken"
    """Another process of the same run has failed."""


def main(manifest_path: str) -> int:
    """Execute this job's part of the manifest. Return the exit code."""
    manifest: Manifest = json.loads(Path(manifest_path).read_text(encoding="utf-8"))
    sys.path[:] = [*manifest["path"], *sys.path] if manifest["own_python"] else manifest["path"]
    runs = manifest["jobs"][int(os.environ["SLURM_ARRAY_TASK_ID"]) if len(manifest["jobs"]) > 1 else 0]
    ranks, rank = int(os.environ.get("SLURM_NTASKS", "1")), int(os.environ.get("SLURM_PROCID", "0"))
    if ranks > 1:
        meet(rank, ranks)
        if rank:
            return take_part(runs[0], rank)
    return JobSupervisor(manifest, [Path(run) for run in runs], ranks).supervise()


def job_id() -> str:
    """Return this job's id, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def ask(*command: str) -> str:
    """Return the output of a command; empty if it fails."""
    from labrun._io import run_command

    return run_command(list(command), timeout_s=30) or ""


def meet(rank: int, ranks: int) -> None:
    """Set torch's rendezvous variables for the processes of this run. Use an address: a node's name may not resolve."""
    first = (ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split() or ["localhost"])[0]
    address = re.search(r"NodeAddr=(\S+)", ask("scontrol", "show", "node", first))
    os.environ.update(
        MASTER_ADDR=address.group(1) if address else first,
        MASTER_PORT=str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000),
        RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_RANK=os.environ["SLURM_LOCALID"],
        NODE_RANK=os.environ["SLURM_NODEID"],
    )


def take_part(run_dir: str, rank: int) -> int:
    """Train as a further process of a run; its log is `driver.<rank>.log`."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    log = os.open(os.path.join(run_dir, f"driver.{rank}.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(log, standard)
    from labrun import garbage
    from labrun.backends.local import worker

    garbage.exempt_libraries()
    code = worker.assist(run_dir, int(os.environ.get("SLURM_CPUS_PER_TASK", "1")))
    os._exit(code)  # exit at once, as the first process's child does: nothing needs cleanup


class JobSupervisor:
    """The supervisor in the first process of a job.

    Args:
        manifest: the manifest, written by the submitter.
        runs: this job's runs.
        ranks: number of processes of its run.
    """

    def __init__(self, manifest: Manifest, runs: list[Path], ranks: int = 1) -> None:
        self.manifest, self.runs, self.ranks, self.job = manifest, runs, ranks, job_id()
        self.signaled: signal.Signals | None = None
        self.began = time.time()
        self.due: float | None = None
        """When the runs reach their time limit, in seconds since the epoch; None while unknown."""

    def supervise(self) -> int:
        """Execute the runs. Return 0, or 1 if one has failed or if its other processes would wait forever."""
        from labrun.backends.base import resources
        from labrun.backends.local.pool import LocalPool
        from labrun.backends.local.server import Server
        from labrun.backends.local.slots import Slots
        from labrun.backends.slurm.queue import newest_submission
        from labrun.runs import peer_errors
        from labrun.runs.machine import visible_gpus
        from labrun.runs.record import COMPLETED, FAILED, RUNNING, read_record, write_record
        from labrun.runs.recording import JOB_VARIABLE

        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._note)
        job = {
            "cluster": "slurm",
            "id": self.job,
            "node": os.environ.get("SLURMD_NODENAME"),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        }
        os.environ[JOB_VARIABLE] = json.dumps(job)
        newest = newest_submission(Path(self.manifest["ledger"]))
        mine = [run for run in self.runs if self._is_mine(run, newest)]
        if not mine:
            return int(self.ranks > 1)  # with 1, srun ends the other processes
        alone, limit = len(self.runs) == 1, self.manifest["timeout_min"]
        gpus = visible_gpus() if self.manifest["gpus_per_run"] and len(self.runs) > 1 else None
        slots = Slots(self.manifest["parallel"], gpus=gpus, share=self.manifest["runs_per_gpu"])
        if self.ranks > 1:
            peer_errors.note_log_sizes(mine[0])
        python = sys.executable if self.manifest["own_python"] else None

        def start(threads: int) -> Server:
            return Server(self.manifest["path"], self.manifest["preload"], python, in_job=True, threads=threads)

        pool = LocalPool(start, slots)
        for run in mine:
            # the pool does not kill a run that has the job to itself at its limit: the run resumes from its checkpoint
            pool.submit(run, resources(read_record(run), alone=alone, once=self.ranks > 1))
        while pool.busy:
            if alone and limit is not None and self.due is None and read_record(mine[0]).status == RUNNING:
                self.due = time.time() + 60 * limit
            why = self._stop_reason()
            if why is not None:
                self._stop_runs(pool, mine, why)
                break
            for ended in pool.poll():
                print(f"{ended}: {read_record(ended).status}", flush=True)
        pool.close()
        if self.ranks > 1 and peer_errors.add_cause(mine[0], record := read_record(mine[0])):
            write_record(mine[0], record)
        left = {read_record(run).status for run in mine}
        return int(FAILED in left or (self.ranks > 1 and left != {COMPLETED}))

    def _note(self, number: int, frame: object) -> None:
        self.signaled = signal.Signals(number)

    def _is_mine(self, run: Path, newest: Mapping[Path, str]) -> bool:
        """Return whether this job must execute a run: it is not finished, canceled, resubmitted or running elsewhere.

        Args:
            run: the run's folder.
            newest: the token of each run's latest submission.
        """
        from labrun.runs.end_requests import end_requested
        from labrun.runs.finalize import close_unstarted, note_interrupted
        from labrun.runs.record import (
            PREEMPTED,
            RUNNING,
            UNREACHABLE_AFTER_S,
            heartbeat_age_s,
            process_lives,
            read_record,
        )

        record = read_record(run)
        if record.finished:
            return False
        if newest.get(run) != self.manifest["token"]:
            print(f"{run} has been submitted again; this job skips it", flush=True)
            return False
        if record.status == RUNNING and (record.job is None or record.job.id != self.job):
            age = heartbeat_age_s(run)
            if process_lives(record.process) or (age is not None and age < UNREACHABLE_AFTER_S):
                print(f"{run} is running elsewhere; this job skips it", flush=True)
                return False
        if end_requested(run):
            close_unstarted(run)
            return False
        if record.status in (RUNNING, PREEMPTED):
            note_interrupted(run, record, "its Slurm job was requeued")
        return True

    def _stop_reason(self) -> StopReason | None:
        """Return why the runs must stop now (see `why_signaled`), or None: Slurm warns of the time limit early."""
        if self.signaled is not None:
            number, self.signaled = self.signaled, None
            shown = shown_job(self.job)
            why = why_signaled(number, shown)
            if (
                why == StopReason.CANCELED
                and int(os.environ.get("SLURM_NTASKS", "1")) > 1
                and shown.get("JobState") == "RUNNING"
            ):
                why = StopReason.BROKEN  # the job was not canceled: srun ends the other processes when one has failed
            print(f"signal {number.name}: {why}", flush=True)
            if why != StopReason.TIMEOUT or number != signal.SIGUSR2:
                return why
            self.due = min(self.due or math.inf, time_of(shown.get("EndTime")) - self.manifest["signal_delay_s"])
        return None if self.due is None or time.time() < self.due else StopReason.TIMEOUT

    def _stop_runs(self, pool: Any, mine: list[Path], why: StopReason) -> None:
        """Save the runs' state and requeue the job on preemption or timeout; otherwise end the runs."""
        from labrun.runs.finalize import close, request
        from labrun.runs.record import FAILED, PREEMPTED, read_record
        from labrun.runs.status import EndReason

        if why == StopReason.CANCELED:
            for run in mine:
                if not read_record(run).finished:
                    request(run, f"Slurm job {self.job} was canceled")
            pool.cancel_all()
            while pool.busy:
                pool.poll()
            return
        if why == StopReason.BROKEN:
            for run in {*pool.drop(), *mine}:
                record = read_record(run)
                if not record.finished:
                    reason = "another process of the run failed"
                    close(run, record, FAILED, EndReason.PROCESS_FAILED, reason)
            return
        pool.preempt()
        end = time.monotonic() + min(SAVE_S, max(3.0, self.manifest["signal_delay_s"] - 3.0))
        while pool.busy and time.monotonic() < end:
            pool.poll(0.1)
        for run in pool.drop():
            self._put_back(run, why)
        if why == StopReason.TIMEOUT:
            for run in mine:
                record = read_record(run)
                if record.status == PREEMPTED and not self._has_advanced(run, mine):
                    self._over_time(run, record)
        if any(not read_record(run).finished for run in mine) and why != StopReason.REQUEUED:
            ask("scontrol", "requeue", self.job)

    def _put_back(self, run: Path, why: StopReason) -> None:
        """Mark a run that had to be killed as preempted; it starts again, from its last checkpoint if it has one."""
        from labrun.runs.record import PREEMPTED, read_record, timestamp, write_record

        record = read_record(run)
        if not record.finished and record.attempts:
            record.status, record.error = PREEMPTED, None
            record.attempts[-1].end(PREEMPTED, why, timestamp())
            write_record(run, record)

    def _has_advanced(self, run: Path, mine: list[Path]) -> bool:
        """Return whether to requeue: the run saved a checkpoint this time, or other runs of the job were completed."""
        from labrun.runs.record import COMPLETED, RunPaths, read_record

        for saved in RunPaths(run).checkpoints.glob("*"):  # written by labrun or by a script
            with contextlib.suppress(OSError):
                if saved.stat().st_mtime > self.began - 5:
                    return True
        return len(mine) > 1 and any(read_record(other).status == COMPLETED for other in mine)

    def _over_time(self, run: Path, record: Any) -> None:
        from labrun.runs.finalize import close
        from labrun.runs.record import FAILED
        from labrun.runs.status import EndReason

        limit = record.typed.compute.timeout_min
        reason = f"compute.timeout_min={limit:g}" if limit is not None else "the job's time limit"
        record.attempts[-1].status, record.attempts[-1].reason = FAILED, reason
        close(
            run,
            record,
            FAILED,
            EndReason.LIMIT_EXCEEDED,
            f"ended by {reason}; it had no checkpoint to resume from",
        )


def shown_job(job: str) -> dict[str, str]:
    """Return the fields that scontrol shows for a job; empty if it does not answer."""
    return dict(re.findall(r"(\w+)=(\S+)", ask("scontrol", "show", "job", job)))


def why_signaled(number: signal.Signals, shown: Mapping[str, str]) -> StopReason:
    """Return the meaning of a signal to a job.

    Args:
        number: the signal.
        shown: the fields that scontrol shows for the job (`shown_job`).
    """
    if int(shown.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return StopReason.REQUEUED
    if shown.get("JobState") == "PREEMPTED" or shown.get("PreemptTime", "None") not in ("None", "Unknown"):
        return StopReason.PREEMPTED
    if number == signal.SIGUSR2 or shown.get("JobState") == "TIMEOUT":
        return StopReason.TIMEOUT
    return StopReason.CANCELED


def time_of(shown: str | None) -> float:
    """Convert a time from scontrol to seconds since the epoch; 0 if there is none."""
    try:
        return datetime.datetime.fromisoformat(shown or "").timestamp()
    except ValueError:
        return 0.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
