"""The pool of calls (`calls.py`): a supervisor that runs in its own thread, so that its caller need not poll."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import ClassVar

from labrun.backends.local.calls import Call, CallState, save_signal
from labrun.backends.local.slots import Slots
from labrun.backends.local.supervisor import Supervisor

IDLE_SERVERS = 3
"""Number of servers to keep without a call: submissions may alternate between two environments."""

_POOLS: weakref.WeakSet[CallPool] = weakref.WeakSet()


def pool_of(job_id: str) -> CallPool | None:
    """Return this process's pool that manages a call; None if there is none."""
    return next((pool for pool in list(_POOLS) if pool.call(job_id) is not None), None)


class CallPool(Supervisor[Call]):
    """Executes calls.

    Args:
        slots: the slots that the calls share.
    """

    every_s: ClassVar[float] = 0.5

    def __init__(self, slots: Slots) -> None:
        super().__init__(slots, lambda call: call.origin.server())
        self._calls: dict[str, Call] = {}
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.RLock()
        self._ending = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._serve, name="labrun-pool", daemon=True)
        self._thread.start()
        _POOLS.add(self)
        atexit.register(self._wait_at_exit)

    # ---- called by the submitting thread

    def submit(self, calls: Sequence[Call]) -> None:
        """Put calls in the queue."""
        for call in calls:
            call.note()
        with self._lock:
            self._calls.update((call.id, call) for call in calls)
            if self._thread.is_alive():
                self._queue.extend(calls)
            else:
                for call in calls:
                    call.close(CallState.FAILED, "the pool has ended")
        self._wake()

    def call(self, job_id: str) -> Call | None:
        """Return a call; None if it is not in this pool, or if this process was forked from the pool's process."""
        return self._calls.get(job_id) if os.getpid() == self._pid else None

    def cancel(self, job_id: str) -> None:
        """Ask a running call to stop; cancel a waiting one at once."""
        with self._lock:
            if job_id in self._calls:
                self._cancel(self._calls[job_id])

    def interrupt(self, job_id: str) -> None:
        """Make a call save its state: signal its tasks, but no process that they started."""
        with self._lock:
            self._calls[job_id].signal(save_signal(), alone=True)

    def close(self) -> None:
        """End the servers and all running calls."""
        self._ending = True
        self._wake()
        self._thread.join(timeout=5)

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    def _wait_at_exit(self) -> None:
        """Wait for submitted calls when the script ends, so that none is lost."""
        left = [call for call in self._calls.values() if not call.done.is_set()]
        if not left or self._ending or os.getpid() != self._pid:
            return
        if issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt):  # Ctrl-C ended the script
            sys.stderr.write(f"labrun: {len(left)} submitted jobs have not ended and are killed\n")
            self.close()
            return
        sys.stderr.write(f"labrun: waiting for {len(left)} submitted jobs that have not ended (Ctrl-C ends them)\n")
        try:
            for call in left:
                call.done.wait()
        except KeyboardInterrupt:
            self.close()

    # ---- called by the pool's thread

    def _serve(self) -> None:
        # Servers start in this thread: the kernel ends a server when the thread that started it ends.
        try:
            while not self._ending:
                if self._listen(self.every_s, self._wake_read):
                    os.read(self._wake_read, 4096)
                with self._lock:
                    self._process_messages()
                    self._begin()
                    self._close_idle()
        finally:
            # In every case, mark all calls as ended, so that nobody waits for them forever.
            with self._lock:
                for server in self.servers.values():
                    server.close(at_once=True)
                for call in self._calls.values():
                    if not call.done.is_set():
                        call.kill()
                        call.close(CallState.CANCELLED)

    def _close_idle(self) -> None:
        """End idle servers, except the most recently used ones."""
        if len(self.servers) <= IDLE_SERVERS:
            return
        wanted = {call.key for call in (*self._queue, *self._running.values())}
        idle = sorted((key for key in self.servers if key not in wanted), key=lambda key: self.servers[key].used)
        for key in idle[: len(self.servers) - IDLE_SERVERS]:
            self.servers.pop(key).close(at_once=True)
