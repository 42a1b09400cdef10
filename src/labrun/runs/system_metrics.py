"""Resource usage of runs, measured by their supervisor while they run: `tracking.system=true`.

A thread of the supervisor (the sidecar of an inline run, the pool, or the first process of a Slurm job) reads `/proc`
and the GPU driver, and appends to the run's `metrics.jsonl`. This costs the run itself nothing and also covers a run
that hangs. The first measurement is written after one second, or at the end of a shorter run. Standard library only.

system/cpu              processor time per second of the run's process tree; 1 means one core
system/memory_gb        resident memory of the process tree, GB (2**30 bytes)
system/gpu0             utilization of the run's first GPU, 0 to 1; system/gpu1 the second, ...
system/gpu0_memory_gb   its memory in use by all processes, GB
system/disk_gb          size of the run's folder, GB
system/disk_free_gb     free space on its disk, GB
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from labrun.runs import context, processes
from labrun.runs.processes import Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labrun.runs import nvml

GB = 2**30
EARLY_S = (0.2, 0.5)
"""Times of early measurements, held back in case the run ends before the first one that is written."""
FIRST_S = 1.0
SHORTEST_S = 0.1
"""Minimum interval for processor time, which has a resolution of 10 ms."""
WALK_SHARE = 500
"""Pause between scans of a folder, in durations of a scan: below 0.2 % of a core for ten thousand files."""
DEVICES, DRIVER = "/dev/nvidia", "/dev/nvidiactl"
"""Path prefix of the devices that a process using a GPU has open, and the device that exists if there is any GPU."""


class Cpu:
    """Processor time of a process tree, per second."""

    def __init__(self, used_s: float, now: float) -> None:
        self._used_s, self._at = used_s, now
        self._is_less = False

    def cores(self, used_s: float, now: float) -> float | None:
        """Return the average cores in use since the last result; None if too little time has passed, or unknown.

        Args:
            used_s: see `Usage.cpu_s`.
            now: time of the monotonic clock.
        """
        if now - self._at < SHORTEST_S:
            return None
        if used_s < self._used_s and not self._is_less:
            # The time of a child that ended but was not yet waited for is briefly in none of the processes.
            self._is_less = True
            return None
        cores = max(0.0, used_s - self._used_s) / (now - self._at)
        self._used_s, self._at, self._is_less = used_s, now, False
        return cores


class Disk:
    """Size of a folder, and free space on its disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size: float | None = None
        self._next = 0.0

    def read(self) -> dict[str, float]:
        """Return both in GB; the folder's size is that of the last scan."""
        found: dict[str, float] = {}
        with contextlib.suppress(OSError):
            if time.monotonic() >= self._next:
                began = time.monotonic()
                self._size = _size(self._folder) / GB
                self._next = began + WALK_SHARE * (time.monotonic() - began)
            free = os.statvfs(self._folder)
            found = {"disk_free_gb": free.f_bavail * free.f_frsize / GB}
        return found if self._size is None else {"disk_gb": self._size, **found}


