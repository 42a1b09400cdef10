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
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from labrun import masking, targets
from labrun.backends.base import Resources
from labrun.backends.local.forkserver import Channel
from labrun.backends.local.slots import Slot, Slots
from labrun.errors import LabrunError, RecordError
from labrun.runs import context, pictures, recording, report
from labrun.runs import record as records
from labrun.runs.finalize import (
    close,
    close_ended,
    close_unrun,
    is_asked_to_end,
    note_interrupted,
    request,
    requeue,
    wait_gone,
)
from labrun.runs.record import EndReason, RunPaths
from labrun.warm import stock

Process = subprocess.Popen[bytes] | stock.Child

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
GRACE_S = 10.0
MANY = 50
"""So many waiting runs are worth the second that it takes to make each fork cheaper."""
RESTARTS = 5
"""How often the server is started again without a single run completed in between."""
SUSPECT = 3
"""After so many deaths of the fork server a run that was under way at each is run alone; at one more it has failed."""


@dataclass
class _Running:
    run_dir: Path
    needs: Resources
    place: Slot | None
    """None once its process has ended."""
    pid: int | None = None
    began: float = field(default_factory=time.monotonic)
    asked_at: float | None = None
    """When it was asked to stop."""
    reason: str | None = None
    """Why it was ended, for the record."""
    canceled: bool = False


class Server:
    """The process that imports what runs need, and is forked for each (`forkserver.py`).

    Args: see `LocalPool`.
    """

    def __init__(
        self,
        path: Sequence[str],
        preload: Sequence[str],
        python: str | None = None,
        cwd: str | None = None,
        in_job: bool = False,
        threads: int | None = None,
    ) -> None:
        self._path, self._keep, self.preload = list(path), python is not None, list(preload)
        self._threads = threads
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        warm = None if python is not None or in_job else _from_stock(path, preload, environment, cwd)
        if warm is not None:
            self.process, self.channel = warm
        else:
            if not in_job:
                targets.announce(*preload)
            self.process, self.channel = self._start(path, environment, python, cwd, in_job)
        self.send_preload(preload)

    def _start(
        self, path: Sequence[str], environment: Mapping[str, str], python: str | None, cwd: str | None, in_job: bool
    ) -> tuple[Process, Channel]:
        """A new interpreter."""
        ours, theirs = socket.socketpair()
        command = [python or sys.executable, str(frozen_file(path, "local/forkserver.py")), str(theirs.fileno())]
        command += ["in-job"] if in_job else []
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            start_new_session=not in_job,
        )
        theirs.close()
        return process, Channel(ours)

    def send_preload(self, preload: Sequence[str]) -> None:
        """Have it import these targets."""
        self.preload = list(preload)
        with contextlib.suppress(OSError):  # a dead server is noticed when its answer is read
            self.channel.send(
                {"path": self._path, "preload": self.preload, "keep": self._keep, "threads": self._threads}
            )

    def close(self, at_once: bool = False) -> None:
        """End it and everything that it runs. May be called twice.

        Args:
            at_once: do not wait until it has imported what it was told to: nothing will run.
        """
        self.channel.connection.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
                return
        self.process.kill()
        self.process.wait()


def _from_stock(
    path: Sequence[str], preload: Sequence[str], environment: Mapping[str, str], cwd: str | None
) -> tuple[Process, Channel] | None:
    """A fork of the warm interpreter; None where the frozen code is not what that has imported, or there is none."""
    keeper = stock.FULL if any(map(targets.needs_torch, preload)) else stock.LIGHT
    try:
        found = stock.begin(keeper, path, environment, cwd)
    except OSError as error:
        log.info("The warm interpreter could not be forked for the pool (%s): another one starts", error)
        return None
    return None if found is None else (found[0], Channel(found[1]))


