"""Closing the records of runs that could not do so themselves: killed, lost, or never begun."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from labrun.runs import context
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths


def close_ended(run_dir: Path, status: int, reason: str | None, canceled: bool) -> Record:
    """Close the record of a run whose process has ended, if the process did not do so itself.

    Args:
        run_dir: the run.
        status: what `waitpid` gave.
        reason: why it was ended, if by us.
        canceled: whether it was asked to stop.
    """
    record = records.read(run_dir)
    if record.finished or record.status == records.PREEMPTED:
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
    return close(run_dir, record, end, kind, message)


def close(run_dir: Path, record: Record, status: str, kind: str, message: str) -> Record:
    """Write how a run ended that cannot write it itself."""
    records.note_claimed(run_dir, record)
    record.status, record.ended = status, records.now()
    record.error = {"type": kind, "message": message, "traceback": ""}
    if record.started:
        record.duration_s = records.seconds_between(record.started, record.ended)
    if record.attempts and record.attempts[-1].get("ended") is None:
        record.attempts[-1] |= {"ended": record.ended, "status": status, "reason": message}
    record.metrics = record.metrics or last_values(run_dir)
    records.write(run_dir, record)
    return record


def last_values(run_dir: Path) -> dict[str, float]:
    """The last value of each metric that a run logged."""
    return {line["name"]: line["value"] for line in context.read_metrics(run_dir)}


def close_unrun(run_dir: Path, why: str) -> None:
    """Cancel a run that never began."""
    record = records.read(run_dir)
    record.status, record.ended = records.CANCELED, records.now()
    record.error = {"type": "Canceled", "message": why, "traceback": ""}
    records.write(run_dir, record)


def requeue(run_dir: Path, record: Record) -> None:
    """Put a run that has ended back in the queue, whatever the reason is noted with its last attempt."""
    if record.attempts and record.error is not None:
        record.attempts[-1]["reason"] = str(record.error.get("message", "")).split("\n")[0]
    records.note_claimed(run_dir, record)
    record.status, record.ended, record.error, record.duration_s = records.QUEUED, None, None, None
    (RunPaths(run_dir).requests / "cancel").unlink(missing_ok=True)
    records.write(run_dir, record)


def note_interrupted(run_dir: Path, record: Record, why: str) -> None:
    """Put a run back in the queue whose attempt ended through no fault of its own."""
    records.note_claimed(run_dir, record)
    record.status, record.ended, record.error = records.QUEUED, None, None
    if record.attempts and record.attempts[-1].get("ended") is None:
        record.attempts[-1] |= {"ended": records.now(), "status": records.LOST, "reason": why}
    records.write(run_dir, record)


def wait_gone(run_dir: Path, timeout_s: float = 10.0) -> None:
    """Wait until a run's process, killed with its server, is gone: two must never write one run."""
    end = time.monotonic() + timeout_s
    while records.process_lives(records.read(run_dir).process) and time.monotonic() < end:
        time.sleep(0.02)


def request(run_dir: Path, why: str = "") -> None:
    """Leave a request to cancel, with its reason; the run's supervisor obeys within seconds."""
    folder = RunPaths(run_dir).requests
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        (folder / "cancel").write_text(why, encoding="utf-8")