def _size(folder: Path) -> int:
    """Return the disk usage of a folder's files in bytes; links are not followed."""
    total, waiting = 0, [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:  # it may have been removed
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


class Gpus:
    """The GPUs of a run, opened on first use because the driver takes a moment.

    Args:
        pid: the run's process.
        names: see `Watched`.
    """

    def __init__(self, pid: int, names: Sequence[str] | None) -> None:
        self._pid, self._names = pid, names
        self._opened: nvml.Gpus | None = None

    def read(self) -> dict[str, float]:
        """Return the utilization and the used memory of each GPU."""
        if self._opened is None and self._are_used():
            from labrun.runs import nvml  # its imports take as long as the interpreter's start

            self._opened = nvml.Gpus(self._visible() if self._names is None else self._names)
        found: dict[str, float] = {}
        for place, load in enumerate([] if self._opened is None else self._opened.read()):
            found |= {} if load.busy is None else {f"gpu{place}": load.busy}
            found |= {} if load.memory is None else {f"gpu{place}_memory_gb": load.memory / GB}
        return found

    def _are_used(self) -> bool:
        if self._names is not None or not os.path.exists(DRIVER):
            return bool(self._names)
        return processes.has_open(self._pid, DEVICES, without=os.getpid())

    def _visible(self) -> list[str] | None:
        from labrun.runs import nvml

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return None if visible is None else list(nvml.listed(visible))

    def close(self) -> None:
        """Release the driver."""
        if self._opened is not None:
            self._opened.close()


class Watched:
    """Measures one run.

    Args:
        run_dir: the run's directory.
        pid: its process.
        every_s: interval of measurements, seconds.
        gpus: the GPUs allocated to the run, as in CUDA_VISIBLE_DEVICES; None if none were allocated, which measures
            the GPUs visible to this process once the run uses one.
        attempt: number of the run's attempt; None for the one that the process claims.
    """

    def __init__(
        self, run_dir: Path, pid: int, every_s: float, gpus: Sequence[str] | None = None, attempt: int | None = None
    ) -> None:
        self._run_dir, self._pid, self._attempt = run_dir, pid, attempt
        self._gpus, self._disk = Gpus(pid, gpus), Disk(run_dir)
        self._began = time.monotonic()
        self._times = itertools.chain(EARLY_S, itertools.count(FIRST_S, max(FIRST_S, every_s)))
        self._next = next(self._times)
        found = processes.stat(pid)
        self._start = None if found is None else found.start
        usage = self._usage()
        self._cpu = Cpu(0.0 if usage is None else usage.cpu_s, self._began)
        self._held = {**self._memory(usage), **self._disk.read()}
        self._has_written = self._is_over = False
        self._lock = threading.Lock()

    @property
    def due(self) -> float:
        """Time of the next measurement, by the monotonic clock."""
        return self._began + self._next

    def measure(self) -> bool:
        """Measure the run, and write the values unless it is too early. Return whether its process is alive."""
        with self._lock:
            is_early = self._next < FIRST_S
            while self.due <= time.monotonic():  # skip measurements missed while the machine slept
                self._next = next(self._times)
            usage = self._usage()
            if self._is_over or (usage is None and sys.platform == "linux"):
                return False
            self._take(usage)
            if not is_early:
                self._write(self._own_attempt())
            return True

    def end(self) -> None:
        """End measuring: write the values held so far if none have been written yet."""
        with self._lock:
            if not self._is_over and not self._has_written:
                if (usage := self._usage()) is not None:
                    self._take(usage)
                self._write(self._own_attempt() or _newest(self._run_dir) or 1)
            self._is_over = True
            self._gpus.close()

    def _usage(self) -> Usage | None:
        return None if self._start is None else processes.usage(self._pid, self._start, without=os.getpid())

    def _memory(self, usage: Usage | None) -> dict[str, float]:
        # A process that ended but was not yet waited for has no memory; its 0 is not a valid value.
        return {} if usage is None or not usage.memory else {"memory_gb": usage.memory / GB}

    def _take(self, usage: Usage | None) -> None:
        cores = None if usage is None else self._cpu.cores(usage.cpu_s, time.monotonic())
        self._held |= {} if cores is None else {"cpu": cores}
        self._held |= {**self._memory(usage), **self._gpus.read(), **self._disk.read()}

    def _own_attempt(self) -> int | None:
        """Return the number of the process's attempt; None before it claims one, or once a newer attempt exists."""
        newest = _newest(self._run_dir)
        if self._attempt is None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                claimed = json.loads(context.content(self._run_dir / "attempts" / str(newest), LARGEST))
                self._attempt = newest if claimed["pid"] == self._pid else None
        return self._attempt if newest in (0, self._attempt) else None

    def _write(self, attempt: int | None) -> None:
        if attempt is None:
            return
        values = {f"system/{name}": round(value, 6) for name, value in sorted(self._held.items())}
        with contextlib.suppress(OSError):  # full disk, or removed run
            context.log_system(self._run_dir, attempt, _seconds(self._run_dir), values)
            self._has_written = True
        self._held = {}


LARGEST = 2**16
"""Maximum size of a claim, bytes."""


def _newest(run_dir: Path) -> int:
    """Return the number of the latest attempt, or 0."""
    try:
        return max((int(name) for name in os.listdir(run_dir / "attempts") if name.isdecimal()), default=0)
    except OSError:
        return 0


def _seconds(run_dir: Path) -> int:
    """Return whole seconds since the run's first attempt started, so that steps increase across attempts."""
    try:
        return max(0, int(time.time() - (run_dir / "attempts" / "1").stat().st_mtime))
    except OSError:
        return 0


class SystemMetrics:
    """Thread that measures a supervisor's runs. It starts with the first run."""

    def __init__(self) -> None:
        self._watched: dict[Path, Watched] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(
        self, run_dir: Path, pid: int, every_s: float, gpus: Sequence[str] | None = None, attempt: int | None = None
    ) -> None:
        """Start measuring a run; see `Watched`."""
        with self._lock:
            self._watched[run_dir] = Watched(run_dir, pid, every_s, gpus, attempt)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
            self._thread.start()
        self._changed.set()

    def forget(self, run_dir: Path) -> None:
        """Stop measuring a run that has ended."""
        with self._lock:
            watched = self._watched.pop(run_dir, None)
        if watched is not None:
            watched.end()

    def close(self) -> None:
        """End the thread and all measurements."""
        self._is_closed = True
        self._changed.set()
        for run_dir in list(self._watched):
            self.forget(run_dir)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals must wake the main thread
        while not self._is_closed:
            self._changed.clear()
            due = min((one.due for one in self._there().values()), default=None)
            self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            for run_dir, one in self._there().items():
                if one.due <= time.monotonic() and not one.measure():
                    self._drop(run_dir, one)

    def _there(self) -> dict[Path, Watched]:
        with self._lock:
            return dict(self._watched)

    def _drop(self, run_dir: Path, watched: Watched) -> None:
        """Stop measuring a run whose process is gone, unless another attempt has replaced it."""
        with self._lock:
            if self._watched.get(run_dir) is watched:
                del self._watched[run_dir]
        watched.end()
