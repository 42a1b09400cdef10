"""The local pool as a submitit executor: `submitit.AutoExecutor(folder, cluster="labrun")`, for any Python function.

Functions go through pickles, as everywhere in submitit; they lie in a folder of mode 0700, and neither a submitted
function nor a result is loaded that somebody else owns or may write.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit.core import core, utils
from submitit.core.job_environment import JobEnvironment

from labrun.errors import LabrunError
from labrun.launch import compute as computes
from labrun.launch.forkserver import Channel
from labrun.launch.places import Place, Places
from labrun.launch.pool import RESTARTS, memory_gb
from labrun.runs import recording

PENDING, RUNNING, FINISHED, CANCELLED = "PENDING", "RUNNING", "FINISHED", "CANCELLED"
GRACE_S = 10.0


def check_own(path: Path) -> None:
    """Refuse a pickle that somebody else could have written.

    Raises:
        LabrunError: it, or its folder, is not this user's own, or others may write it.
    """
    for place in (path.parent, path):
        if place.exists() and not computes.same_owner(place) and not (place == path and _is_out_of_reach(path)):
            raise LabrunError(f"{place} is not loaded: it is not your own, or others may write it (chmod go-w)")


def _is_out_of_reach(path: Path) -> bool:
    """Whether a file that its group may write, as most systems' umask leaves it, lies where nobody else comes."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o002 and computes.is_private(path.parent)


@dataclass
class _Call:
    folder: Path
    job_id: str
    state: str = PENDING
    reason: str = ""
    pid: int | None = None
    place: Place | None = None
    began: float = 0.0
    asked_at: float | None = None
    timeout_s: float | None = None
    mem_gb: float | None = None
    cpus: int = 1
    gpus: int = 0
    joined: bool = False
    """Whether its standard error goes where its standard output does."""
    done: threading.Event = field(default_factory=threading.Event)


