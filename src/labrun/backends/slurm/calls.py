"""Calls of an application as Slurm jobs, through submitit."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from labrun.backends.local.pickling import check_own
from labrun.backends.slurm import partitions
from labrun.backends.slurm.queue import ASK_S, OVER, JobState, last_lines, refusal, states
from labrun.backends.slurm.sbatch import minutes_asked, submitting
from labrun.config.schema import Compute
from labrun.errors import LabrunError

LEAVING_S = 10
"""How long before its time limit a job is ended, so that it can report the reason, in seconds."""
REQUEUES = 1000
"""How often a job may be preempted or requeued."""
RESULT_S = 15.0
"""How long after a job's end its result may take to become visible on a network file system, in seconds."""


class CallExecutor(SlurmExecutor):  # type: ignore[misc]
    """submitit's executor, but with labrun's command in its jobs."""

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -m labrun.backends.local.call {shlex.quote(str(self.folder))}"


class OnCluster:
    """A function that starts again after preemption, and ends at its time limit.

    Args:
        timeout_min: its time limit in minutes; None: the cluster's limit.
    """

    def __init__(self, function: Callable[[bytes], Any], timeout_min: float | None) -> None:
        self.function, self.timeout_min = function, timeout_min

    def __call__(self, payload: bytes) -> Any:
        from labrun.backends.slurm.job import StopReason, job_id, shown_job, time_of, why_signaled

        leave: Any = signal.getsignal(signal.SIGUSR2)
        timers: list[threading.Timer] = []
        is_due = threading.Event()

        def end() -> None:
            is_due.set()
            os.kill(os.getpid(), signal.SIGUSR2)

        def due_in(seconds: float) -> None:
            timers.append(threading.Timer(seconds, end))
            timers[-1].daemon = True
            timers[-1].start()

        def on_signal(number: int, frame: Any) -> None:
            shown = shown_job(job_id())
            if why_signaled(signal.SIGUSR2, shown) == StopReason.TIMEOUT and not is_due.is_set():
                left_s = time_of(shown.get("EndTime")) - LEAVING_S - time.time()  # Slurm's warning comes early
                if left_s > 0:
                    due_in(left_s)
                    return
            leave(number, frame)

        if callable(leave):
            signal.signal(signal.SIGUSR2, on_signal)
        if self.timeout_min is not None:
            due_in(60 * self.timeout_min)
        try:
            return self.function(payload)
        finally:
            for timer in timers:
                timer.cancel()

    def checkpoint(self, payload: bytes) -> Any:
        """Return the call for submitit to requeue, unless Slurm reports a timeout.

        submitit itself mistakes a short job that was preempted for one that has timed out.

        Raises:
            TimeoutError: the time limit is reached.
        """
        from submitit.helpers import DelayedSubmission

        from labrun.backends.slurm.job import StopReason, job_id, shown_job, why_signaled

        if why_signaled(signal.SIGUSR2, shown_job(job_id())) == StopReason.TIMEOUT:
            limit = "its partition's time limit" if self.timeout_min is None else f"timeout_min={self.timeout_min:g}"
            raise TimeoutError(f"ended by {limit}")
        return DelayedSubmission(self, payload)


class SlurmCalls:
    """See `Calls`."""

    poll_s = 0.5

    def __init__(self, folder: Path, compute: Compute) -> None:
        self._timeout_min = compute.timeout_min
        self._since: dict[int, float] = {}
        """When each job without a result was first seen to have ended."""
        self._states: dict[str, str] = {}
        self._next_look = 0.0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_own(folder / "any")
        self._executor = CallExecutor(folder=folder, max_num_timeout=REQUEUES)
        parameters = _parameters(folder, compute)
        self._executor.update_parameters(**{key: value for key, value in parameters.items() if value is not None})

    def submit(self, function: Callable[[bytes], Any], payloads: Sequence[bytes]) -> list[Any]:
        """Submit an array of jobs.

        Raises:
            LabrunError: sbatch refuses them; the message contains its reason.
        """
        try:
            with submitting({}, self._executor.parameters):
                return list(self._executor.map_array(OnCluster(function, self._timeout_min), payloads))
        except (FailedJobError, FailedSubmissionError) as error:
            raise LabrunError(refusal(error)) from error

    def ends(self, jobs: Mapping[int, Any]) -> dict[int, str | None]:
        """Return the jobs that have ended. Without accounting, submitit would only see this from a job's result."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + ASK_S
            self._states = states({job.job_id for job in jobs.values()})
        found: dict[int, str | None] = {}
        for number, job in jobs.items():
            state = self._states.get(job.job_id, JobState.GONE)
            if all(job.task(task).paths.result_pickle.exists() for task in range(job.num_tasks)):
                found[number] = None
            elif state not in OVER:
                self._since.pop(number, None)
            elif time.monotonic() - self._since.setdefault(number, time.monotonic()) >= RESULT_S:
                found[number] = state
        return found

    def last_lines(self, job: Any) -> str:
        """See `Calls.last_lines`."""
        return last_lines(job.paths.stderr)

    def cancel(self, jobs: Sequence[Any]) -> None:
        """Cancel the jobs; Slurm ends them."""
        for job in jobs:
            job.cancel(check=False)

    def close(self) -> None:
        """Do nothing: Slurm owns the jobs."""


def _parameters(folder: Path, compute: Compute) -> dict[str, Any]:
    """Return the parameters for submitit's executor."""
    return {
        "job_name": folder.parent.name,
        "signal_delay_s": LEAVING_S,
        "time": minutes_asked(compute, 1) or int(partitions.longest_min(compute)),
        "mem": None if compute.mem_gb is None else f"{round(1024 * compute.mem_gb)}MB",
        "cpus_per_task": compute.cpus_per_run,
        "gpus_per_node": compute.gpus_per_run or None,
        "nodes": compute.nodes,
        "ntasks_per_node": compute.tasks_per_node,
        "partition": compute.partition,
        "account": compute.account,
        "qos": compute.qos,
        "array_parallelism": compute.max_parallel or 1000,
        "setup": compute.setup or None,
        "srun_args": [f"--cpus-per-task={compute.cpus_per_run}", *compute.srun_args],
        "additional_parameters": partitions.sbatch_options(compute.extra) or None,
    }
