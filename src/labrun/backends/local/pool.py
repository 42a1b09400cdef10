"""The local pool: runs as payloads of a supervisor, forked from a server that has imported their modules.

The controller polls the pool. A run's process writes its record; the pool updates the heartbeat, and closes the record
of a run whose process was killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import psutil

from labrun.backends.base import Resources
from labrun.backends.local.server import Server
from labrun.backends.local.slots import Slots
from labrun.backends.local.supervisor import Payload, Requeue, Supervisor
from labrun.config import masking
from labrun.errors import LabrunError, RecordError
from labrun.runs import context, peer_errors, recording
from labrun.runs.end_requests import end_requested
from labrun.runs.finalize import (
    close,
    close_ended,
    close_unstarted,
    note_interrupted,
    request,
    requeue,
    wait_gone,
)
from labrun.runs.record import COMPLETED, FAILED, PREEMPTED, Record, RunPaths, flush_record, read_record
from labrun.runs.status import EndReason
from labrun.runs.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from labrun.backends.local.messages import GatherTask, RunTask, TaskMessage

log = logging.getLogger(__name__)

PARTING_S = 30.0
"""How long a run's other processes may continue after the first one, which writes the record, is done, in seconds."""
LARGE_QUEUE = 50
"""From this many waiting runs on, cheaper forks are worth one second of preparation. A warm interpreter has done it."""


@dataclass(eq=False, kw_only=True)
class Run(Payload):
    """A run; its record holds the outcome."""

    settings: ClassVar[str] = "compute."

    run_dir: Path
    tries: int = 0
    """Attempts in this session, compared with the allowed retries; earlier sessions do not count."""
    port: int = 0
    """The rendezvous port of its processes, if it has several."""
    broken_at: float | None = None
    """When the first of several processes ended, or any of them failed."""

    def message(self, rank: int) -> RunTask:
        """Return the message for `worker.run_task`."""
        environment = {**self.needs.environment, **(self.slot.environment if self.slot else {})}
        if self.tasks > 1:
            self.port = self.port if rank else free_port()
            environment |= meeting(rank, self.tasks, self.port)
        return {
            **_logged(self, self.run_dir, rank),
            "environment": environment,
            "threads": self.needs.cpus // self.tasks,
            "pictures": self.needs.pictures,
            "ranks": self.tasks,
        }

    def end_requested(self) -> bool:
        """Whether its folder holds a cancel request."""
        return end_requested(self.run_dir)

    def beat(self) -> None:
        """Update its heartbeat."""
        with contextlib.suppress(OSError):
            RunPaths(self.run_dir).heartbeat.write_text(f"{time.time():.3f}\n", encoding="ascii")
        if self.is_preempted:  # repeated, because a process that was just starting may have missed it
            self.signal(recording.PREEMPT_SIGNAL, alone=True)

    def hold_to_limits(self) -> None:
        """End it if it exceeds its limits, and end the remaining ones of several processes: they may wait forever."""
        super().hold_to_limits()
        has_failed = any(self.statuses.values())
        if self.tasks == 1 or not self.living or not (has_failed or 0 in self.statuses):
            return
        self.broken_at = self.broken_at or time.monotonic()
        if time.monotonic() - self.broken_at > (peer_errors.LOG_WAIT_S if has_failed else PARTING_S):
            self.kill()

    def on_exit(self) -> Requeue:
        """Close its record, if its process could not, and retry a failed run that has retries left."""
        if self.in_job:
            _end_programs_of(self.run_dir)
        self.broken_at = None
        try:
            record = self._closed()
            flush_record(self.run_dir)
        except RecordError as error:
            log.error("Run %s: %s", self.run_dir.name, error)
            return None
        if record.status == COMPLETED and self.server is not None:
            self.server.deaths = 0
        if record.status == PREEMPTED:
            return None if self.is_preempted else "first"
        self.tries += 1
        if record.status == FAILED and self.tries <= self.needs.retries:
            log.info("Run %s failed (%s); retrying", record.id, record.reason)
            requeue(self.run_dir, record)
            return "first"
        return None

    def _closed(self) -> Record:
        """Close its record and return it; if several processes failed, the first failure is the reason."""
        failed = next((rank for rank, status in self.statuses.items() if status), 0)
        record = read_record(self.run_dir)
        if failed and self.reason is None and not (self.canceled or record.finished or record.status == PREEMPTED):
            status, log_file = self.statuses[failed], self.run_dir / f"driver.{failed}.log"
            how = f"ended with exit code {os.waitstatus_to_exitcode(status)}"
            if os.WIFSIGNALED(status):
                how = f"was ended by {recording.signal_name(os.WTERMSIG(status))}"
            why = f"process {failed} of the run {how}; its log is {log_file}"
            return close(self.run_dir, record, FAILED, EndReason.PROCESS_FAILED, why)
        return close_ended(self.run_dir, self.statuses[0], self.reason, self.canceled)

    def on_server_death(self, is_guilty: bool) -> Requeue:
        """Run it again, as the server's death is usually not its fault; fail it if it keeps killing the server."""
        wait_gone(self.run_dir)
        record = read_record(self.run_dir)
        if record.finished:
            flush_record(self.run_dir)
            if record.status == COMPLETED and self.server is not None:
                self.server.deaths = 0  # it completed before the server could report that
            return None
        if self.canceled:
            close_ended(self.run_dir, signal.SIGKILL, None, canceled=True)
            return None
        if is_guilty:
            why = f"the pool's fork server died {self.deaths} times while this run was active, the last time alone"
            close(self.run_dir, record, FAILED, EndReason.CRASHED, why)
            if self.server is not None:
                self.server.deaths = 0
            return None
        note_interrupted(self.run_dir, record, "the fork server died")
        # The other runs go first, so that a run that kills its server cannot block them forever.
        return "first" if self.deaths == 1 else "last"

    def on_skipped(self, why: str, is_refused: bool) -> None:
        """Close its record as failed or canceled."""
        if is_refused:
            close(self.run_dir, read_record(self.run_dir), FAILED, EndReason.NO_DEVICE, why)
        else:
            close_unstarted(self.run_dir, why)