class CallPool:
    """Calls pickled functions, each in a process forked from a server that has imported `modules`.

    A thread of its own talks to the server, so the caller need not poll.

    Args:
        modules: imported once, ahead of the calls.
        places: what the calls share.
    """

    def __init__(self, modules: Sequence[str], places: Places) -> None:
        self._modules, self.places = list(modules), places
        self._calls: dict[str, _Call] = {}
        self._queue: deque[_Call] = deque()
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.Lock()
        self._ready, self._ending = False, False
        self._restarts, self._unready, self._is_broken = 0, 0, False
        # From the main thread: the kernel ends the server when the thread that started it ends.
        self._start_server()
        self._thread = threading.Thread(target=self._serve, name="labrun-pool", daemon=True)
        self._thread.start()
        atexit.register(self._warn)

    def _warn(self) -> None:
        left = sum(not call.done.is_set() for call in self._calls.values())
        if left and not self._ending:
            sys.stderr.write(f"labrun: {left} jobs had not ended, and end now with the process that submitted them\n")

    def submit(self, call: _Call) -> None:
        """Put a call in the queue."""
        with self._lock:
            self._calls[call.job_id] = call
            self._queue.append(call)
            if self._is_broken:
                self._fail(call)
        os.write(self._wake_write, b"x")

    def call(self, job_id: str) -> _Call | None:
        """What is known of a call."""
        return self._calls.get(job_id)

    def cancel(self, job_id: str) -> None:
        """Ask a call to stop; one that waits is canceled at once."""
        with self._lock:
            call = self._calls.get(job_id)
            if call is None or call.done.is_set():
                return
            if call in self._queue:
                self._queue.remove(call)
                self._close(call, CANCELLED)
            elif call.asked_at is None:
                call.asked_at, call.reason = time.monotonic(), CANCELLED
                self._signal(call, signal.SIGINT)

    def close(self) -> None:
        """End the server and all that still runs."""
        self._ending = True
        os.write(self._wake_write, b"x")
        self._thread.join(timeout=5)

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, str(Path(__file__).with_name("forkserver.py")), str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._channel, self._ready = Channel(ours), False
        with contextlib.suppress(OSError):
            self._channel.send({"path": sys.path, "preload": [], "modules": self._modules})

    def _serve(self) -> None:
        try:
            self._talk()
        finally:
            # Whatever happened: nobody waits for ever.
            self._channel.connection.close()
            with self._lock:
                for call in self._calls.values():
                    if not call.done.is_set():
                        self._close(call, CANCELLED)

    def _talk(self) -> None:
        while not self._ending and not self._is_broken:
            watched: list[Any] = [self._channel.connection, self._wake_read]
            ready = select.select(watched, [], [], 0.5)[0]
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            messages = self._channel.receive() if self._channel.connection in ready else []
            with self._lock:
                if messages is None:
                    self._server_died()
                for message in messages or ():
                    self._hear(message)
                if not self._is_broken:
                    self._hold_to_limits()
                    self._fill()

    def _close(self, call: _Call, state: str) -> None:
        """A call has ended, or will not begin."""
        call.state = state
        if call.place is not None:
            self.places.leave(call.place)
            call.place = None
        call.done.set()

    def _active(self) -> list[_Call]:
        return [call for call in self._calls.values() if call.state == RUNNING]

    def _fill(self) -> None:
        while self._ready and self._queue:
            call = self._queue[0]
            call.place = self.places.take(call.cpus, call.gpus)
            if call.place is None:
                break
            self._queue.popleft()
            call.state, call.began = RUNNING, time.monotonic()
            message = {
                "run": call.job_id, "call": str(call.folder), "environment": call.place.environment,
                "threads": call.cpus, "joined": call.joined,
            }  # fmt: skip
            with contextlib.suppress(OSError):  # a dead server is noticed when the next answer is read
                self._channel.send(message)

    def _hear(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready = True
        elif "run" in message:
            self._calls[message["run"]].pid = message["pid"]
        elif "status" in message:
            for call in self._active():
                if call.pid == message["pid"]:
                    self._ended(call, message["status"])

    def _ended(self, call: _Call, status: int) -> None:
        self._restarts = 0
        self._signal(call, signal.SIGKILL)  # what it started and left behind
        if os.WIFSIGNALED(status) and not call.reason:
            call.reason = f"ended by {recording.signal_name(os.WTERMSIG(status))}"
        elif status and not call.reason:
            call.reason = f"ended with exit code {os.waitstatus_to_exitcode(status)}"
        if not status and not utils.JobPaths(call.folder, call.job_id).result_pickle.exists():
            status, call.reason = 1, "its process ended before it was done"
        failed = f"FAILED ({call.reason})" if status else FINISHED
        self._close(call, CANCELLED if call.reason == CANCELLED else failed)

    def _server_died(self) -> None:
        self._restarts += 1
        self._process.wait()
        self._channel.connection.close()
        self._unready = 0 if self._ready else self._unready + 1
        if self._unready > 1:  # a module of the application's ends it, say: each call imports by itself, and tells
            self._modules = []
        self._is_broken = self._restarts > RESTARTS
        for call in self._active() if not self._is_broken else list(self._calls.values()):
            self._fail(call)
        if not self._is_broken:
            self._start_server()

    def _fail(self, call: _Call) -> None:
        if not call.done.is_set():
            self._close(call, "FAILED (its fork server died)")

    def _hold_to_limits(self) -> None:
        for call in self._active():
            if call.pid is None:
                continue
            seconds = time.monotonic() - call.began
            if call.timeout_s is not None and seconds > call.timeout_s and not call.reason:
                call.reason = f"ended after {seconds:.0f} s: timeout_min={call.timeout_s / 60:g}"
                self._signal(call, signal.SIGKILL)
            elif call.mem_gb is not None and not call.reason and (used := memory_gb(call.pid)) > call.mem_gb:
                call.reason = f"ended at {used:.2f} GB of memory of its own: mem_gb={call.mem_gb:g}"
                self._signal(call, signal.SIGKILL)
            elif call.asked_at is not None and time.monotonic() - call.asked_at > GRACE_S:
                self._signal(call, signal.SIGKILL)

    @staticmethod
    def _signal(call: _Call, number: signal.Signals) -> None:
        if call.pid is not None:
            try:
                os.killpg(call.pid, number)
            except (ProcessLookupError, PermissionError):
                pass


class LabrunJob(core.Job[Any]):  # type: ignore[misc]
    """A call in the pool."""

    _pool: CallPool | None = None

    def done(self, force_check: bool = False) -> bool:
        """Whether it has ended, however."""
        call = self._pool.call(self.job_id) if self._pool is not None else None
        return call.done.is_set() if call is not None else bool(self.paths.result_pickle.exists())

    def wait(self) -> None:
        """Wait until it has ended."""
        call = self._pool.call(self.job_id) if self._pool is not None else None
        if call is not None:
            call.done.wait()

    @property
    def state(self) -> str:
        """PENDING, RUNNING, FINISHED, CANCELLED, or FAILED with the reason."""
        return self.get_info()["jobState"]

    def get_info(self, mode: str = "force") -> dict[str, str]:
        """The state, as submitit's own local jobs give it."""
        call = self._pool.call(self.job_id) if self._pool is not None else None
        if call is None:
            return {"jobState": FINISHED if self.paths.result_pickle.exists() else "UNKNOWN"}
        return {"jobState": call.state}

    def cancel(self, check: bool = True) -> None:
        """Ask it to stop; within ten seconds it is ended."""
        if self._pool is not None:
            self._pool.cancel(self.job_id)

    def _get_outcome_and_result(self) -> tuple[str, Any]:
        self.wait()
        if not self.paths.result_pickle.exists():
            raise utils.UncompletedJobError(f"job {self.job_id}: {self.state}; log: {self.paths.stderr}")
        check_own(self.paths.result_pickle)
        outcome: tuple[str, Any] = super()._get_outcome_and_result()
        return outcome

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_pool"}


class LabrunJobEnvironment(JobEnvironment):  # type: ignore[misc]
    """What a call can ask of where it runs."""

    _env = {"job_id": "SUBMITIT_LABRUN_JOB_ID"}  # noqa: RUF012 - as submitit has it
    num_tasks = num_nodes = 1
    node = global_rank = local_rank = 0

    def _requeue(self, countdown: int) -> None:
        raise SystemExit(f"job {self.job_id} was interrupted; the pool does not put calls back in its queue")


class LabrunExecutor(core.PicklingExecutor):  # type: ignore[misc]
    """Runs functions on this machine, a bounded number at a time, each in a process forked from a warm server.

    Parameters (`update_parameters`): `timeout_min`, `mem_gb`, `cpus_per_task`, `gpus_per_node`, and, with
    `labrun_` before them through `AutoExecutor`, `max_parallel`, `runs_per_gpu` and `modules` (imported once, ahead).
    """

    job_class = LabrunJob

    def __init__(self, folder: str | Path, max_num_timeout: int = 3, max_pickle_size_gb: float = 1.0) -> None:
        super().__init__(folder, max_num_timeout=max_num_timeout, max_pickle_size_gb=max_pickle_size_gb)
        self._pool: CallPool | None = None
        independent = utils.JobPaths.get_first_id_independent_folder(self.folder)
        independent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_own(independent / "any")

    @classmethod
    def affinity(cls) -> int:
        """Never chosen unless named."""
        return 0

    @classmethod
    def _valid_parameters(cls) -> set[str]:
        return {"max_parallel", "runs_per_gpu", "modules"}

    def _internal_update_parameters(self, **kwargs: Any) -> None:
        for key in ("nodes", "tasks_per_node"):
            if kwargs.get(key, 1) not in (1, None):
                raise ValueError(f"the local pool runs one task on one node: {key}={kwargs[key]}")
        late = [key for key in ("modules", "runs_per_gpu") if key in kwargs and kwargs[key] != self.parameters.get(key)]
        if late and self._pool is not None:
            raise RuntimeError(f"{' and '.join(late)}: set before the first submission, which starts the pool")
        super()._internal_update_parameters(**kwargs)

    def _internal_process_submissions(self, delayed_submissions: Iterable[utils.DelayedSubmission]) -> list[Any]:
        parameters = self.parameters
        gpus, cpus = parameters.get("gpus_per_node") or 0, parameters.get("cpus_per_task") or 1
        memory, minutes = parameters.get("mem_gb"), parameters.get("timeout_min")
        visible = computes.visible_gpus() if gpus or self._pool is None else []
        if gpus > len(visible):
            raise ValueError(f"gpus_per_node={gpus}: visible here are {', '.join(visible) or 'none'}")
        if cpus > computes.cores():
            raise ValueError(f"cpus_per_task={cpus}: this machine has {computes.cores()} cores")
        if memory is not None and memory > computes.memory_gb():
            raise ValueError(f"mem_gb={memory:g}: this machine has {computes.memory_gb():.1f} GB of memory")
        most = parameters.get("max_parallel")
        if self._pool is None:
            share = parameters.get("runs_per_gpu") or 1
            self._pool = CallPool(parameters.get("modules") or (), Places(1, computes.cores(), visible, share))
        self._pool.places.limit(most or sys.maxsize, None if most else computes.cores())
        if not self._pool.places.carries(cpus, gpus):
            raise ValueError(f"gpus_per_node={gpus}: more than were visible when this executor began")
        jobs = []
        for delayed in delayed_submissions:
            delayed.set_timeout(minutes or 0, self.max_num_timeout)
            job = LabrunJob(folder=self.folder, job_id=uuid.uuid4().hex[:12], tasks=[0])
            job._pool = self._pool
            job.paths.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            delayed.dump(job.paths.submitted_pickle)
            self._pool.submit(
                _Call(
                    self.folder, job.job_id, timeout_s=None if not minutes else 60 * minutes, mem_gb=memory,
                    cpus=cpus, gpus=gpus, joined=bool(parameters.get("stderr_to_stdout")),
                )
            )  # fmt: skip
            jobs.append(job)
        return jobs

    def close(self) -> None:
        """End the pool and what still runs in it."""
        if self._pool is not None:
            self._pool.close()

    def _num_tasks(self) -> int:
        return 1

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return ""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return []

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        return "0"
