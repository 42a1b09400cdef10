"""The supervisor: executes payloads, a limited number at once, in processes forked from servers.

It owns the life cycle of these processes. It forks one for each task of a payload as soon as there is a slot, updates
heartbeats, obeys requests, enforces limits, kills leftover child processes, and restarts a server that has died. When
the supervisor ends, its processes end. The payload determines what a process does and how its outcome is stored: a run
(`pool.py`) has a record, a call (`calls.py`) has a result and a state file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

import psutil

from labrun.backends.base import Resources
from labrun.backends.local.server import Server
from labrun.backends.local.slots import Slot, Slots

if TYPE_CHECKING:
    from labrun.backends.local.messages import ServerAnswer, ServerTask

GRACE_S = 10.0
"""Time between the request to stop and the killing of a payload, in seconds."""
SUSPECT = 3
"""After this many deaths of its server a payload runs alone, because it may be the cause."""

Requeue = Literal["first", "last"] | None
"""Whether an ended payload runs again: before ("first") or after ("last") all waiting ones, or not at all (None)."""


@dataclass(eq=False, kw_only=True)
class Payload(ABC):
    """A unit of work for a supervisor, executed in one or more processes."""

    id: str
    needs: Resources
    """Total over all its tasks."""
    key: Hashable = ""
    """Payloads with the same key are forked from the same server."""
    tasks: int = 1
    among: tuple[str, ...] | None = None
    """The GPUs that it may use; None: any."""
    server: Server | None = None
    slot: Slot | None = None
    """Its slot; None while it waits, and once its processes have ended."""
    pids: dict[int, int] = field(default_factory=dict)
    """Pids of its tasks, by rank."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Wait statuses of the ended tasks, by rank, in the order in which they ended."""
    deaths: int = 0
    """How often its server died while it was active."""
    began: float = 0.0
    stop_requested_at: float | None = None
    """When it was first asked to stop."""
    reason: str | None = None
    """Why its supervisor ended it, if it did."""
    canceled: bool = False
    is_preempted: bool = False
    """Whether it was asked to save its state and exit; it is then not run again by this supervisor."""

    settings: ClassVar[str] = ""
    """Prefix for the names of its limits in messages."""

    # ---- its work and its outcome

    @abstractmethod
    def message(self, rank: int) -> ServerTask:
        """Return the message for the process of a task (`forkserver.child`)."""

    def end_requested(self) -> bool:
        """Return whether another process has requested its end."""
        return False

    def beat(self) -> None:  # noqa: B027 - optional
        """Update its heartbeat or state. Called once all its processes have started, and periodically after that."""

    def on_exit(self) -> Requeue:
        """Record the outcome when all its processes have ended. Must be idempotent: Ctrl-C can interrupt it."""
        return None

    def on_server_death(self, is_guilty: bool) -> Requeue:
        """Handle the loss of its processes, which died with their server.

        Args:
            is_guilty: it ran alone, and too many servers have died under it.
        """
        return None

    def on_skipped(self, why: str, is_refused: bool) -> None:  # noqa: B027 - optional
        """Record that it will not start, because it is refused or canceled."""

    # ---- its processes

    @property
    def living(self) -> list[int]:
        """Pids of the tasks that have not ended."""
        return [pid for rank, pid in self.pids.items() if rank not in self.statuses]

    @property
    def in_job(self) -> bool:
        """Whether its processes have no process groups (see `Server`)."""
        return self.server is not None and self.server.in_job

    def signal(self, number: signal.Signals, alone: bool = False) -> None:
        """Signal its processes and, unless `alone`, the processes that they started."""
        for pid in self.living:
            for send in (os.kill,) if alone else (os.killpg, os.kill):  # a new process has no group at first
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(pid, number)
                    break

    def ask(self) -> None:
        """Ask it to stop."""
        if self.stop_requested_at is None:
            self.stop_requested_at = time.monotonic()
            self.signal(signal.SIGINT, alone=self.in_job)

    def kill(self) -> None:
        """Kill its processes and the processes that they started."""
        started: list[psutil.Process] = []
        for pid in self.living if self.in_job else ():
            with contextlib.suppress(psutil.Error):
                started += psutil.Process(pid).children(recursive=True)
        self.signal(signal.SIGKILL, alone=self.in_job)
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def hold_to_limits(self) -> None:
        """End it if it exceeds a limit."""
        if len(self.pids) < self.tasks or self.reason is not None:
            return
        seconds, limit_s, limit_gb = time.monotonic() - self.began, self.needs.timeout_s, self.needs.mem_gb
        if limit_s is not None and seconds > limit_s:
            self.reason = f"ended after {seconds:.0f} s: {self.settings}timeout_min={limit_s / 60:g}"
        elif limit_gb is not None and (used := sum(map(memory_gb, self.living))) > limit_gb:
            self.reason = f"ended at {used:.2f} GB of memory: {self.settings}mem_gb={limit_gb:g}"
        if self.reason is not None:
            self.kill()


