"""A lease in a sweep's folder that ensures a single controller at a time.

Controllers are numbered: each claims `controllers/<k>` by exclusive creation, and the highest number holds the lease.
A controller that finds a higher number than its own stops. A controller counts as alive while its process exists (seen
from its own host) or while its heartbeat is recent (seen from another host).
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from labrun.errors import ControlledError, RecordError
from labrun.runs import context
from labrun.runs.attempts import Process
from labrun.runs.record import cannot_write, file_age_s, process_identity, process_lives
from labrun.runs.sweep_state import SweepState

BEAT_S = 5.0
STALE_S = 60.0


class OvertakenError(ControlledError):
    """Another controller holds the lease now."""


class Lease:
    """The right to control the runs of a folder.

    Args:
        state: the folder's state.

        Raises:
            RecordError: another controller that is alive holds the lease.
    """

    def __init__(self, state: SweepState) -> None:
        self._folder = state.controllers
        try:
            state.make()
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RecordError(cannot_write(state.folder, error)) from error
        holder = living(state)
        if holder is not None:
            raise ControlledError(
                f"the runs in {state.folder} are controlled by process {holder.pid} on {holder.host}; "
                f"'lab runs watch {state.folder}' shows them"
            )
        self.number = 1 + newest(state)
        try:
            with open(self._folder / str(self.number), "x", encoding="utf-8") as file:
                json.dump(process_identity().as_json(), file)
        except FileExistsError:
            raise ControlledError(f"another controller has just taken over the runs in {state.folder}") from None
        except OSError as error:
            raise RecordError(cannot_write(self._folder, error)) from error
        self._state = state
        self._next_beat = 0.0
        self.beat()

    def beat(self) -> None:
        """Update this controller's heartbeat.

        Raises:
            OvertakenError: a newer controller holds the lease.
        """
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT_S
        if newest(self._state) != self.number:
            raise OvertakenError(f"another controller has taken over the runs in {self._state.folder}; this one stops")
        with contextlib.suppress(OSError):
            os.utime(self._folder / str(self.number))

    def release(self) -> None:
        """Release the lease; from now on no controller drives the runs."""
        with contextlib.suppress(OSError):
            os.replace(self._folder / str(self.number), self._folder / f"{self.number}.ended")


def newest(state: SweepState) -> int:
    """Return the number of the newest controller, active or ended; 0 if there was none."""
    try:
        names = [path.name.partition(".")[0] for path in state.controllers.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(name) for name in names if name.isdecimal()), default=0)


def living(state: SweepState) -> Process | None:
    """Return the process that controls the runs now; None if there is none alive."""
    path = state.controllers / str(newest(state))
    try:
        holder = Process.of(json.loads(context.content(path)))
        age = file_age_s(path)
    except (OSError, ValueError, RecursionError):
        return None
    if holder.pid is None or holder.host is None:
        return None
    lives = process_lives(holder)
    if lives is None:
        lives = age is not None and age < STALE_S
    return holder if lives else None
