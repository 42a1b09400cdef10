"""The local pool as a submitit executor: `submitit.AutoExecutor(folder, cluster="labrun")`, for any Python function.

Functions are pickled, as everywhere in submitit. The pickles are stored in a folder of mode 0700, and a submitted
function or a result is never loaded if another user owns the file or may write it.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core import core, utils
from submitit.core.job_environment import JobEnvironment

from labrun.backends.base import Resources
from labrun.backends.local import call_pool, calls
from labrun.backends.local.call import REQUEUE
from labrun.backends.local.call_pool import CallPool
from labrun.backends.local.calls import OPEN, Call, CallOrigin, CallState
from labrun.backends.local.pickling import check_own
from labrun.backends.local.slots import Slots
from labrun.runs import machine
from labrun.tasks.threads import VARIABLES

POLL_S = 0.2
"""Interval at which a process that does not manage a call polls its state, in seconds."""


class LabrunJob(core.Job[Any]):  # type: ignore[misc]
    """A call in the pool. Any process on this machine can create it from its folder and id, or unpickle it."""

    def _call(self) -> Call | None:
        pool = call_pool.pool_of(self.job_id)
        return None if pool is None else pool.call(self.job_id)

    def done(self, force_check: bool = False) -> bool:
        """Return whether it has ended, in whatever state."""
        call = self._call()
        if call is not None and call.done.is_set():
            return True
        if self._sub_jobs:
            return all(job.done() for job in self._sub_jobs)
        if call is not None:  # one of several tasks may have ended before the others
            return call.tasks > 1 and self.paths.result_pickle.exists()
        return self.paths.result_pickle.exists() or self.state not in OPEN

    def wait(self) -> None:
        """Wait until it has ended."""
        call = self._call()
        if call is not None and call.tasks == 1:
            call.done.wait()
        while not self.done():
            time.sleep(POLL_S)

    @property
    def state(self) -> str:
        """PENDING, RUNNING, FINISHED, CANCELLED, FAILED or UNKNOWN."""
        return self.get_info()["jobState"]

    def get_info(self, mode: str = "force") -> dict[str, str]:
        """Return the state (`jobState`), as submitit's own jobs do, and the reason for a failure (`reason`), if any."""
        call = self._call()
        state, why = calls.noted_state(self.paths) if call is None else (call.state, call.why)
        if call is None and state in (*OPEN, CallState.UNKNOWN) and self.paths.result_pickle.exists():
            state = CallState.FINISHED
        return {"jobState": state, **({"reason": why} if why else {})}

    @property
    def end(self) -> str:
        """The state, with its reason in parentheses."""
        return " ".join(f"({word})" if position else word for position, word in enumerate(self.get_info().values()))

    def cancel(self, check: bool = True) -> None:
        """Ask it to stop; it is killed if it has not stopped within ten seconds."""
        pool = call_pool.pool_of(self.job_id)
        if pool is not None:
            pool.cancel(self.job_id)
        elif not self.done():
            calls.cancel_file(self.paths).touch()

    def _interrupt(self, timeout: bool = False) -> None:
        """Make it save its state and resume, as it does before its timeout (for testing)."""
        pool = call_pool.pool_of(self.job_id)
        if pool is None:
            raise RuntimeError(f"job {self.job_id}: only the process that submitted it can interrupt it")
        pool.interrupt(self.job_id)

    def submission(self) -> utils.DelayedSubmission:
        """Return the submission, with `function`, `args` and `kwargs`.

        Raises:
            LabrunError: another user could have written it.
        """
        check_own(self.paths.submitted_pickle)
        return super().submission()

    def _get_outcome_and_result(self) -> tuple[str, Any]:
        self.wait()
        if not self.paths.result_pickle.exists():
            lines = [f"job {self.job_id} (task {self.paths.task_id}): {self.end}; log: {self.paths.stderr}"]
            output = calls.tail(self.paths.stderr) or calls.tail(self.paths.stdout)
            raise utils.UncompletedJobError("\n".join([*lines, *(["-" * 40, output] if output else [])]))
        check_own(self.paths.result_pickle)
        outcome: tuple[str, Any] = super()._get_outcome_and_result()
        return outcome

    def __del__(self) -> None:
        # submitit's own method asks a watcher, which this job does not have.
        if self.__dict__.get("_cancel_at_deletion") and not self.done():
            self.cancel(check=False)


