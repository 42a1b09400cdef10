"""Cancellation of runs, whether or not a controller drives them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from labrun.backends import registry
from labrun.control import lease
from labrun.control.query import StatusResolver
from labrun.runs import finalize
from labrun.runs.record import CANCELED, RUNNING, UNREACHABLE, Record, read_record, sweep_folder
from labrun.runs.status import EndReason
from labrun.runs.sweep_state import SweepState

POLL_S = 0.5
CANCEL_S = 20.0
"""How long to wait for runs to stop before reporting those that are still active, in seconds."""


def end_runs(unfinished: Sequence[Path], patience_s: float = CANCEL_S) -> list[Path]:
    """Ask runs to stop, and wait. Return those that have not stopped in time."""
    shown = StatusResolver()
    for run_dir in unfinished:
        finalize.request(run_dir)
        record = read_record(run_dir)
        home = SweepState(sweep_folder(run_dir, record) or run_dir)
        if lease.living(home) is None:
            _end_uncontrolled(run_dir, record, shown, home)
    end = time.monotonic() + patience_s
    while (left := [d for d in unfinished if not read_record(d).finished]) and time.monotonic() < end:
        time.sleep(POLL_S)
    return left


def _end_uncontrolled(run_dir: Path, record: Record, shown: StatusResolver, home: SweepState) -> None:
    """Cancel a run without a controller, if it has not started, its job is pending, or its process is lost."""
    found = [one.cancel_unpolled(home.folder, run_dir) for one in registry.all_known() if one.outlives_controller]
    is_gone = False if False in found else True if True in found else None
    if is_gone is False or (is_gone is None and shown(run_dir, record) in (RUNNING, UNREACHABLE)):
        return  # its own supervisor obeys the request
    record = read_record(run_dir)
    if not record.finished:
        finalize.close(run_dir, record, CANCELED, EndReason.CANCELED, "canceled before it ended, without a controller")
