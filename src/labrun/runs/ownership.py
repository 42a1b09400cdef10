"""Checks that nobody but the user could have written the files of a folder, before labrun executes what they say."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from labrun.errors import ConfigError
from labrun.runs.record import Record
from labrun.runs.sweep_state import SweepState


def foreign_writer(paths: Sequence[Path]) -> str | None:
    """Return why another user may have written one of the files, or None if only this user may have."""
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        if found.st_uid != os.geteuid():
            return f"{path} belongs to {_name(found.st_uid)}"
        if found.st_mode & stat.S_IWOTH:
            return f"everyone may write to {path}"
    return None


def check_plan(folder: Path, unfinished: Sequence[tuple[Path, Record]]) -> None:
    """Check that it is safe to execute a folder's plan and its unfinished runs.

    A plan defines the interpreter, the modules and the code folders, and a record the objects to build. Their author
    can therefore execute any code.

    Raises:
        ConfigError: another user may have written them.
    """
    state = SweepState(folder)
    why = foreign_writer([state.root, state.plan, *(run_dir / "run.json" for run_dir, _ in unfinished)])
    if why is None and any(record.imported is not None for _, record in unfinished):
        why = "they came from an archive"
    if why is not None:
        raise ConfigError(
            f"the runs in {folder} no longer have a controller, and continuing them executes what their files say, "
            f"as you: {why}. Check them first, then add --take-over"
        )


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
