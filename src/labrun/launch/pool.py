"""The local pool: at most so many runs at once, each in a process forked from a server that has imported everything.

The controller (this side) supervises: it beats the heart of every running run, obeys requests to cancel, ends runs
over their time or memory, writes the record of a run that was killed, and starts the server again if it dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from labrun.errors import LabrunError
from labrun.launch.forkserver import Channel
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
GRACE_S = 10.0
RESTARTS = 5
"""How often the server is started again without a single run completed in between."""


@dataclass(frozen=True)
class Needs:
    """What one run needs of the machine (from the config's `compute`)."""

    cpus: int = 1
    timeout_s: float | None = None
    mem_gb: float | None = None
    retries: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = False


@dataclass
class _Running:
    run_dir: Path
    needs: Needs
    pid: int | None = None
    slot: int = 0
    began: float = field(default_factory=time.monotonic)
    asked_at: float | None = None
    """When it was asked to stop."""
    reason: str | None = None
    """Why it was ended, for the record."""
    canceled: bool = False


class LocalPool:
    """Runs submitted runs on this machine.

    Args:
        path: where the runs' processes import from.
        preload: targets to import ahead of the runs.
        parallel: runs at once.
        gpus: the device for each of the slots, or none: then the caller's devices are left as they are.
    """

    def __init__(self, path: Sequence[str], preload: Sequence[str], parallel: int, gpus: Sequence[str] = ()) -> None:
        self._path, self._preload, self.parallel, self._gpus = list(path), list(preload), parallel, list(gpus)
        self._queue: deque[tuple[Path, Needs]] = deque()
        self._running: dict[Path, _Running] = {}
        self._restarts = 0
        self._next_beat = 0.0
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._start_server()

    def submit(self, run_dir: Path, needs: Needs) -> None:
        """Put a run, whose record is written, in the queue."""
        self._queue.append((run_dir, needs))

    @property
    def busy(self) -> bool:
        """Whether any run is waiting or under way."""
        return bool(self._queue or self._running)

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Let the runs go on for a while.

        Returns:
            The runs that have ended since, their records closed.

        Raises:
            LabrunError: the server cannot be kept alive.
        """
        self._fill()
        ended: list[Path] = []
        assert self._channel is not None
        ready, _, _ = select.select([self._channel.connection], [], [], timeout_s)
        if ready:
            messages = self._channel.receive()
            if messages is None:
                return self._server_died()
            for message in messages:
                ended += self._hear(message)
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + HEARTBEAT_S
            self._supervise()
        self._fill()
        return ended

    def draw(self, run_dir: Path, timeout_s: float = 120.0) -> bool:
        """Have a finished run's pictures drawn in a process of the pool, which has the libraries; whether it worked."""
        assert self._channel is not None
        message = {"run": str(run_dir), "environment": {}, "threads": 1, "pictures": True, "draw": True}
        pid, end = None, time.monotonic() + timeout_s
        with contextlib.suppress(OSError):
            self._channel.send(message)
            while select.select([self._channel.connection], [], [], max(0.0, end - time.monotonic()))[0]:
                for answer in self._channel.receive() or [{"pid": pid, "status": 1}]:
                    if "run" in answer:
                        pid = answer["pid"]
                    elif answer.get("pid") == pid:
                        return bool(answer["status"] == 0)
        return False

    def cancel(self, run_dir: Path) -> None:
        """Ask a run to stop; one that waits is canceled at once."""
        running = self._running.get(run_dir)
        if running is not None:
            running.canceled = True
            self._ask(running)
            return
        waiting = [entry for entry in self._queue if entry[0] == run_dir]
        for entry in waiting:
            self._queue.remove(entry)
            close_unrun(run_dir, "canceled before it began")

    def cancel_all(self, at_once: bool = False) -> None:
        """Cancel what waits, and ask what runs to stop; or end it at once."""
        for run_dir, _ in list(self._queue):
            self.cancel(run_dir)
        for running in self._running.values():
            running.canceled = True
            if at_once:
                _signal(running, signal.SIGKILL)
            else:
                self._ask(running)

    def close(self) -> None:
        """End the server and everything that still runs."""
        if self._channel is not None:
            self._channel.connection.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
                return
            self._process.kill()

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, str(Path(__file__).with_name("forkserver.py")), str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._channel, self._ready = Channel(ours), False
        self._channel.send({"path": self._path, "preload": self._preload})

    def _fill(self) -> None:
        while self._ready and self._queue and len(self._running) < self.parallel:
            run_dir, needs = self._queue.popleft()
            slot = min(set(range(self.parallel)) - {r.slot for r in self._running.values()})
            environment = dict(needs.environment)
            if self._gpus:
                environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
            self._running[run_dir] = _Running(run_dir, needs, slot=slot)
            message = {
                "run": str(run_dir), "environment": environment, "threads": needs.cpus, "pictures": needs.pictures,
            }  # fmt: skip
            assert self._channel is not None
            with contextlib.suppress(OSError):  # a dead server is noticed when the next answer is read
                self._channel.send(message)
            _touch(RunPaths(run_dir).heartbeat)

    def _hear(self, message: Mapping[str, object]) -> list[Path]:
        if "ready" in message:
            self._ready = True
            log.info("Imported what the runs need, once, in %s s; %d at once", message["ready"], self.parallel)
        elif "run" in message:
            running = self._running[Path(str(message["run"]))]
            running.pid = int(str(message["pid"]))
            if running.asked_at is not None:
                _signal(running, signal.SIGINT)
        elif "status" in message:
            for running in self._running.values():
                if running.pid == message["pid"]:
                    return self._ended(running, int(str(message["status"])))
        return []

    def _ended(self, running: _Running, status: int) -> list[Path]:
        del self._running[running.run_dir]
        record = close_ended(running.run_dir, status, running.reason, running.canceled)
        if record.status == records.COMPLETED:
            self._restarts = 0
        if record.status == records.FAILED and len(record.attempts) <= running.needs.retries:
            reason = str((record.error or {}).get("message", "")).split("\n")[0]
            log.info("Run %s failed (%s); again", record.id, reason)
            record.status = records.QUEUED
            record.attempts[-1]["reason"] = reason
            records.write(running.run_dir, record)
            self._queue.appendleft((running.run_dir, running.needs))
            return []
        return [running.run_dir]

    def _server_died(self) -> list[Path]:
        """Start it again; the runs that died with it, through no fault of their own, run again."""
        self._restarts += 1
        interrupted = list(self._running.values())
        self._running.clear()
        if self._process is not None:
            self._process.wait()
        ended = []
        for running in interrupted:
            _wait_gone(running.run_dir)
            record = records.read(running.run_dir)
            if record.finished:
                ended.append(running.run_dir)
            elif running.canceled:
                close_ended(running.run_dir, signal.SIGKILL, None, canceled=True)
                ended.append(running.run_dir)
            else:
                _note_interrupted(running.run_dir, record)
                self._queue.appendleft((running.run_dir, running.needs))
        if self._restarts > RESTARTS:
            self._queue.clear()
            raise LabrunError(f"the pool's fork server died {self._restarts} times without a run completed in between")
        log.warning("The fork server died; it is started again, and %d runs with it", len(interrupted) - len(ended))
        self._start_server()
        return ended

    def _supervise(self) -> None:
        for running in list(self._running.values()):
            _touch(RunPaths(running.run_dir).heartbeat)
            if (RunPaths(running.run_dir).requests / "cancel").exists() and not running.canceled:
                running.canceled = True
                self._ask(running)
            self._hold_to_limits(running)
            if running.asked_at is not None and time.monotonic() - running.asked_at > GRACE_S:
                _signal(running, signal.SIGKILL)
        for run_dir, _ in list(self._queue):
            if (RunPaths(run_dir).requests / "cancel").exists():
                self.cancel(run_dir)

    def _hold_to_limits(self, running: _Running) -> None:
        needs = running.needs
        if running.pid is None or running.reason is not None:
            return
        seconds = time.monotonic() - running.began
        if needs.timeout_s is not None and seconds > needs.timeout_s:
            running.reason = f"ended after {seconds:.0f} s: compute.timeout_min={needs.timeout_s / 60:g}"
        elif needs.mem_gb is not None and (used := memory_gb(running.pid)) > needs.mem_gb:
            running.reason = f"ended at {used:.2f} GB of memory of its own: compute.mem_gb={needs.mem_gb:g}"
        if running.reason is not None:
            _signal(running, signal.SIGKILL)

    def _ask(self, running: _Running) -> None:
        if running.asked_at is None:
            running.asked_at = time.monotonic()
            _signal(running, signal.SIGINT)


def memory_gb(pid: int) -> float:
    """Memory of a process and its children: shared pages, which forked runs have many of, count by their share."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                info = member.memory_full_info()
                total += getattr(info, "pss", info.uss)
    return total / 2**30


def close_ended(run_dir: Path, status: int, reason: str | None, canceled: bool) -> Record:
    """Close the record of a run whose process has ended, if the process did not do so itself.

    Args:
        run_dir: the run.
        status: what `waitpid` gave.
        reason: why it was ended, if by us.
        canceled: whether it was asked to stop.
    """
    record = records.read(run_dir)
    if record.finished:
        return record
    if canceled:
        kind, message, end = "Canceled", "canceled", records.CANCELED
    elif reason is not None:
        kind, message, end = "LimitExceeded", reason, records.FAILED
    elif os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        kind, message, end = "Killed", f"the run's process was ended by {name}", records.FAILED
    else:
        message = f"the run's process ended with exit code {os.waitstatus_to_exitcode(status)} before it was done"
        kind, end = "Exited", records.FAILED
    record.status, record.ended = end, records.now()
    record.error = {"type": kind, "message": message, "traceback": ""}
    if record.started:
        record.duration_s = records.seconds_between(record.started, record.ended)
    if record.attempts:
        record.attempts[-1] |= {"ended": record.ended, "status": end, "reason": message}
    records.write(run_dir, record)
    return record


def close_unrun(run_dir: Path, why: str) -> None:
    """Cancel a run that never began."""
    record = records.read(run_dir)
    record.status, record.ended = records.CANCELED, records.now()
    record.error = {"type": "Canceled", "message": why, "traceback": ""}
    records.write(run_dir, record)


def _note_interrupted(run_dir: Path, record: Record) -> None:
    record.status = records.QUEUED
    if record.attempts and record.attempts[-1].get("ended") is None:
        record.attempts[-1] |= {"ended": records.now(), "status": records.FAILED, "reason": "the fork server died"}
    records.write(run_dir, record)


def _wait_gone(run_dir: Path, timeout_s: float = 10.0) -> None:
    """Wait until a run's process, killed with its server, is gone: two must never write one run."""
    end = time.monotonic() + timeout_s
    while records.process_lives(records.read(run_dir).process) and time.monotonic() < end:
        time.sleep(0.02)


def _signal(running: _Running, number: signal.Signals) -> None:
    """Signal a run's process and what it started."""
    if running.pid is None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, number)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(running.pid, number)


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.write_text(f"{time.time():.3f}\n", encoding="ascii")
