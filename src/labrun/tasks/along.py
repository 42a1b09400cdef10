"""A script on several machines of one Slurm job: each machine starts its processes, and the first speaks for the run.

The first prepares the working folder, tells the others so, and waits for them in the end. What they tell each other
lies in the run's `requests/`, under the job's id, so that a job that is put back in the queue begins anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun._io import atomic_write
from labrun.runs.record import RunPaths

POLL_S = 0.1


def machines(config: Mapping[str, Any]) -> int:
    """How many machines a run's script is started on."""
    return int(config["compute"].get("nodes") or 1)


def place() -> int:
    """Which of them this is."""
    return int(os.environ.get("NODE_RANK") or 0)


def tell_ready(paths: RunPaths, attempt: int) -> None:
    """The working folder is there; the others may start their processes, for this attempt."""
    _write(_mark(paths, "ready"), str(attempt))


def wait_until_ready(paths: RunPaths) -> int:
    """Wait for the first machine, whose end ends this one; returns the attempt."""
    while (text := _read(_mark(paths, "ready"))) is None:
        time.sleep(POLL_S)
    return int(text)


def tell_ended(paths: RunPaths, failure: str) -> None:
    """This machine's processes have ended; empty: well."""
    _write(_mark(paths, f"ended-{place()}"), failure)


def wait_for_others(paths: RunPaths, count: int) -> str:
    """Wait until the other machines' processes have ended; returns why one of them failed, or nothing."""
    for number in range(1, count):
        while (text := _read(_mark(paths, f"ended-{number}"))) is None:
            time.sleep(POLL_S)
        if text:
            return f"on machine {number}: {text}"
    return ""


def _mark(paths: RunPaths, what: str) -> Path:
    job = "-".join(os.environ.get(name) or "0" for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    return paths.requests / f"machines-{job}-{what}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode())


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return None