class LocalPool:
    """Runs submitted runs on this machine.

    Args:
        path: where the runs' processes import from.
        preload: targets to import ahead of the runs.
        places: what the runs share.
        python: the runs' interpreter; its own packages come after `path`.
        cwd: the runs' working folder; the caller's by default.
        server: one that is starting already; else the first submission starts one.
        in_job: inside a cluster's job: nothing gets a process group of its own, which would outlive the job.
        draws: a run's pictures are asked for in the end (`draw`).
    """

    def __init__(
        self,
        path: Sequence[str],
        preload: Sequence[str],
        places: Slots,
        python: str | None = None,
        in_job: bool = False,
        cwd: str | None = None,
        server: Server | None = None,
        draws: bool = False,
    ) -> None:
        self._draws = draws
        self._path, self._preload, self._places = list(path), list(preload), places
        self._python, self._in_job, self._cwd = python, in_job, cwd
        self._leaving = False
        self._tries: dict[Path, int] = {}
        """How often each run has ended here, for its retries: what an earlier session tried does not count."""
        self._unready = 0
        """How often, one after the other, the server died before it was ready."""
        self._deaths: dict[Path, int] = {}
        """How often the server died while a run was under way."""
        self._canceled: list[Path] = []
        """Runs that ended without having begun, to be told at the next poll."""
        self._queue: deque[tuple[Path, Resources]] = deque()
        self._running: dict[Path, _Running] = {}
        self._held: list[Mapping[str, object]] = []
        """Data that the server was told to read for several runs."""
        self._unheard: deque[Mapping[str, object]] = deque()
        self._restarts = 0
        self._next_beat = 0.0
        self._ready = False
        self._given, self._server = server, server
        self._process: Process | None = None
        self._channel: Channel | None = None

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Put a run, whose record is written, in the queue."""
        self._queue.append((run_dir, needs))
        if self._channel is None:
            self._start_server()

    @property
    def busy(self) -> bool:
        """Whether any run is waiting or under way."""
        return bool(self._queue or self._running or self._canceled)

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Let the runs go on for a while.

        Returns:
            The runs that have ended since, their records closed.

        Raises:
            LabrunError: the server cannot be kept alive.
        """
        if self._draws and not self._ready:  # while the server imports, there is nothing else to do
            self._draws = False
            with contextlib.suppress(Exception):  # what is wrong with matplotlib is told when pictures are drawn
                report.warm()
        self._fill()
        self._obey()
        ended, self._canceled = self._canceled, []
        assert self._channel is not None
        ready, _, _ = select.select([self._channel.connection], [], [], timeout_s)
        if ready:
            messages = self._channel.receive()
            if messages is None:
                return ended + self._server_died()
            self._unheard.extend(messages)
        while self._unheard:  # each is taken off once it is dealt with: Ctrl-C may come at any moment
            ended += self._hear(self._unheard[0])
            self._unheard.popleft()
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + HEARTBEAT_S
            self._supervise()
        self._fill()
        return ended

    def draw(self, run_dir: Path, timeout_s: float = 120.0) -> bool:
        """Draw a finished run's pictures; whether it worked: else the run's log says why not.

        What they show is gathered in a process of the pool, which has the libraries that its model needs.
        """
        file = run_dir / ".pictures.npz"
        try:
            if not self._gather(run_dir, file, timeout_s):
                return False
            pictures.load(file).draw(run_dir)
            return True
        except Exception:  # noqa: BLE001 - a sweep's end must not hang on matplotlib's settings
            with contextlib.suppress(OSError), open(run_dir / "driver.log", "a", encoding="utf-8") as output:
                output.write(masking.masked(traceback.format_exc()))
            return False
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)

    def _gather(self, run_dir: Path, file: Path, timeout_s: float) -> bool:
        if self._channel is None:
            self._start_server()
        assert self._channel is not None
        message = {"run": str(run_dir), "environment": {}, "threads": 1, "gather": str(file)}
        pid, end = None, time.monotonic() + timeout_s
        with contextlib.suppress(OSError):
            self._channel.send(message)
            while select.select([self._channel.connection], [], [], max(0.0, end - time.monotonic()))[0]:
                for answer in self._channel.receive() or [{"run": "", "pid": -1}, {"pid": -1, "status": 1}]:
                    if "run" in answer:
                        pid = answer["pid"]
                    elif pid is not None and answer.get("pid") == pid:
                        return bool(answer["status"] == 0)
        return False

    def cancel(self, run_dir: Path, why: str = "canceled before it began") -> None:
        """Ask a run to stop; one that waits is canceled at once."""
        running = self._running.get(run_dir)
        if running is not None:
            running.canceled = True
            self._ask(running)
            return
        waiting = [entry for entry in self._queue if entry[0] == run_dir]
        for entry in waiting:
            self._queue.remove(entry)
            close_unrun(run_dir, why)
            self._canceled.append(run_dir)

    def leave(self) -> None:
        """Begin nothing more, and ask what runs to save its state and make room."""
        self._leaving = True
        self._queue.clear()
        for running in self._running.values():
            _signal(running, recording.LEAVE_SIGNAL, alone=True)

    def drop(self) -> list[Path]:
        """Kill what still runs and forget it: its record is the caller's to close."""
        dropped = list(self._running.values())
        self._running.clear()
        for running in dropped:
            self._free(running)
            self._kill(running)
            wait_gone(running.run_dir)
        return [running.run_dir for running in dropped]

    def cancel_all(self, at_once: bool = False, why: str = "canceled before it began") -> None:
        """Cancel what waits, and ask what runs to stop; or end it at once."""
        for run_dir, _ in list(self._queue):
            self.cancel(run_dir, why)
        for running in self._running.values():
            if not running.canceled and not self._in_job:
                request(running.run_dir, why.replace(" before it began", ""))
            running.canceled = True
            if at_once:
                self._kill(running)
            else:
                self._ask(running)

    def close(self) -> None:
        """End the server and everything that still runs."""
        if self._server is not None:
            self._server.close()

    def _start_server(self) -> None:
        server, self._given = self._given, None
        if server is None:
            threads = self._queue[0][1].cpus if self._queue else 1
            server = Server(self._path, self._preload, self._python, self._cwd, self._in_job, threads)
        elif set(self._preload) - set(server.preload):
            server.send_preload(self._preload)
        self._server, self._process, self._channel, self._ready = server, server.process, server.channel, False
        self._held.clear()

    def _fill(self) -> None:
        while self._ready and self._queue:
            run_dir, needs = self._queue[0]
            if is_asked_to_end(run_dir):
                self.cancel(run_dir)
                continue
            if not self._places.carries(needs.cpus, needs.gpus):
                self._queue.popleft()
                why = f"it needs {needs.gpus} GPUs, and so many are not visible here"
                close(run_dir, records.read(run_dir), records.FAILED, EndReason.NO_DEVICE, why)
                self._canceled.append(run_dir)
                continue
            if self._running and any(self._is_suspect(one) for one in (*self._running, run_dir)):
                break
            place = self._places.take(needs.cpus, needs.gpus)
            if place is None:
                break
            self._queue.popleft()
            self._running[run_dir] = _Running(run_dir, needs, place)
            message = {
                "run": str(run_dir),
                "environment": {**needs.environment, **place.environment},
                "threads": needs.cpus,
                "pictures": needs.pictures,
            }
            if self._is_shared(needs.data):
                message["data"] = needs.data
            assert self._channel is not None
            with contextlib.suppress(OSError):  # a dead server is noticed when the next answer is read
                self._channel.send(message)
            _touch(RunPaths(run_dir).heartbeat)

    def _free(self, running: _Running) -> None:
        """A run's process is no more: its place is free."""
        if running.place is not None:
            self._places.leave(running.place)
            running.place = None

    def _is_suspect(self, run_dir: Path) -> bool:
        """Whether a run may be what ends the server: it is run alone then."""
        return self._deaths.get(run_dir, 0) >= SUSPECT

    def _is_shared(self, data: Mapping[str, object] | None) -> bool:
        """Whether the server should read these data now, since runs that wait read them too; it is told once."""
        if data is None or data in self._held or not any(needs.data == data for _, needs in self._queue):
            return False
        self._held.append(data)
        return True

    def _hear(self, message: Mapping[str, object]) -> list[Path]:
        if "ready" in message:
            self._ready = True
            if len(self._queue) >= MANY and self._channel is not None:
                with contextlib.suppress(OSError):
                    self._channel.send({"many": True})
            log.info("Imported what the runs need, once, in %s s%s", message["ready"], self._at_once())
        elif "run" in message:
            running = self._running.get(Path(str(message["run"])))
            if running is None:
                return []
            running.pid = int(str(message["pid"]))
            if running.asked_at is not None:
                _signal(running, signal.SIGINT, alone=self._in_job)
        elif "status" in message:
            for running in list(self._running.values()):
                if running.pid == message["pid"]:
                    return self._ended(running, int(str(message["status"])))
        return []

    def _at_once(self) -> str:
        """How many of the runs that wait there are at once, unless their needs differ."""
        counts = {self._places.carries(needs.cpus, needs.gpus) for _, needs in self._queue}
        return f"; {counts.pop()} at once" if len(counts) == 1 else ""

    def _ended(self, running: _Running, status: int) -> list[Path]:
        """Close its books. May be done again: Ctrl-C may come at any moment."""
        self._free(running)
        self._fill()  # before this one's book-keeping, which waits for the disk
        if running.pid is not None:
            self._end_left_behind(running.pid, running.run_dir)
        try:
            record = close_ended(running.run_dir, status, running.reason, running.canceled)
            records.force_to_disk(running.run_dir)
        except RecordError as error:
            log.error("Run %s: %s", running.run_dir.name, error)
            del self._running[running.run_dir]
            return [running.run_dir]
        del self._running[running.run_dir]
        if record.status == records.COMPLETED:
            self._restarts = 0
        if record.status == records.PREEMPTED and not self._leaving:
            self._queue.appendleft((running.run_dir, running.needs))
            return []
        tries = self._tries[running.run_dir] = self._tries.get(running.run_dir, 0) + 1
        if record.status == records.FAILED and tries <= running.needs.retries:
            log.info("Run %s failed (%s); again", record.id, record.reason)
            requeue(running.run_dir, record)
            self._queue.appendleft((running.run_dir, running.needs))
            return []
        return [running.run_dir]

    def _server_died(self) -> list[Path]:
        """Start it again; the runs that died with it, through no fault of their own, run again."""
        self._restarts += 1
        self._unready = 0 if self._ready else self._unready + 1
        if self._unready > 1:  # what it was importing ended it, say: each run imports by itself then, and tells
            self._preload = []
        interrupted = list(self._running.values())
        self._running.clear()
        for running in interrupted:
            self._free(running)
        if self._server is not None:
            self._server.close()
        ended = []
        for running in interrupted:
            wait_gone(running.run_dir)
            record = records.read(running.run_dir)
            if record.finished:
                records.force_to_disk(running.run_dir)
                ended.append(running.run_dir)
            elif running.canceled:
                close_ended(running.run_dir, signal.SIGKILL, None, canceled=True)
                ended.append(running.run_dir)
            else:
                deaths = self._deaths[running.run_dir] = self._deaths.get(running.run_dir, 0) + 1
                if deaths > SUSPECT and len(interrupted) == 1:
                    why = f"the pool's fork server died {deaths} times while this run was under way, in the end alone"
                    close(running.run_dir, record, records.FAILED, EndReason.CRASHED, why)
                    self._restarts = 0
                    ended.append(running.run_dir)
                    continue
                note_interrupted(running.run_dir, record, "the fork server died")
                # The others first, lest one that ends its own server keeps them from ever being run.
                (self._queue.appendleft if deaths == 1 else self._queue.append)((running.run_dir, running.needs))
        if self._restarts > RESTARTS:
            self._queue.clear()
            raise LabrunError(f"the pool's fork server died {self._restarts} times without a run completed in between")
        log.warning("The fork server died; it is started again, and %d runs with it", len(interrupted) - len(ended))
        self._start_server()
        return ended

    def _obey(self) -> None:
        """Ask those runs to end whose folder holds a request: what is stopped early should stop at once."""
        for running in self._running.values():
            if not running.canceled and is_asked_to_end(running.run_dir):
                running.canceled = True
                self._ask(running)

    def _supervise(self) -> None:
        for running in list(self._running.values()):
            _touch(RunPaths(running.run_dir).heartbeat)
            self._hold_to_limits(running)
            if self._leaving:  # again: one that was just beginning may not have heard it
                _signal(running, recording.LEAVE_SIGNAL, alone=True)
            if running.asked_at is not None and time.monotonic() - running.asked_at > GRACE_S:
                self._kill(running)
                # Not even forked yet: the server hangs, or reads data. It may be ended if no other run ends with it.
                if running.pid is None and self._process is not None and not self._has_others():
                    self._process.kill()
        for run_dir, _ in list(self._queue):
            if is_asked_to_end(run_dir):
                self.cancel(run_dir)

    def _has_others(self) -> bool:
        return any(running.pid is not None and running.asked_at is None for running in self._running.values())

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
            self._kill(running)

    def _kill(self, running: _Running) -> None:
        """End a run's process at once, and what it started."""
        started: list[psutil.Process] = []
        if self._in_job and running.pid is not None:
            with contextlib.suppress(psutil.Error):
                started = psutil.Process(running.pid).children(recursive=True)
        _signal(running, signal.SIGKILL, alone=self._in_job)
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _end_left_behind(self, pid: int, run_dir: Path) -> None:
        """End what a run's process started and did not wait for: what is in its process group.

        In a cluster's job, where it has none, the programs that carry the run's folder in their environment.
        """
        if not self._in_job:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            return
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                mine = os.getsid(process.pid) == os.getsid(0) and process.ppid() != os.getpid()
                if mine and process.environ().get(context.RUN_DIR_VARIABLE) == str(run_dir):
                    process.kill()

    def _ask(self, running: _Running) -> None:
        if running.asked_at is None:
            running.asked_at = time.monotonic()
            _signal(running, signal.SIGINT, alone=self._in_job)


BEFORE = {"local/forkserver.py": "forkserver.py", "slurm/job.py": "cluster_job.py"}
"""Where code that was frozen before the backends had a room of their own has these files, in `launch/`."""


def frozen_file(path: Sequence[str], name: str) -> Path:
    """A file of `labrun.backends`: its frozen copy, where the path has one."""
    copies = (
        Path(entry, "labrun", room, file)
        for entry in path
        for room, file in (("backends", name), ("launch", BEFORE.get(name, name)))
    )
    return next((copy for copy in copies if copy.is_file()), Path(__file__).parents[1] / name)


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


def _signal(running: _Running, number: signal.Signals, alone: bool = False) -> None:
    """Signal a run's process, and what it started unless `alone`."""
    if running.pid is None:
        return
    if alone:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(running.pid, number)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, number)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(running.pid, number)


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.write_text(f"{time.time():.3f}\n", encoding="ascii")
