"""Telling the program that started `labrun` where the runs lie, as soon as they are submitted."""

from __future__ import annotations

import os
from pathlib import Path

from labrun.runs import record as records

VARIABLE = "LABRUN_ANNOUNCE"
"""The file that the folder's path is written to."""


def announce(folder: Path) -> None:
    """Say that a run, or a sweep, is submitted; once, and to nobody that this process starts."""
    file = os.environ.pop(VARIABLE, None)
    if file:
        records.replace_text(Path(file), str(folder.resolve()), to_disk=False)
