"""Coordinates a script on the machines of a cluster job. Each machine starts processes; the first owns the record.

The first machine prepares the working folder, signals the others, and waits for them at the end. The machines
communicate through files in the run's `requests/`, named after the job and its restart count, so that a requeued job
starts afresh.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from labrun._io import atomic_write
from labrun.config.schema import Config
from labrun.runs import allocation
from labrun.runs.record import RunPaths

POLL_S = 0.1


def machines(config: Config) -> int:
    """Return the number of machines that a run's script starts on."""
    return config.compute.nodes


def node_rank() -> int:
    """Return the rank of this machine, starting at 0."""
    return int(os.environ.get("NODE_RANK") or 0)


def signal_ready(paths: RunPaths, attempt: int) -> None:
    """Signal that the working folder is ready and the others may start their processes for this attempt."""
    _write(_mark(paths, "ready"), str(attempt))


def wait_until_ready(paths: RunPaths) -> int:
    """Wait for the first machine and return the attempt. No timeout: this process ends with the first machine's."""
    while (text := _read(_mark(paths, "ready"))) is None:
        time.sleep(POLL_S)
    return int(text)


def signal_ended(paths: RunPaths, failure: str) -> None:
    """Signal that this machine's processes have ended, with the failure or "" for success."""
    _write(_mark(paths, f"ended-{node_rank()}"), failure)


def wait_for_others(paths: RunPaths, count: int) -> str:
    """Wait until the other machines' processes have ended. Return why one of them failed, or ""."""
    for number in range(1, count):
        while (text := _read(_mark(paths, f"ended-{number}"))) is None:
            time.sleep(POLL_S)
        if text:
            return f"on machine {number}: {text}"
    return ""


def _mark(paths: RunPaths, what: str) -> Path:
    return paths.requests / f"machines-{allocation.start_id()}-{what}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return None
