"""Ending runs on another machine that no command here follows, and waiting until they have ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from labrun.errors import RecordError
from labrun.remote import carry, mirror
from labrun.remote import link as links
from labrun.remote.channel import Channel
from labrun.remote.link import Link
from labrun.runs import finalize, sweep_state
from labrun.runs import record as records
from labrun.runs.sweep_state import SweepState

LOOK_S = 0.5
LOOKS_ALONE = 3
"""How many looks must find a controller dead."""
RELEASE_S = 90.0
"""How long runs may take to stop before it is said that they still do."""


def release(folder: Path, link: Link, why: str) -> None:
    """End all that goes on of a folder there, bring it here, and cut the tie: its runs go on elsewhere.

    Raises:
        UnreachableError: the machine does not answer: what it does there is not known.
        RecordError: runs still go on there.
    """
    if link.state in (links.STARTING, links.STARTED):
        if link.runs is None:
            SweepState(folder).search_canceled.touch()
        try:
            is_over = follow(folder, link, lambda lives: not lives and not _live(folder, link), RELEASE_S, why)
        except mirror.GoneError:  # nothing of it goes on
            return links.drop(folder)
        if not is_over:
            raise RecordError(
                f"runs of {folder} still go on on {link.remote}, and must end before they go on here. "
                f"'lab runs ls' shows them; say this again once they have stopped"
            )
        if link.runs is None:  # what the search has learned
            with links.locked(folder, wait=True), Channel(link.machine) as conversation:
                mirror.pull_top(conversation, folder, link)
    links.drop(folder)


def _live(folder: Path, link: Link) -> list[Path]:
    """The runs of a folder that have not ended, as far as it is known here."""
    return [folder / run for run in mirror.runs_of(folder, link) if not records.read(folder / run).finished]


def follow(
    folder: Path,
    link: Link,
    is_done: Callable[[bool], bool],
    patience_s: float,
    ends: str | None = None,
    only: Sequence[Path] | None = None,
) -> bool:
    """Bring a folder's news until something is so; False: it is not so yet.

    Args:
        folder: the runs'.
        link: the folder's.
        is_done: asked after each look; is told whether a controller lives there.
        patience_s: for how long.
        ends: ask runs that have not ended to stop, for this reason; where nobody controls them, they are ended there.
        only: these runs; None: all.

    Raises:
        UnreachableError: the machine does not answer.
    """
    end, alone, was_ended = time.monotonic() + patience_s, 0, False
    with links.locked(folder, wait=True), Channel(link.machine) as conversation:
        link = links.read(folder) or link
        while True:
            left = [run_dir for run_dir in _live(folder, link) if only is None or run_dir in only]
            for run_dir in left if ends is not None else ():
                if not finalize.is_asked_to_end(run_dir):
                    finalize.request(run_dir, ends or "")
            _, lives = mirror.bring(conversation, folder, link)
            if is_done(lives) or link.state == links.OVER:
                return is_done(lives)
            alone = 0 if lives else alone + 1
            if ends is not None and alone >= LOOKS_ALONE and not was_ended:
                was_ended = True
                end_there(conversation, folder, link, left)
                continue
            if time.monotonic() > end:
                return False
            time.sleep(LOOK_S)


def end_there(channel: Channel, folder: Path, link: Link, run_dirs: Iterable[Path]) -> None:
    """Have runs ended there that nobody controls: what waits is canceled, what is lost is closed, jobs are ended."""
    plan = sweep_state.read_plan(folder)
    found = [records.read(run_dir) for run_dir in run_dirs]
    if not found and link.runs is not None:
        return
    code = found or [records.read(folder / run) for run in mirror.runs_of(folder, link)[:1]]
    there = carry.send_code(channel, link, code, plan)
    carry.carry_out(
        channel,
        link,
        [there.python, "-P", "-c", "from labrun.remote.far import end; end()", f"{link.root}/{link.folder}"],
        carry.variables(link, there, code),
        json.dumps([run_dir.relative_to(folder).as_posix() for run_dir in run_dirs]),
    )
