"""Child runs that a script has started (`labrun.compat.azureml.training.children`)."""

from __future__ import annotations

import logging
from pathlib import Path

from labrun.errors import RecordError
from labrun.runs import child_list, custom_locations, finalize, recording
from labrun.runs.record import CANCELED, COMPLETED, PREEMPTED, RUNNING, STOPPED, RunPaths, read_record, write_record
from labrun.runs.status import EndReason

log = logging.getLogger(__name__)


def folders(root: Path, run_dir: Path) -> list[Path]:
    """Return the folders of a run's child runs, oldest first."""
    return [root / name for name in child_list.read(run_dir) if (root / name / "run.json").is_file()]


def names(root: Path, run_dir: Path) -> list[str]:
    """Return the folders of all descendants of a run, relative to the workspace, whether or not they exist yet."""
    found: list[str] = []
    left = [run_dir]
    while left:
        new = [name for name in child_list.read(left.pop()) if name not in found and _is_place(name)]
        found += dict.fromkeys(new)
        left += [root / name for name in new]
    return found


def _is_place(name: str) -> bool:
    parts = Path(name).parts
    return ".." not in parts and custom_locations.is_usual(parts)


def end_open(root: Path, run_dir: Path, error: BaseException | None) -> None:
    """Close the child runs that the script left open, with the script's own outcome.

    Args:
        root: the workspace.
        run_dir: the directory of the script's run.
        error: the exception that ended the script, or None if it completed.
    """
    status, _ = recording.outcome(error, RunPaths(run_dir))
    if status == PREEMPTED:
        status = CANCELED
    kind = {CANCELED: EndReason.CANCELED, STOPPED: EndReason.STOPPED}.get(status, EndReason.EXITED)
    for folder in folders(root, run_dir):
        try:
            record = read_record(folder)
            if not record.is_of_program or record.status != RUNNING:
                continue
            closed = finalize.close(folder, record, status, kind, "its parent run ended like this")
            if status == COMPLETED:
                closed.error = None
                write_record(folder, closed)
        except RecordError as trouble:
            log.warning("A child run could not be closed: %s", trouble)