@dataclass(eq=False, kw_only=True)
class Gathering(Payload):
    """Gathers the data for a finished run's pictures, in a process that has the libraries of its model."""

    run_dir: Path
    file: Path

    def message(self, rank: int) -> GatherTask:
        """Return the message for `worker.run_task`."""
        return {**_logged(self, self.run_dir, rank), "environment": {}, "threads": 1, "gather": str(self.file)}


def _logged(payload: Payload, run_dir: Path, rank: int) -> TaskMessage:
    """Return the part of a message that sends a process's output to its log in the run's folder."""
    log_file = str(run_dir / (f"driver.{rank}.log" if rank else "driver.log"))
    return {"run": payload.id, "rank": rank, "out": log_file, "err": log_file}


def free_port() -> int:
    """Return a free local port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def meeting(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return the variables from which torch learns about processes that train together on one machine."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    return variables | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}


class LocalPool(Supervisor[Run | Gathering]):
    """Runs submitted runs on this machine.

    Args:
        start: starts the server; takes the thread count of the first run.
        slots: the slots that the runs share.
        draws: whether `draw` will be called when the runs have ended.
    """

    def __init__(self, start: Callable[[int], Server], slots: Slots, draws: bool = False) -> None:
        super().__init__(slots, lambda run: start(run.needs.cpus // run.needs.ranks))
        self._draws = draws
        self._system = SystemMetrics()

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Add a run, whose record is written, to the queue."""
        self._queue.append(Run(id=str(run_dir), run_dir=run_dir, needs=needs, tasks=needs.ranks))
        self._server(self._queue[0])

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Let the runs proceed for a while.

        Returns:
            The runs that have ended since the last call, with closed records.

        Raises:
            LabrunError: the server keeps dying.
        """
        if self._draws and not any(server.is_ready for server in self.servers.values()):
            self._draws = False  # use the time while the server imports
            with contextlib.suppress(Exception):  # problems with matplotlib are reported when pictures are drawn
                from labrun.report import figures

                figures.warm()
        return [run.run_dir for run in self.step(timeout_s)]

    def draw(self, run_dir: Path, timeout_s: float = 120.0) -> bool:
        """Draw a finished run's pictures. Return whether that succeeded; if not, the run's log says why."""
        from labrun.report import pictures

        file = run_dir / ".pictures.npz"
        try:
            is_gathered = self._gather(run_dir, file, timeout_s)
            if is_gathered:
                pictures.load(file).draw(run_dir)
            return is_gathered
        except Exception:  # noqa: BLE001 - matplotlib's settings must not break the end of a sweep
            with contextlib.suppress(OSError), open(run_dir / "driver.log", "a", encoding="utf-8") as output:
                output.write(masking.masked(traceback.format_exc()))
            return False
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)

    def _gather(self, run_dir: Path, file: Path, timeout_s: float) -> bool:
        gathering = Gathering(id=str(run_dir), run_dir=run_dir, needs=Resources(), file=file)
        self._queue.append(gathering)
        end = time.monotonic() + timeout_s
        while (left_s := end - time.monotonic()) > 0:
            if gathering in self.step(left_s):
                return gathering.statuses.get(0) == 0
        return False

    def preempt(self) -> None:
        """Start no more runs, and ask the active ones to save their state and exit."""
        self._queue.clear()
        for run in self._running.values():
            run.is_preempted = True
            run.signal(recording.PREEMPT_SIGNAL, alone=True)

    def drop(self) -> list[Path]:
        """Kill and forget the active runs, and return them; the caller closes their records."""
        dropped = list(self._running.values())
        self._running.clear()
        for run in dropped:
            self._free(run)
            run.kill()
            wait_gone(run.run_dir)
        return [run.run_dir for run in dropped]

    def cancel_all(self, at_once: bool = False, why: str = "canceled") -> None:
        """Cancel waiting runs, and ask active runs to stop, or end them at once."""
        for waiting in list(self._queue):
            self._cancel(waiting, why)
        for run in self._running.values():
            if not run.canceled and not run.in_job:
                request(run.run_dir, why)
            run.canceled = True
            if at_once:
                run.kill()
            else:
                run.ask()

    def close(self) -> None:
        """End the server and all active runs."""
        self._system.close()
        for server in self.servers.values():
            server.close()

    def _forked(self, payload: Run | Gathering, rank: int, pid: int) -> None:
        super()._forked(payload, rank, pid)
        if isinstance(payload, Run) and rank == 0 and payload.needs.measured_every_s is not None:
            gpus = payload.slot.gpus if payload.slot is not None and payload.needs.gpus else None
            self._system.watch(payload.run_dir, pid, payload.needs.measured_every_s, gpus)

    def _free(self, payload: Run | Gathering) -> None:
        self._system.forget(payload.run_dir)
        super()._free(payload)

    def _ready(self, server: Server, seconds: float) -> None:
        super()._ready(server, seconds)
        if len(self._queue) >= LARGE_QUEUE and not server.is_warm:
            server.send({"many": True})
        counts = {self.slots.carries(run.needs.cpus, run.needs.gpus) for run in self._queue}
        at_once = f"; {counts.pop()} at once" if len(counts) == 1 else ""
        log.info("Imported the modules of all runs in %s s%s", seconds, at_once)

    def _died(self, server: Server) -> None:
        waiting = len(self._queue)
        super()._died(server)
        if server.is_broken:
            self._queue.clear()
            raise LabrunError(f"the pool's fork server died {server.deaths} times without a run completed in between")
        log.warning("The fork server died; restarting it and %d runs", len(self._queue) - waiting)


def _end_programs_of(run_dir: Path) -> None:
    """Kill programs that a run started but did not wait for, in a cluster job, where the run has no process group.

    The programs are recognized by the run's folder in their environment.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mine = os.getsid(process.pid) == os.getsid(0) and process.ppid() != os.getpid()
            if mine and process.environ().get(context.RUN_DIR_VARIABLE) == str(run_dir):
                process.kill()
