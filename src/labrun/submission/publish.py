"""Publication of the runs' folder as soon as they are submitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from labrun.runs import store
from labrun.runs.record import replace_text
from labrun.runs.sweep_state import SweepState

VARIABLE = "LABRUN_PUBLISH"
"""Variable with the file to which the folder's path is written."""
PARENT = "LABRUN_PARENT"
"""Variable with the id of the parent run."""


def publish_location(folder: Path, runs: Sequence[str] = (".",)) -> None:
    """Publish a submitted run or sweep to listings, and to the program that started `labrun`.

    That program receives only the first folder; processes that this one starts do not inherit the variable.

    Args:
        folder: the folder of the sweep or the run.
        runs: the folders of its runs, relative to `folder`.
    """
    store.note(folder, runs)
    above = parent()
    if above and not (folder / "run.json").exists():
        replace_text(SweepState(folder).parent, above + "\n", to_disk=False)
    file = os.environ.pop(VARIABLE, None)
    if file:
        replace_text(Path(file), str(folder.resolve()), to_disk=False)


def parent() -> str | None:
    """Return the id of the parent run on the first call; None if there is none, and on later calls."""
    return os.environ.pop(PARENT, None) or None
