"""How far a search is, told by files beside it, and going on with one whose controller is gone. Needs no Optuna."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from labrun.config.hydra_files import quoted, value_here, with_variables
from labrun.remote import link as links
from labrun.runs import context, custom_locations, sweep_state
from labrun.runs import record as records
from labrun.runs.sweep_state import SweepState


def begin(folder: Path) -> None:
    """A controller takes the search up."""
    state = SweepState(folder)
    state.search_over.unlink(missing_ok=True)
    state.search_canceled.unlink(missing_ok=True)
    state.begun.touch()


@contextlib.contextmanager
def ending(folder: Path) -> Iterator[None]:
    """Inside, the trials are over and what is left of them is made."""
    state = SweepState(folder)
    mark_ending(folder)
    try:
        yield
        state.search_over.touch()
    finally:
        state.search_ending.unlink(missing_ok=True)


def mark_ending(folder: Path) -> None:
    """From now on this process makes what is left of the trials; inside `ending` it does."""
    text = json.dumps(records.process_identity())
    records.replace_text(SweepState(folder).search_ending, text, to_disk=False)


def cancel(folder: Path) -> None:
    """Ask that no more trials begin."""
    SweepState(folder).search_canceled.touch()


def is_canceled(folder: Path) -> bool:
    """Whether somebody asked for that."""
    return SweepState(folder).search_canceled.exists()


def fresh(root: Path, since: str) -> Path | None:
    """The newest search of a workspace that has no trial yet, and goes on; None if there is none.

    Args:
        root: the workspace.
        since: ISO time; older ones do not count.
    """
    plans = [(path.stat().st_mtime, path) for path in (root / "multirun").glob(f"*/*/{custom_locations.PLAN}")]
    after = datetime.fromisoformat(since).timestamp() if since else 0.0
    for changed, path in sorted(plans, reverse=True):
        folder = path.parents[1]
        if changed < after:
            return None
        if sweep_state.read_plan(folder).command is None or is_over(folder) or is_canceled(folder):
            continue
        if not any(folder.glob("*/run.json")):
            return folder
    return None


def is_over(folder: Path) -> bool:
    """Whether a search has come to its end."""
    return SweepState(folder).search_over.exists()


def is_ending(folder: Path) -> bool:
    """Whether a living process is writing the books."""
    try:
        process = json.loads(context.content(SweepState(folder).search_ending))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(process, dict) and records.process_lives(process) is not False


def is_going_on(folder: Path) -> bool:
    """Whether something is still made of a search's trials, here or on the machine that it was carried to."""
    link = links.read(folder)
    return is_ending(folder) or (link is not None and link.state == links.STARTED and link.living)


def take_over(folder: Path) -> int:
    """Go on with a search whose controller is gone, from here: by its own command.

    Returns:
        The exit code.

    Raises:
        ConfigError: it gave its runs a variable, and that is not set here.
    """
    plan = sweep_state.read_plan(folder)
    arguments = [with_variables(text, value_here) for text in plan.command or ()]
    arguments.append(f"sweep.resume={quoted(str(folder))}")
    command = [sys.executable, "-P", "-c", "from labrun.app import main; main()", *arguments]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.call(command, cwd=plan.cwd, env={**os.environ, "PYTHONPATH": path})
