"""Telling where the runs lie, as soon as they are submitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labrun.runs import record as records
from labrun.runs import store

VARIABLE = "LABRUN_ANNOUNCE"
"""The file that the folder's path is written to."""


def announce(folder: Path, runs: Sequence[str] = (".",)) -> None:
    """Say that a run, or a sweep, is submitted: to listings, and to the program that started `labrun`.

    To that once, and to nobody that this process starts.

    Args:
        folder: the sweep's, or the run's.
        runs: the folders of its runs, relative to that one.
    """
    store.note(folder, runs)
    file = os.environ.pop(VARIABLE, None)
    if file:
        records.replace_text(Path(file), str(folder.resolve()), to_disk=False)