class LabrunJobEnvironment(JobEnvironment):  # type: ignore[misc]
    """The environment of a call's job, for code inside the call."""

    _env = {  # noqa: RUF012 - as in submitit
        "job_id": "SUBMITIT_LABRUN_JOB_ID",
        "num_tasks": "SUBMITIT_LABRUN_NTASKS",
        "num_nodes": "SUBMITIT_LABRUN_JOB_NUM_NODES",
        "node": "SUBMITIT_LABRUN_NODEID",
        "global_rank": "SUBMITIT_LABRUN_GLOBALID",
        "local_rank": "SUBMITIT_LABRUN_LOCALID",
    }

    def _handle_signals(self, paths: utils.JobPaths, submission: utils.DelayedSubmission) -> None:
        super()._handle_signals(paths, submission)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {self._usr_sig()})  # delivers a signal that arrived during loading

    def _requeue(self, countdown: int) -> None:
        sys.stdout.write(f"Requeued job {self.job_id} ({countdown} remaining timeouts)\n")
        sys.stdout.flush()
        sys.exit(REQUEUE)


def _number(value: Any, least: float, is_whole: bool = False) -> bool:
    kinds = (int,) if is_whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and value >= least


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


PARAMETERS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("text", lambda value: isinstance(value, str)),
    "timeout_min": ("a number of minutes above 0", lambda value: _number(value, 1e-9)),
    "signal_delay_s": ("a number of seconds, 0 or more", lambda value: _number(value, 0)),
    "mem_gb": ("a number of GB above 0", lambda value: _number(value, 1e-9)),
    "nodes": ("1: the pool is this machine", lambda value: value == 1),
    "tasks_per_node": ("a whole number of at least 1", lambda value: _number(value, 1, is_whole=True)),
    "cpus_per_task": ("a whole number of at least 1", lambda value: _number(value, 1, is_whole=True)),
    "gpus_per_node": ("a whole number of at least 0", lambda value: _number(value, 0, is_whole=True)),
    "visible_gpus": (
        "a list of GPU numbers",
        lambda value: isinstance(value, list | tuple) and all(_number(one, 0, is_whole=True) for one in value),
    ),
    "stderr_to_stdout": ("true or false", lambda value: isinstance(value, bool)),
    "setup": ("a list of shell commands", _texts),
    "max_parallel": ("a whole number of at least 1", lambda value: _number(value, 1, is_whole=True)),
    "runs_per_gpu": ("a whole number of at least 1", lambda value: _number(value, 1, is_whole=True)),
    "modules": ("a list of module names", _texts),
}
"""The parameters, each with a description of its values and a check. Each defaults to None."""
OWN = ("signal_delay_s", "visible_gpus", "setup", "max_parallel", "runs_per_gpu", "modules")
"""Parameters that `AutoExecutor` takes with the prefix `labrun_`."""
SIGNAL_DELAY_S = 30


