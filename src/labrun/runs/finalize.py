"""Closes the records of runs that could not do so themselves: killed, lost, or never started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from labrun.runs import context, recording
from labrun.runs.attempts import Failure
from labrun.runs.end_requests import Request, forget_requests, read_request, stop_reason, write_request
from labrun.runs.record import (
    CANCELED,
    FAILED,
    LOST,
    PREEMPTED,
    QUEUED,
    STOPPED,
    Record,
    note_claimed_attempts,
    process_lives,
    read_record,
    seconds_between,
    timestamp,
    write_record,
)
from labrun.runs.status import EndReason, Status

OWN_FAULTS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals that a process receives because of its own actions."""


def was_killed(record: Record) -> bool:
    """Return whether a run failed because a signal or Slurm ended it, so that a retry may succeed."""
    kind = None if record.error is None else record.error.type
    return record.status == FAILED and (
        kind == EndReason.KILLED or (kind == EndReason.JOB_ENDED and bool(record.attempts))
    )


def close_ended(run_dir: Path, status: int, reason: str | None, canceled: bool) -> Record:
    """Close the record of a run whose process has ended, unless the process did so itself.

    Args:
        run_dir: the run's directory.
        status: exit status from `waitpid`.
        reason: why labrun ended the process, or None if it did not.
        canceled: whether the run was asked to end.
    """
    record = read_record(run_dir)
    if record.finished or record.status == PREEMPTED:
        return record
    if canceled:
        return close_requested(run_dir, record, _reason_in_request(run_dir))
    if reason is not None:
        kind, message, end = EndReason.LIMIT_EXCEEDED, reason, FAILED
    elif os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind, end = EndReason.CRASHED if number in OWN_FAULTS else EndReason.KILLED, FAILED
        message = f"the run's process was ended by {recording.signal_name(number)}"
    else:
        message = f"the run's process ended with exit code {os.waitstatus_to_exitcode(status)} before it was done"
        kind, end = EndReason.EXITED, FAILED
    return close(run_dir, record, end, kind, message)


def _reason_in_request(run_dir: Path, otherwise: str = "asked to end") -> str:
    with contextlib.suppress(OSError):
        return read_request(run_dir, Request.CANCEL) or otherwise
    return otherwise


def close_requested(run_dir: Path, record: Record, why: str) -> Record:
    """Close the record of a run that was asked to end but could not do so itself, as canceled or stopped.

    Args:
        run_dir: the run's directory.
        record: its current record.
        why: reason for a cancellation; the reason for a stop is in the request.
    """
    stopped = stop_reason(run_dir)
    if stopped is not None:
        return close(run_dir, record, STOPPED, EndReason.STOPPED, stopped)
    return close(run_dir, record, CANCELED, EndReason.CANCELED, why)


def close(run_dir: Path, record: Record, status: Status, kind: EndReason, message: str) -> Record:
    """Write the outcome of a run that cannot write it itself. Return the new record."""
    note_claimed_attempts(run_dir, record)
    record.status, record.ended = status, timestamp()
    record.error = Failure(kind, message)
    if record.started:
        record.duration_s = seconds_between(record.started, record.ended)
    if record.attempts and record.attempts[-1].ended is None:
        record.attempts[-1].end(status, message, record.ended)
    record.metrics = record.metrics or context.last_values(run_dir)
    write_record(run_dir, record)
    return record


def close_unstarted(run_dir: Path, why: str = "canceled") -> None:
    """Cancel a run that is not running, or stop it if its request says so.

    Args:
        run_dir: the run's directory.
        why: reason for a cancellation, which need not say that the run had not begun.
    """
    record = read_record(run_dir)
    if record.attempts:  # it ran before and was waiting to resume
        close_requested(run_dir, record, _reason_in_request(run_dir, why))
        return
    stopped = stop_reason(run_dir)
    record.status, record.ended = CANCELED if stopped is None else STOPPED, timestamp()
    kind = EndReason.CANCELED if stopped is None else EndReason.STOPPED
    record.error = Failure(kind, stopped or cancel_reason(record, why))
    write_record(run_dir, record)


def cancel_reason(record: Record, why: str) -> str:
    """Return why a run that is not running was canceled."""
    return why if record.attempts else f"{why} before it began"


def requeue(run_dir: Path, record: Record) -> None:
    """Put a run that has ended back in the queue. Note the reason for its end with its last attempt."""
    if record.attempts and record.error is not None:
        record.attempts[-1].reason = record.reason
    note_claimed_attempts(run_dir, record)
    record.status, record.ended, record.error, record.duration_s = QUEUED, None, None, None
    forget_requests(run_dir)
    write_record(run_dir, record)


def note_interrupted(run_dir: Path, record: Record, why: str) -> None:
    """Put a run whose attempt ended through no fault of its own back in the queue."""
    note_claimed_attempts(run_dir, record)
    record.status, record.ended, record.error = QUEUED, None, None
    if record.attempts and record.attempts[-1].ended is None:
        record.attempts[-1].end(LOST, why, timestamp())
    write_record(run_dir, record)


def wait_gone(run_dir: Path, timeout_s: float = 10.0) -> None:
    """Wait until a run's process, killed with its fork server, is gone: two processes must never write one run."""
    end = time.monotonic() + timeout_s
    while process_lives(read_record(run_dir).process) and time.monotonic() < end:
        time.sleep(0.02)


def request(run_dir: Path, why: str = "", what: Request = Request.CANCEL) -> None:
    """Request that a run end, if its folder is writable; its supervisor obeys within seconds.

    Args:
        run_dir: the run's directory.
        why: the reason, for its record.
        what: what is requested.
    """
    with contextlib.suppress(OSError):
        write_request(run_dir, what, why)
