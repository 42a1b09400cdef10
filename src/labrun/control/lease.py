"""One controller at a time for a sweep, by a lease in its folder.

Controllers are numbered: `controllers/<k>` is claimed by exclusive creation, and the newest number holds the lease.
Who finds a newer one than his own lets go. A controller lives as long as its process does (on its own host) or as
long as its heartbeat is young (seen from another).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

from labrun.errors import RecordError
from labrun.runs import context
from labrun.runs import record as records
from labrun.runs.sweep_state import SweepState

BEAT_S = 5.0
STALE_S = 60.0


class OvertakenError(RecordError):
    """Another controller holds the lease now."""


class Lease:
    """The right to control the runs of a folder.

    Args:
        state: of the folder.

    Raises:
        RecordError: another controller holds it, alive.
    """

    def __init__(self, state: SweepState) -> None:
        self._folder = state.controllers
        try:
            state.make()
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RecordError(records.cannot_write(state.folder, error)) from error
        holder = living(state)
        if holder is not None:
            raise RecordError(
                f"the runs in {state.folder} are controlled by process {holder['pid']} on {holder['host']}; "
                f"'lab runs watch {state.folder}' shows them"
            )
        self.number = 1 + newest(state)
        try:
            with open(self._folder / str(self.number), "x", encoding="utf-8") as file:
                json.dump(records.process_identity(), file)
        except FileExistsError:
            raise RecordError(f"another controller has just taken over the runs in {state.folder}") from None
        except OSError as error:
            raise RecordError(records.cannot_write(self._folder, error)) from error
        self._state = state
        self._next_beat = 0.0
        self.beat()

    def beat(self) -> None:
        """Show that this controller lives.

        Raises:
            OvertakenError: a newer one holds the lease.
        """
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT_S
        if newest(self._state) != self.number:
            raise OvertakenError(
                f"another controller has taken over the runs in {self._state.folder}; this one lets go"
            )
        with contextlib.suppress(OSError):
            os.utime(self._folder / str(self.number))

    def release(self) -> None:
        """Give it back: from now on nobody controls the runs."""
        with contextlib.suppress(OSError):
            os.replace(self._folder / str(self.number), self._folder / f"{self.number}.ended")


def newest(state: SweepState) -> int:
    """The newest controller's number, ended or not; 0 before the first."""
    try:
        names = [path.name.partition(".")[0] for path in state.controllers.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(name) for name in names if name.isdecimal()), default=0)


def living(state: SweepState) -> dict[str, Any] | None:
    """The process that controls the runs now; None if none does, or if it is this one's own past."""
    path = state.controllers / str(newest(state))
    try:
        holder: dict[str, Any] = json.loads(context.content(path))
        age = records.file_age_s(path)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(holder, dict) or not {"pid", "host"} <= set(holder):
        return None
    lives = records.process_lives(holder)
    if lives is None:
        lives = age is not None and age < STALE_S
    return holder if lives else None
