"""Carries out calls (`calls.py`): a thread that forks their tasks from warm servers, and holds them to their limits."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labrun.backends.local.calls import CANCELLED, FINISHED, PENDING, RUNNING, Call, Origin, cancel_file, state_file
from labrun.backends.local.forkserver import REQUEUE, Channel
from labrun.backends.local.pool import RESTARTS, memory_gb
from labrun.backends.local.slots import Slots
from labrun.runs import record as records
from labrun.runs import recording

GRACE_S = 10.0
LOOK_S = 1.0
"""How often requests to cancel, which other processes leave, are looked for."""
IDLE_SERVERS = 3
"""How many servers without a call are kept: submissions may go to and fro between two environments."""


class Server:
    """A process that has imported `modules`, and is forked for each task.

    Args:
        origin: of the calls.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin, self.modules = origin, list(origin.modules)
        self.is_ready, self.is_broken = False, False
        self.used = time.monotonic()
        self._restarts = self._unready = 0
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, str(Path(__file__).with_name("forkserver.py")), str(theirs.fileno())]
        try:
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(self.origin.environment),
                cwd=self.origin.cwd,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel, self.is_ready = Channel(ours), False
        self.send({"path": list(self.origin.path), "preload": [], "modules": self.modules})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a dead server is noticed when its next answer is read."""
        with contextlib.suppress(OSError):
            self.channel.send(message)

    def heard(self) -> None:
        """A task of it has ended by itself: it works."""
        self._restarts = 0

    def restart(self) -> None:
        """Start it again after its death, unless that does not help."""
        self._restarts += 1
        self.process.wait()
        self.channel.connection.close()
        self._unready = 0 if self.is_ready else self._unready + 1
        if self._unready > 1:  # a module of the application's ends it, say: each call imports by itself, and tells
            self.modules = []
        self.is_broken = self._restarts > RESTARTS
        if not self.is_broken:
            try:
                self._start()
            except OSError:
                self.is_broken = True

    def close(self) -> None:
        """End it and what it runs."""
        self.channel.connection.close()


_POOLS: weakref.WeakSet[CallPool] = weakref.WeakSet()


def pool_of(job_id: str) -> CallPool | None:
    """The pool of this process that looks after a call."""
    return next((pool for pool in list(_POOLS) if pool.call(job_id) is not None), None)


class CallPool:
    """Carries out calls. A thread of its own looks after them, so the caller need not poll.

    Args:
        places: what the calls share.
    """

    def __init__(self, places: Slots) -> None:
        self.places = places
        self.servers: dict[tuple[Any, ...], Server] = {}
        self._calls: dict[str, Call] = {}
        self._queue: deque[Call] = deque()
        self._own: dict[int, tuple[subprocess.Popen[bytes], int | None]] = {}
        """Tasks with an interpreter of their own, and descriptors that tell of their end."""
        self._tasks: dict[int, tuple[Call, int]] = {}
        """Every task's call and rank, by pid."""
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.RLock()
        self._ending, self._next_look = False, 0.0
        self._owner = records.process_identity()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._serve, name="labrun-pool", daemon=True)
        self._thread.start()
        _POOLS.add(self)
        atexit.register(self._wait_at_exit)

    # ---- what the caller does

    def submit(self, calls: Sequence[Call]) -> None:
        """Put calls in the queue."""
        for call in calls:
            self._note(call)
        with self._lock:
            self._calls.update((call.job_id, call) for call in calls)
            if self._thread.is_alive():
                self._queue.extend(calls)
            else:
                for call in calls:
                    self._close(call, "FAILED (the pool has ended)")
        self._wake()

    def call(self, job_id: str) -> Call | None:
        """What is known of a call; None: it is not of this pool, or this process was forked from the pool's."""
        return self._calls.get(job_id) if os.getpid() == self._pid else None

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

    def interrupt(self, job_id: str, number: signal.Signals) -> None:
        """Send a signal to a call's tasks, and to nothing that they started."""
        with self._lock:
            for pid in list(self._calls[job_id].pids.values()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def close(self) -> None:
        """End the servers and all that still runs."""
        self._ending = True
        self._wake()
        self._thread.join(timeout=5)

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    def _wait_at_exit(self) -> None:
        """Nothing that was submitted is lost because the script has come to its end."""
        left = [call for call in self._calls.values() if not call.done.is_set()]
        if not left or self._ending or os.getpid() != self._pid:
            return
        if issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt):  # what ended the script
            sys.stderr.write(f"labrun: {len(left)} submitted jobs that have not ended end now\n")
            self.close()
            return
        sys.stderr.write(f"labrun: waiting for {len(left)} submitted jobs that have not ended (Ctrl-C ends them)\n")
        try:
            for call in left:
                call.done.wait()
        except KeyboardInterrupt:
            self.close()

    # ---- the thread

    def _serve(self) -> None:
        # Servers start in this thread: the kernel ends a server when the thread that started it ends.
        try:
            while not self._ending:
                self._step()
        finally:
            # Whatever happened: nobody waits for ever.
            with self._lock:
                for server in self.servers.values():
                    server.close()
                for call in self._calls.values():
                    if not call.done.is_set():
                        self._signal(call, signal.SIGKILL)
                        self._close(call, CANCELLED)

    def _step(self) -> None:
        channels = {server.channel.connection: server for server in self.servers.values() if not server.is_broken}
        watched: list[Any] = [*channels, self._wake_read, *(end for _, end in self._own.values() if end is not None)]
        blind = any(end is None for _, end in self._own.values())
        ready = select.select(watched, [], [], 0.05 if blind else 0.5)[0]
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        with self._lock:
            for connection, server in channels.items():
                if connection in ready:
                    messages = server.channel.receive()
                    if messages is None:
                        self._server_died(server)
                    for message in messages or ():
                        self._hear(server, message)
            for pid, (process, end) in list(self._own.items()):
                if process.poll() is not None:
                    if end is not None:
                        os.close(end)
                    del self._own[pid]
                    self._task_ended(pid, process.returncode)
            self._hold_to_limits()
            self._look_for_requests()
            self._fill()
            self._close_idle()

    def _note(self, call: Call) -> None:
        """Write a call's state beside it."""
        file = state_file(call.paths())
        processes = [
            {**self._owner, "pid": pid, "start_time": records.process_start(pid)} for pid in call.pids.values()
        ]
        noted = {"state": call.state, "name": call.name, "owner": self._owner, "processes": processes}
        with contextlib.suppress(OSError):  # who waits in this process does not need it
            temporary = file.with_name(f".{file.name}")
            temporary.write_text(json.dumps(noted), encoding="utf-8")
            temporary.replace(file)

    def _close(self, call: Call, state: str) -> None:
        """A call has ended, or will not begin."""
        call.state = state
        self._leave(call)
        self._note(call)
        call.done.set()

    def _leave(self, call: Call) -> None:
        if call.place is not None:
            self.places.leave(call.place)
            call.place = None
        for pid in call.pids.values():
            self._tasks.pop(pid, None)
        call.pids.clear()
        call.statuses.clear()

    def _active(self) -> list[Call]:
        return [call for call in self._calls.values() if call.state == RUNNING]

    def _fill(self) -> None:
        while self._queue:
            call = self._queue[0]
            server = None
            if not call.origin.starts_interpreter:
                server = self._server(call)
                if server is None:
                    self._queue.popleft()
                    continue
                if not server.is_ready:
                    break
            call.place = self.places.take(call.cpus * call.tasks, call.gpus, call.among)
            if call.place is None:
                break
            self._queue.popleft()
            call.state, call.began, call.warned = RUNNING, time.monotonic(), False
            for rank in range(call.tasks):
                if server is not None:
                    self._fork(server, call, rank)
                elif not self._start_interpreter(call, rank):
                    break

    def _server(self, call: Call) -> Server | None:
        """The server for a call; None: there is none, and the call has failed."""
        key = call.origin.key
        server = self.servers.get(key)
        if server is None:
            try:
                server = self.servers[key] = Server(call.origin)
            except OSError as error:
                self._close(call, f"FAILED (its fork server does not start: {error})")
                return None
        if server.is_broken:
            self._close(call, "FAILED (its fork server died)")
            return None
        server.used = time.monotonic()
        return server

    def _fork(self, server: Server, call: Call, rank: int) -> None:
        assert call.place is not None
        server.send(
            {
                "run": f"{call.job_id}:{rank}",
                "call": str(call.folder),
                "job": call.job_id,
                "rank": rank,
                "variables": {**call.origin.environment, **call.place.environment, **call.variables(rank)},
                "cwd": call.origin.cwd,
                "threads": call.threads,
                "joined": call.joined,
                "environment": {},
            }
        )

    def _start_interpreter(self, call: Call, rank: int) -> bool:
        """Start a task by itself; whether that went well: else the call has failed."""
        origin, paths = call.origin, call.paths(rank)
        assert call.place is not None
        variables = {**origin.environment, **call.place.environment, **call.variables(rank)}
        if origin.python is None:
            variables["PYTHONPATH"] = os.pathsep.join(origin.path)
            command = [sys.executable, "-u", "-m", "labrun.backends.local.call", str(call.folder)]
        else:
            command = [*shlex.split(origin.python), "-u", "-m", "submitit.core._submit", str(call.folder)]
        if origin.setup:
            command = ["/bin/sh", "-c", " && ".join([*origin.setup, f"exec {shlex.join(command)}"])]
        try:
            with open(paths.stdout, "ab") as out, open(paths.stdout if call.joined else paths.stderr, "ab") as err:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=variables,
                    cwd=origin.cwd,
                    start_new_session=True,
                )
        except OSError as error:
            self._signal(call, signal.SIGKILL)
            self._close(call, f"FAILED (it does not start: {error})")
            return False
        end = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                end = os.pidfd_open(process.pid)
        self._own[process.pid] = (process, end)
        self._began(call, rank, process.pid)
        return True

    def _began(self, call: Call, rank: int, pid: int) -> None:
        call.pids[rank] = pid
        self._tasks[pid] = (call, rank)
        if len(call.pids) + len(call.statuses) == call.tasks:
            self._note(call)
        if call.asked_at is not None:  # it was canceled before its process was known
            self._signal(call, signal.SIGINT)

    def _hear(self, server: Server, message: dict[str, Any]) -> None:
        if "ready" in message:
            server.is_ready = True
        elif "run" in message:
            job_id, _, rank = message["run"].rpartition(":")
            self._began(self._calls[job_id], int(rank), message["pid"])
        elif "status" in message:
            server.heard()
            self._task_ended(message["pid"], os.waitstatus_to_exitcode(message["status"]))

    def _task_ended(self, pid: int, code: int) -> None:
        """A task's process has ended.

        Args:
            pid: its own.
            code: its exit code; below zero: the signal that ended it.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # what it started and left behind
        if pid not in self._tasks:  # of a call that is over
            return
        call, rank = self._tasks.pop(pid)
        call.pids.pop(rank, None)
        call.statuses[rank] = code
        if code == REQUEUE and not call.reason:
            self._signal(call, signal.SIGKILL)
            self._requeue(call)
            return
        if not call.reason and code < 0:
            call.reason = f"ended by {recording.signal_name(-code)}"
        elif not call.reason and code:
            call.reason = f"ended with exit code {code}"
        if len(call.statuses) == call.tasks:
            self._ended(call)

    def _ended(self, call: Call) -> None:
        """All tasks of a call have."""
        is_fine = not any(call.statuses.values())
        if is_fine and not all(call.paths(rank).result_pickle.exists() for rank in range(call.tasks)):
            is_fine, call.reason = False, call.reason or "its process ended before it was done"
        if call.reason == CANCELLED:
            self._close(call, CANCELLED)
        else:
            self._close(call, FINISHED if is_fine else f"FAILED ({call.reason})")

    def _requeue(self, call: Call) -> None:
        """It has saved its state, and goes on from there when its turn comes."""
        self._leave(call)
        call.state = PENDING
        self._note(call)
        self._queue.append(call)

    def _server_died(self, server: Server) -> None:
        server.restart()
        for call in self._active():
            if not call.origin.starts_interpreter and self.servers.get(call.origin.key) is server:
                self._signal(call, signal.SIGKILL)
                self._close(call, "FAILED (its fork server died)")

    def _hold_to_limits(self) -> None:
        for call in self._active():
            if len(call.pids) + len(call.statuses) < call.tasks:
                continue
            seconds = time.monotonic() - call.began
            if call.timeout_s is not None and not call.reason:
                if seconds > call.timeout_s:
                    call.reason = f"ended after {seconds:.0f} s: timeout_min={call.timeout_s / 60:g}"
                    self._signal(call, signal.SIGKILL)
                    continue
                if 0 < call.timeout_s - call.signal_delay_s < seconds and not call.warned:
                    call.warned = True
                    self.interrupt(call.job_id, _save_signal())
            if call.mem_gb is not None and not call.reason:
                used = sum(memory_gb(pid) for pid in call.pids.values())
                if used > call.mem_gb:
                    call.reason = f"ended at {used:.2f} GB of memory of its own: mem_gb={call.mem_gb:g}"
                    self._signal(call, signal.SIGKILL)
            if call.asked_at is not None and time.monotonic() - call.asked_at > GRACE_S:
                self._signal(call, signal.SIGKILL)

    def _look_for_requests(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_S
        for call in [call for call in self._calls.values() if not call.done.is_set() and call.asked_at is None]:
            if cancel_file(call.paths()).exists():
                self.cancel(call.job_id)

    def _close_idle(self) -> None:
        """End servers that nothing waits for, but the newest."""
        if len(self.servers) <= IDLE_SERVERS:
            return
        wanted = {call.origin.key for call in (*self._queue, *self._active())}
        idle = sorted((key for key in self.servers if key not in wanted), key=lambda key: self.servers[key].used)
        for key in idle[: len(self.servers) - IDLE_SERVERS]:
            self.servers.pop(key).close()

    @staticmethod
    def _signal(call: Call, number: signal.Signals) -> None:
        """Signal a call's tasks and what they started."""
        for pid in list(call.pids.values()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def _save_signal() -> signal.Signals:
    """What has a call save its state; submitit lets a variable choose."""
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals(JobEnvironment._usr_sig())
