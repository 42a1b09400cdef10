"""A third-party backend with one interpreter per run: the example of docs/architecture.md."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from labrun.backends import this_machine
from labrun.backends.base import Backend, Capacity, Head, Resources
from labrun.config.schema import Compute
from labrun.runs import finalize, machine
from labrun.runs.end_requests import end_requested
from labrun.runs.record import FAILED, RunPaths
from labrun.runs.sweep_state import Plan
from labrun.runs.system_metrics import SystemMetrics


class OneProcessEach(Backend):
    """Runs on this machine, without a pool."""

    name = "one_process_each"

    def problems(self, compute: Compute) -> Iterator[str]:
        """Yield resources that this machine lacks, and features that this backend does not support."""
        yield from this_machine.problems(compute)
        for key, plain in (("mem_gb", None), ("timeout_min", None), ("gpus_per_run", 0)):
            if getattr(compute, key) != plain:
                yield f"{compute.key(key)}={getattr(compute, key)}: {self.name} does not hold runs to it"

    def summary(self, compute: Compute) -> str:
        """Return the cores and the memory."""
        return this_machine.summary(compute)

    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """Return as many slots as the cores allow."""
        return Capacity(compute.max_parallel or max(1, machine.cores() // max(cpus for cpus, _ in needs)))

    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> Processes:
        """See `Backend.executor`."""
        return Processes(plan)


class Processes:
    """See `labrun.backends.base.Executor`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._queue: deque[tuple[Path, Resources]] = deque()
        self._running: dict[Path, tuple[subprocess.Popen[bytes], Resources]] = {}
        self._canceled: list[Path] = []
        self._tries: dict[Path, int] = {}
        self._system = SystemMetrics()

    @property
    def busy(self) -> bool:
        """Whether any run is queued or running."""
        return bool(self._queue or self._running or self._canceled)

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Queue a run."""
        self._queue.append((run_dir, needs))

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Start queued runs if cores are free, and return the runs that have ended."""
        ended, self._canceled = self._canceled, []
        while self._queue and len(self._running) < self._plan.parallel:
            run_dir, needs = self._queue.popleft()
            if end_requested(run_dir):
                finalize.close_unstarted(run_dir)
                ended.append(run_dir)
                continue
            variables = {**os.environ, **needs.environment, "PYTHONPATH": os.pathsep.join(self._plan.path)}
            python = self._plan.python or sys.executable
            command = [python, "-m", "labrun.backends.one_run", str(run_dir)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, env=variables, cwd=self._plan.cwd)
            self._running[run_dir] = process, needs
            if needs.measured_every_s is not None:
                self._system.watch(run_dir, process.pid, needs.measured_every_s)
        time.sleep(0 if ended else timeout_s)
        for run_dir, (process, needs) in list(self._running.items()):
            is_canceled = end_requested(run_dir)
            if process.poll() is None:
                RunPaths(run_dir).heartbeat.write_text("")
                if is_canceled:
                    process.send_signal(signal.SIGINT)
                continue
            del self._running[run_dir]
            self._system.forget(run_dir)
            process.communicate()
            status = (
                -process.returncode if process.returncode < 0 else process.returncode << 8
            )  # as returned by waitpid
            record = finalize.close_ended(run_dir, status, None, is_canceled)
            self._tries[run_dir] = self._tries.get(run_dir, 0) + 1
            if record.status == FAILED and self._tries[run_dir] <= needs.retries:
                finalize.requeue(run_dir, record)
                self._queue.append((run_dir, needs))
            else:
                ended.append(run_dir)
        return ended

    def cancel_all(self, at_once: bool = False, why: str = "canceled") -> None:
        """Cancel queued runs, and ask running ones to stop, or kill them."""
        for run_dir, _ in self._queue:
            finalize.close_unstarted(run_dir, why)
            self._canceled.append(run_dir)
        self._queue.clear()
        for run_dir, (process, _) in self._running.items():
            finalize.request(run_dir, why)
            if at_once:
                process.kill()

    def draw(self, run_dir: Path) -> None:
        """Return None: only the runs themselves draw pictures, if at all."""

    def close(self) -> None:
        """Kill all remaining processes."""
        self._system.close()
        for process, _ in self._running.values():
            process.kill()
            process.wait()
