"""Finds the cause of a failed multi-process run in the logs of its other processes.

The error of the first process is often only a consequence of another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path

from labrun.runs.record import FAILED, Record
from labrun.runs.status import EndReason

VARIABLE = "LABRUN_OTHER_LOGS"
"""Set in a multi-process run: the sizes of the other processes' logs before this attempt, as JSON."""
LOGS = "driver.*.log"
LONGEST = 2**24
LOG_WAIT_S = 5.0
"""Time that the processes of a failed run have to log their errors, seconds."""
LEFT = re.compile(r"Connection (closed|reset) by peer", re.I)
"""Gloo's and NCCL's text. torch raises it as a plain `RuntimeError`, or as NCCL's `DistBackendError` of any cause."""
KILLED = "; another process of the run had ended without an error message, as if killed or out of memory"


def note_log_sizes(run_dir: Path) -> None:
    """Store where this attempt begins in the other processes' logs, for the process that runs it."""
    os.environ[VARIABLE] = json.dumps({log.name: log.stat().st_size for log in run_dir.glob(LOGS)})


def add_cause(run_dir: Path, record: Record) -> bool:
    """Add another process's error to that of a failed run. Return whether there was anything to add.

    Must happen before the record is written, since whoever waits for the run reads its error only once.
    """
    if VARIABLE not in os.environ or record.status != FAILED or record.error is None:
        return False
    if record.error.type == EndReason.LIMIT_EXCEEDED or record.error.with_peer:
        return False
    found = None
    with contextlib.suppress(OSError, ValueError):  # an unreadable log must not keep the record from being written
        began = json.loads(os.environ[VARIABLE])
        if not any(run_dir.glob(LOGS)):
            return False
        end = time.monotonic() + LOG_WAIT_S
        while (found := _said(run_dir, began)) is None and time.monotonic() < end:
            time.sleep(0.1)  # the other process leaves the group before it has logged its error
        if found is None and LEFT.search(record.error.message):
            found = KILLED
    if found is not None:
        record.error.message += found
        record.error.with_peer = True
    return found is not None


def _said(run_dir: Path, began: dict[str, int]) -> str | None:
    for log in sorted(run_dir.glob(LOGS)):
        with open(log, "rb") as file:
            file.seek(began.get(log.name, 0))
            lines = file.read(LONGEST).decode(errors="replace").strip().splitlines()
        if not lines or lines[-1].startswith((" ", "Traceback")):  # the process is still writing
            continue
        if any(line.startswith("Traceback") for line in lines) or lines[-1].startswith("labrun: "):
            return f"; process {log.suffixes[0][1:]}: {lines[-1]} ({log})"
    return None