class LabrunExecutor(core.PicklingExecutor):  # type: ignore[misc]
    """Runs functions on this machine, a bounded number at a time, each in a process forked from a warm server.

    A job runs with the environment variables, the working folder and the import path of this process at submission.

    Parameters (`update_parameters`; `AutoExecutor` requires the prefix `labrun_` for those marked with *): `name`,
    `timeout_min` (default: no limit), `signal_delay_s`* (30), `mem_gb`, `tasks_per_node`, `cpus_per_task`,
    `gpus_per_node`, `visible_gpus`*, `stderr_to_stdout`, `setup`*, `max_parallel`*, `runs_per_gpu`* and `modules`*
    (imported once, in advance).

    Args:
        folder: for pickles and logs; `%j` stands for a job's id.
        max_num_timeout: how often a job with a `checkpoint` method is resumed after a timeout.
        max_pickle_size_gb: largest total size of one submission.
        python: a command that starts another interpreter, which needs submitit; each job then starts its own.
    """

    job_class = LabrunJob

    def __init__(
        self, folder: str | Path, max_num_timeout: int = 3, max_pickle_size_gb: float = 1.0, python: str | None = None
    ) -> None:
        super().__init__(folder, max_num_timeout=max_num_timeout, max_pickle_size_gb=max_pickle_size_gb)
        self.python = python
        self.imports_from_cwd = True
        """Whether jobs import from the working folder first, as `python -m` does."""
        self._pool: CallPool | None = None
        independent = utils.JobPaths.get_first_id_independent_folder(self.folder)
        independent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_own(independent / "any")

    @classmethod
    def affinity(cls) -> int:
        """Return 0: the executor is used only if it is selected by name."""
        return 0

    @classmethod
    def _valid_parameters(cls) -> set[str]:
        return set(OWN)

    def _internal_update_parameters(self, **kwargs: Any) -> None:
        problems = []
        for key, value in kwargs.items():
            if key not in PARAMETERS:
                problems.append(f"{key}={value!r}: {_why_unknown(key)}")
            elif value is not None and not PARAMETERS[key][1](value):
                problems.append(f"{key}={value!r}: expected {PARAMETERS[key][0]}")
        if problems:
            known = ", ".join(PARAMETERS)
            raise ValueError("\n".join([*problems, f"parameters of the labrun executor are {known}"]))
        if "runs_per_gpu" in kwargs and kwargs["runs_per_gpu"] != self.parameters.get("runs_per_gpu") and self._pool:
            raise RuntimeError("runs_per_gpu: set it before the first submission, which starts the pool")
        super()._internal_update_parameters(**kwargs)

    def _internal_process_submissions(self, delayed_submissions: Iterable[utils.DelayedSubmission]) -> list[Any]:
        wanted = {key: value for key, value in self.parameters.items() if value is not None}
        gpus, cpus, tasks = (wanted.get(key, 0) for key in ("gpus_per_node", "cpus_per_task", "tasks_per_node"))
        cpus, tasks, minutes = cpus or 1, tasks or 1, wanted.get("timeout_min")
        among = calls.visible(wanted["visible_gpus"]) if wanted.get("visible_gpus") else None
        seen = machine.visible_gpus() if gpus or self._pool is None else []
        self._check(wanted.get("mem_gb"), gpus, cpus, tasks, seen if among is None else among)
        if self._pool is None:
            self._pool = CallPool(Slots(1, machine.cores(), seen, wanted.get("runs_per_gpu", 1)))
        most = wanted.get("max_parallel")
        self._pool.slots.limit(most or sys.maxsize, None if most else machine.cores())
        if not self._pool.slots.carries(cpus * tasks, gpus):
            raise ValueError(f"gpus_per_node={gpus}: more than were visible when this executor started")
        is_given = "cpus_per_task" in wanted or VARIABLES[0] not in os.environ
        path = calls.import_path(self.imports_from_cwd)
        modules, setup = (tuple(wanted.get(key, ())) for key in ("modules", "setup"))
        origin = CallOrigin(os.getcwd(), tuple(path), dict(os.environ), modules, setup, self.python)
        timeout_s = None if minutes is None else 60 * minutes
        call = functools.partial(
            Call,
            needs=Resources(cpus * tasks, gpus, timeout_s=timeout_s, mem_gb=wanted.get("mem_gb")),
            key=origin.key,
            tasks=tasks,
            among=among,
            folder=self.folder,
            origin=origin,
            name=wanted.get("name", "submitit"),
            signal_delay_s=wanted.get("signal_delay_s", SIGNAL_DELAY_S),
            threads=cpus if is_given else None,
            joined=wanted.get("stderr_to_stdout", False),
        )
        submissions = list(delayed_submissions)
        made: list[Call] = []
        jobs: list[LabrunJob] = []
        for delayed in submissions:
            delayed.set_timeout(minutes if minutes is not None else math.inf, self.max_num_timeout)
            job = LabrunJob(folder=self.folder, job_id=uuid.uuid4().hex[:12], tasks=range(tasks))
            job.paths.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            delayed.dump(job.paths.submitted_pickle)
            if not jobs:
                self._check_size(job.paths.submitted_pickle, len(submissions))
            made.append(call(id=job.job_id))
            jobs.append(job)
        self._pool.submit(made)
        return jobs

    @staticmethod
    def _check(memory_gb: float | None, gpus: int, cpus: int, tasks: int, seen: Sequence[str]) -> None:
        """Check that this machine has the requested resources.

        Raises:
            ValueError: it lacks some; the message lists all of them.
        """
        problems = []
        if gpus > len(seen):
            problems.append(f"gpus_per_node={gpus}: visible here are {', '.join(seen) or 'none'}")
        if cpus > machine.cores():
            problems.append(f"cpus_per_task={cpus}: this machine has {machine.cores()} cores")
        if memory_gb is not None and memory_gb > machine.memory_gb():
            problems.append(f"mem_gb={memory_gb:g}: this machine has {machine.memory_gb():.1f} GB of memory")
        if problems:
            raise ValueError("\n".join(problems))

    def _check_size(self, pickled: Path, count: int) -> None:
        """Refuse a submission that is too large.

        Raises:
            RuntimeError: it is too large, as in submitit's own executors.
        """
        size_gb = pickled.stat().st_size / 1024**3
        if count * size_gb > self.max_pickle_size_gb:
            pickled.unlink()
            raise RuntimeError(
                f"{count} submissions of {size_gb:.2g} GB each (function and arguments) are more than "
                f"max_pickle_size_gb={self.max_pickle_size_gb:g}; pass file names instead, or raise the limit"
            )

    def close(self) -> None:
        """End the pool and all its running jobs."""
        if self._pool is not None:
            self._pool.close()

    def _num_tasks(self) -> int:
        return int(self.parameters.get("tasks_per_node") or 1)

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return ""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return []

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        return "0"


def _why_unknown(key: str) -> str:
    from submitit.slurm.slurm import SlurmExecutor

    # submitit lists the parameters of a plugin nowhere else
    if key in SlurmExecutor._valid_parameters():
        return 'only Slurm supports it (cluster="slurm"); this pool runs on this machine'
    return "no such parameter"
