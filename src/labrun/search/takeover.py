"""Marker files for the state of a search, and resuming one whose controller is gone. Does not need Optuna."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from labrun.compose.hydra_files import quoted, value_here, with_variables
from labrun.remote import links
from labrun.runs import context, sweep_state
from labrun.runs.attempts import Process
from labrun.runs.record import process_identity, process_lives, replace_text
from labrun.runs.sweep_state import RELATIVE, SweepState


def begin(folder: Path) -> None:
    """Mark that a controller has started or resumed the search."""
    state = SweepState(folder)
    state.search_over.unlink(missing_ok=True)
    state.search_canceled.unlink(missing_ok=True)
    state.begun.touch()


@contextlib.contextmanager
def ending(folder: Path) -> Iterator[None]:
    """Mark, within the context, that the trials are over and the results are being written."""
    state = SweepState(folder)
    mark_ending(folder)
    try:
        yield
        state.search_over.touch()
    finally:
        state.search_ending.unlink(missing_ok=True)


def mark_ending(folder: Path) -> None:
    """Mark that this process is about to write the results; see `ending`."""
    text = json.dumps(process_identity().as_json())
    replace_text(SweepState(folder).search_ending, text, to_disk=False)


def cancel(folder: Path) -> None:
    """Request that no more trials start."""
    SweepState(folder).search_canceled.touch()


def is_canceled(folder: Path) -> bool:
    """Return whether the search was canceled."""
    return SweepState(folder).search_canceled.exists()


def fresh(root: Path, since: str) -> Path | None:
    """Return the newest active search of a workspace that has no trial yet; None if there is none.

    Args:
        root: the workspace.
        since: ISO time; older searches are ignored.
    """
    plans = [(path.stat().st_mtime, path) for path in (root / "multirun").glob(f"*/*/{RELATIVE.plan}")]
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
    """Return whether a search has finished."""
    return SweepState(folder).search_over.exists()


def is_ending(folder: Path) -> bool:
    """Return whether a live process is writing the results."""
    try:
        process = json.loads(context.content(SweepState(folder).search_ending))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(process, dict) and process_lives(Process.of(process)) is not False


def is_unfinished(folder: Path) -> bool:
    """Return whether results are still being written, or a live remote controller runs the search."""
    link = links.read(folder)
    return is_ending(folder) or (link is not None and link.state == links.STARTED and link.living)


def take_over(folder: Path) -> int:
    """Resume a search whose controller is gone, by running its own command in a subprocess.

    Returns:
        The exit code.

    Raises:
        ConfigError: an environment variable that the search passes to its runs is not set.
    """
    plan = sweep_state.read_plan(folder)
    arguments = [with_variables(text, value_here) for text in plan.command or ()]
    arguments.append(f"sweep.resume={quoted(str(folder))}")
    command = [sys.executable, "-P", "-c", "from labrun.app import main; main()", *arguments]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.call(command, cwd=plan.cwd, env={**os.environ, "PYTHONPATH": path})