P = TypeVar("P", bound=Payload)


class Supervisor(Generic[P]):
    """Executes payloads.

    Args:
        slots: the slots that the payloads share.
        start: starts a server for payloads like the given one; may raise OSError.
    """

    every_s: ClassVar[float] = 2.0
    """Interval between heartbeats, and between checks of limits and of requests to waiting payloads, in seconds."""

    def __init__(self, slots: Slots, start: Callable[[P], Server]) -> None:
        self.slots, self._start = slots, start
        self.servers: dict[Hashable, Server] = {}
        self._queue: deque[P] = deque()
        self._running: dict[str, P] = {}
        self._over: list[P] = []
        """Payloads that have ended, or will not start, and were not yet returned by `step`."""
        self._unheard: deque[tuple[Server, ServerAnswer | None]] = deque()
        self._next_look = 0.0

    @property
    def busy(self) -> bool:
        """Whether any payload is waiting or active."""
        return bool(self._queue or self._running or self._over)

    def step(self, timeout_s: float) -> list[P]:
        """Let the payloads proceed for a while. Return those that have ended since the last call, outcomes recorded."""
        self._begin()
        self._listen(0.0 if self._over else timeout_s)
        return self._process_messages()

    def _begin(self) -> None:
        """Start payloads while there are slots, and obey requests to active payloads without delay."""
        self._fill()
        for payload in self._running.values():
            if not payload.canceled and payload.end_requested():
                self._cancel(payload)

    def _listen(self, timeout_s: float, *others: int) -> bool:
        """Wait for an answer from a server. Return whether one of the other descriptors is readable."""
        alive = [server for server in self.servers.values() if not server.is_broken]
        channels = {server.channel.connection.fileno(): server for server in alive}
        ready = select.select([*channels, *others], [], [], timeout_s)[0]
        for server in (channels[number] for number in ready if number in channels):
            messages = server.channel.receive()
            self._unheard.extend((server, message) for message in ([None] if messages is None else messages))
        return any(other in ready for other in others)

    def _process_messages(self) -> list[P]:
        """Process the received messages. Return the payloads that are over."""
        while self._unheard:  # remove each after processing it: Ctrl-C can interrupt at any time
            self._hear(*self._unheard[0])
            self._unheard.popleft()
        ended = [payload for payload in self._running.values() if len(payload.statuses) == payload.tasks]
        for payload in ended:
            self._free(payload)
        self._fill()  # before `on_exit`, which waits for the disk
        for payload in ended:
            self._put(payload, payload.on_exit())
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.every_s
            self._look()
        self._fill()
        over, self._over = self._over, []
        return over

    def _fill(self) -> None:
        """Start payloads in order, as long as there is a slot for the next one."""
        while self._queue:
            payload = self._queue[0]
            try:
                server = self._server(payload)
            except OSError as error:
                self._skip(payload, f"its fork server does not start: {error}", is_refused=True)
                continue
            if server.is_broken:
                self._skip(payload, "its fork server died", is_refused=True)
                continue
            if not server.is_ready:
                return
            if payload.end_requested():
                self._cancel(payload)
                continue
            if not self.slots.carries(payload.needs.cpus, payload.needs.gpus):
                why = f"it needs {payload.needs.gpus} GPUs, but fewer are visible here"
                self._skip(payload, why, is_refused=True)
                continue
            if self._running and any(one.deaths >= SUSPECT for one in (*self._running.values(), payload)):
                return
            slot = self.slots.take(payload.needs.cpus, payload.needs.gpus, payload.among)
            if slot is None:
                return
            self._queue.popleft()
            self._fork(payload, server, slot)

    def _server(self, payload: P) -> Server:
        if payload.key not in self.servers:
            self.servers[payload.key] = self._start(payload)
        self.servers[payload.key].used = time.monotonic()
        return self.servers[payload.key]

    def _fork(self, payload: P, server: Server, slot: Slot) -> None:
        payload.server, payload.slot, payload.began = server, slot, time.monotonic()
        self._running[payload.id] = payload
        data = payload.needs.data
        if data is not None and data not in server.held and any(one.needs.data == data for one in self._queue):
            server.held.append(data)  # the server reads the data now, since waiting payloads will read it too
        else:
            data = None
        for rank in range(payload.tasks):
            message = payload.message(rank)
            if data is not None:
                message["data"] = data
            server.send(message)

    def _skip(self, payload: P, why: str, is_refused: bool) -> None:
        self._queue.remove(payload)
        payload.on_skipped(why, is_refused)
        self._over.append(payload)

    def _cancel(self, payload: P, why: str = "canceled") -> None:
        """Ask an active payload to stop; cancel a waiting one at once."""
        if payload.id in self._running:
            payload.canceled = True
            payload.ask()
        elif payload in self._queue:
            self._skip(payload, why, is_refused=False)

    def _hear(self, server: Server, message: ServerAnswer | None) -> None:
        """Process a server's message; None: the server is dead."""
        if message is None:
            self._died(server)
        elif "ready" in message:
            self._ready(server, message["ready"])
        elif "run" in message:
            payload = self._running.get(message["run"])
            if payload is not None:
                self._forked(payload, message.get("rank", 0), message["pid"])
        elif "status" in message:
            self._task_ended(server, message["pid"], message["status"])

    def _ready(self, server: Server, seconds: float) -> None:
        """Mark a server as ready: it has finished its imports."""
        server.is_ready = True

    def _forked(self, payload: P, rank: int, pid: int) -> None:
        payload.pids[rank] = pid
        if len(payload.pids) == payload.tasks:
            payload.beat()
        if payload.stop_requested_at is not None:  # it was asked to stop before its pid was known
            payload.signal(signal.SIGINT, alone=payload.in_job)

    def _task_ended(self, server: Server, pid: int, status: int) -> None:
        if not server.in_job:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # leftover child processes
        for payload in self._running.values():
            for rank, one in payload.pids.items() if payload.server is server else ():
                if one == pid and rank not in payload.statuses:
                    payload.statuses[rank] = status
                    return

    def _free(self, payload: P) -> None:
        """Release the slot of a payload whose processes have ended."""
        if payload.slot is not None:
            self.slots.leave(payload.slot)
            payload.slot = None

    def _put(self, payload: P, requeue: Requeue) -> None:
        """Move a payload that is no longer active to the ended ones, or back to the queue."""
        del self._running[payload.id]
        if requeue is None:
            self._over.append(payload)
            return
        payload.pids, payload.statuses = {}, {}
        payload.stop_requested_at, payload.reason, payload.canceled = None, None, False
        (self._queue.appendleft if requeue == "first" else self._queue.append)(payload)

    def _died(self, server: Server) -> None:
        """Handle a server's death: queue or fail its payloads, and restart it."""
        lost = [payload for payload in self._running.values() if payload.server is server]
        server.bury()
        for payload in lost:
            payload.kill()
            self._free(payload)
            payload.deaths += 1
            self._put(payload, payload.on_server_death(is_guilty=payload.deaths > SUSPECT and len(lost) == 1))
        server.start_again()

    def _look(self) -> None:
        for payload in list(self._running.values()):
            payload.beat()
            payload.hold_to_limits()
            if payload.stop_requested_at is not None and time.monotonic() - payload.stop_requested_at > GRACE_S:
                payload.kill()
                beside = [one for one in self._running.values() if one.server is payload.server and one.pids]
                # Nothing was forked yet: the server hangs or reads data. Kill it if its other payloads must stop too.
                if payload.server and not payload.pids and all(one.stop_requested_at is not None for one in beside):
                    payload.server.process.kill()
        for payload in list(self._queue):
            if payload.end_requested():
                self._cancel(payload)


def memory_gb(pid: int) -> float:
    """Return the memory of a process and its children in GiB; shared pages, common in forks, count proportionally."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                info = member.memory_full_info()
                total += getattr(info, "pss", info.uss)
    return total / 2**30
