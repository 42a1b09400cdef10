"""What runs use of their machine, measured while they go on by their supervisor: `tracking.system=true`.

A thread of the supervisor (the sidecar of an inline run, the pool, a Slurm job's first process) reads `/proc` and the
driver of the GPUs, and appends to the run's `metrics.jsonl`; a run costs nothing more, and one that hangs is measured
too. The first values come after a second; of a run that ends sooner, one at its end. Standard library alone.

system/cpu              processor time per second, of the run's process and all that it started: 1 is a core
system/memory_gb        resident memory of the same, GB (2**30 bytes)
system/gpu0             how busy the run's first GPU is, 0 to 1; system/gpu1 the second, ...
system/gpu0_memory_gb   its memory in use, by whomever
system/disk_gb          what the run's folder takes
system/disk_free_gb     what is left on its disk
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

from labrun.runs import context, nvml, processes
from labrun.runs.processes import Usage

GB = 2**30
EARLY_S = (0.2, 0.5)
"""When a run that has just begun is measured without writing it down: it may end before the first value is due."""
FIRST_S = 1.0
SHORTEST_S = 0.1
"""Processor time is counted in hundredths of a second: over less, it says nothing."""
WALK_SHARE = 500
"""Pause between scans of a folder, in durations of a scan: below 0.2 % of a core for ten thousand files."""
DEVICES, DRIVER = "/dev/nvidia", "/dev/nvidiactl"
"""How the devices begin that a process has open which uses a GPU; the one that is there where there are any."""


class Cpu:
    """Processor time of a process tree, per second."""

    def __init__(self, used_s: float, now: float) -> None:
        self._used_s, self._at = used_s, now
        self._is_less = False

    def cores(self, used_s: float, now: float) -> float | None:
        """Cores in use since the last answer; None if too little time has passed, or unknown.

        Args:
            used_s: see `Usage.cpu_s`.
            now: by the monotonic clock.
        """
        if now - self._at < SHORTEST_S:
            return None
        if used_s < self._used_s and not self._is_less:
            # A child has ended that nobody has waited for yet: its time is in none of the processes for a moment.
            self._is_less = True
            return None
        cores = max(0.0, used_s - self._used_s) / (now - self._at)
        self._used_s, self._at, self._is_less = used_s, now, False
        return cores


class Disk:
    """What a folder takes, and what is left beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._size: float | None = None
        self._next = 0.0

    def read(self) -> dict[str, float]:
        """Both, in GB; the folder's size as it was when it was walked last."""
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
    """Bytes on the disk of a folder's files; what links lead to does not count."""
    total, waiting = 0, [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:  # it may be removed meanwhile
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


class Gpus:
    """The GPUs of a run: opened when they are first asked for, which takes the driver a moment.

    Args:
        pid: the run's process.
        names: see `Watched`.
    """

    def __init__(self, pid: int, names: Sequence[str] | None) -> None:
        self._pid, self._names = pid, names
        self._opened: nvml.Gpus | None = None

    def read(self) -> dict[str, float]:
        """How busy each is, and its memory in use."""
        if self._opened is None and self._are_used():
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
        told = os.environ.get("CUDA_VISIBLE_DEVICES")
        return None if told is None else list(nvml.listed(told))

    def close(self) -> None:
        """Let go of the driver."""
        if self._opened is not None:
            self._opened.close()


class Watched:
    """One run under way.

    Args:
        run_dir: the run.
        pid: its process.
        every_s: seconds between two values.
        gpus: those that were set aside for it, as CUDA_VISIBLE_DEVICES has them, in their order; None: none were, so
            those that this process may see count, once the run uses any.
        attempt: of the run; None: the one that the process claims.
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
        """When it is to be measured, by the monotonic clock."""
        return self._began + self._next

    def measure(self) -> bool:
        """Measure it, and write that down unless that is too early; whether its process lives."""
        with self._lock:
            is_early = self._next < FIRST_S
            while self.due <= time.monotonic():  # what was missed, while the machine slept, is left out
                self._next = next(self._times)
            usage = self._usage()
            if self._is_over or (usage is None and sys.platform == "linux"):
                return False
            self._take(usage)
            if not is_early:
                self._write(self._own_attempt())
            return True

    def end(self) -> None:
        """Write down what there is, if nothing is yet: the run has ended."""
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
        # What has ended, and nobody has waited for yet, has no memory: that is not a value of the run's.
        return {} if usage is None or not usage.memory else {"memory_gb": usage.memory / GB}

    def _take(self, usage: Usage | None) -> None:
        cores = None if usage is None else self._cpu.cores(usage.cpu_s, time.monotonic())
        self._held |= {} if cores is None else {"cpu": cores}
        self._held |= {**self._memory(usage), **self._gpus.read(), **self._disk.read()}

    def _own_attempt(self) -> int | None:
        """The number of the attempt that is this process's; None before it has claimed one, or once it is overtaken."""
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
        with contextlib.suppress(OSError):  # a full disk; a run that somebody has removed
            context.log_system(self._run_dir, attempt, _seconds(self._run_dir), values)
            self._has_written = True
        self._held = {}


LARGEST = 2**16
"""Bytes of a claim."""


def _newest(run_dir: Path) -> int:
    """The number of the newest attempt, or 0."""
    try:
        return max((int(name) for name in os.listdir(run_dir / "attempts") if name.isdecimal()), default=0)
    except OSError:
        return 0


def _seconds(run_dir: Path) -> int:
    """Since the run first began: steps rise, whichever attempt it is."""
    try:
        return max(0, int(time.time() - (run_dir / "attempts" / "1").stat().st_mtime))
    except OSError:
        return 0


class SystemMetrics:
    """The thread that measures a supervisor's runs. It begins with the first run."""

    def __init__(self) -> None:
        self._watched: dict[Path, Watched] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(
        self, run_dir: Path, pid: int, every_s: float, gpus: Sequence[str] | None = None, attempt: int | None = None
    ) -> None:
        """Measure a run from now on; see `Watched`."""
        with self._lock:
            self._watched[run_dir] = Watched(run_dir, pid, every_s, gpus, attempt)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
            self._thread.start()
        self._changed.set()

    def forget(self, run_dir: Path) -> None:
        """A run has ended."""
        with self._lock:
            watched = self._watched.pop(run_dir, None)
        if watched is not None:
            watched.end()

    def close(self) -> None:
        """End the thread: nothing is supervised any more."""
        self._is_closed = True
        self._changed.set()
        for run_dir in list(self._watched):
            self.forget(run_dir)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the main thread is to be woken by them
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
        """Forget a run whose process is gone, unless another attempt has taken its place."""
        with self._lock:
            if self._watched.get(run_dir) is watched:
                del self._watched[run_dir]
        watched.end()
