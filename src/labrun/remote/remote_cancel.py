"""Ending remote runs that no local command follows, and waiting for their end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from labrun.errors import RecordError
from labrun.remote import dispatch, links, mirror
from labrun.remote.channel import Channel
from labrun.remote.links import Link
from labrun.runs import finalize, sweep_state
from labrun.runs.end_requests import end_requested
from labrun.runs.record import read_record
from labrun.runs.sweep_state import SweepState

POLL_S = 0.5
"""Interval between polls, in seconds."""
RELEASE_S = 90.0
"""Time for runs to stop before those that are still active are reported, in seconds."""


def release(folder: Path, link: Link, why: str) -> None:
    """End a folder's remote runs, mirror them, and drop the link, because another backend takes over.

    Raises:
        UnreachableError: the machine does not answer, so the state of the runs is unknown.
        RecordError: runs are still active on the machine.
    """
    if link.state in (links.STARTING, links.STARTED):
        if link.runs is None:
            SweepState(folder).search_canceled.touch()
        try:
            is_over = end(folder, link, why, lambda lives: not lives and not mirror.unfinished(folder, link), RELEASE_S)
        except mirror.FolderGoneError:  # nothing of it is active
            return links.drop(folder)
        if not is_over:
            raise RecordError(
                f"runs of {folder} are still active on {link.remote}, and must end before they continue here. "
                f"'lab runs ls' shows them; repeat the command once they have stopped"
            )
        if link.runs is None:  # fetch the search's state
            with links.locked(folder, wait=True), Channel(link.machine) as conversation:
                mirror.pull_top(conversation, folder, link)
    links.drop(folder)


def end(
    folder: Path,
    link: Link,
    why: str,
    is_done: Callable[[bool], bool],
    patience_s: float,
    only: Sequence[Path] | None = None,
) -> bool:
    """End unfinished runs, and mirror their changes until a condition holds. Return False if it does not hold in time.

    The remote controller is asked to stop them; without one, they are ended (`end_remotely`).

    Args:
        folder: the folder of the runs.
        link: the folder's link.
        why: the reason.
        is_done: the condition, checked after each poll; its argument tells whether the remote controller is alive.
        patience_s: maximum time, in seconds.
        only: limit this to some runs; None: all.

    Raises:
        UnreachableError: the machine does not answer.
    """
    end_s, dead_polls, was_ended = time.monotonic() + patience_s, 0, False
    with links.locked(folder, wait=True), Channel(link.machine) as conversation:
        link = links.read(folder) or link
        while True:
            left = [run_dir for run_dir in mirror.unfinished(folder, link) if only is None or run_dir in only]
            for run_dir in left:
                if not end_requested(run_dir):
                    finalize.request(run_dir, why)
            _, lives = mirror.bring(conversation, folder, link)
            if is_done(lives) or link.state == links.OVER:
                return is_done(lives)
            dead_polls = 0 if lives else dead_polls + 1
            if dead_polls >= mirror.DEAD_POLLS and not was_ended:
                was_ended = True
                end_remotely(conversation, folder, link, left)
                continue
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)


def end_remotely(channel: Channel, folder: Path, link: Link, run_dirs: Iterable[Path]) -> None:
    """End remote runs without a controller: cancel waiting ones, close lost ones, and end jobs."""
    plan = sweep_state.read_plan(folder)
    run_records = [read_record(run_dir) for run_dir in run_dirs]
    if not run_records and link.runs is not None:
        return
    sent = run_records or [read_record(folder / run) for run in mirror.runs_of(folder, link)[:1]]
    interpreter = dispatch.send_code(channel, link, sent, plan)
    dispatch.run_command(
        channel,
        link,
        [
            interpreter.python,
            "-P",
            "-c",
            "from labrun.remote.controller import end; end()",
            f"{link.root}/{link.folder}",
        ],
        dispatch.variables(link, interpreter, sent),
        json.dumps([run_dir.relative_to(folder).as_posix() for run_dir in run_dirs]),
    )
