"""Telling where the runs lie, as soon as they are submitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labrun.runs import record as records
from labrun.runs import store
from labrun.runs.sweep_state import SweepState

VARIABLE = "LABRUN_ANNOUNCE"
"""The file that the folder's path is written to."""
PARENT = "LABRUN_PARENT"
"""The id of the run that what is submitted belongs to."""


def announce(folder: Path, runs: Sequence[str] = (".",)) -> None:
    """Say that a run, or a sweep, is submitted: to listings, and to the program that started `labrun`.

    To that once, and to nobody that this process starts.

    Args:
        folder: the sweep's, or the run's.
        runs: the folders of its runs, relative to that one.
    """
    store.note(folder, runs)
    above = parent()
    if above and not (folder / "run.json").exists():
        records.replace_text(SweepState(folder).parent, above + "\n", to_disk=False)
    file = os.environ.pop(VARIABLE, None)
    if file:
        records.replace_text(Path(file), str(folder.resolve()), to_disk=False)


def parent() -> str | None:
    """The run that what is submitted now belongs to; None where nobody names one, and for all that comes later."""
    return os.environ.pop(PARENT, None) or None
