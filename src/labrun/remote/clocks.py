"""Clock differences: each copy of a mirrored record has its times in terms of the clock of its own machine.

Code that compares a time with the present (ages, `rm --older-than`, the newest run) then compares times of a single
clock. A run's duration and a heartbeat's age are already durations on a single clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from labrun.remote import links
from labrun.remote.links import Link
from labrun.runs.record import Record


def note(link: Link, ahead_s: float) -> None:
    """Record how far the remote clock is ahead, if the difference is large and has changed."""
    if abs(ahead_s - link.ahead_s) > links.CLOCKS_S:
        link.ahead_s = ahead_s if abs(ahead_s) > links.CLOCKS_S else 0.0


def shift(record: Record, seconds: float, created: bool = False) -> None:
    """Convert a record's times to a clock that is ahead of their own clock by some seconds.

    Args:
        record: the record; changed in place.
        seconds: the difference; may be negative.
        created: convert the submission time as well.
    """
    if not seconds:
        return
    record.started, record.ended = _shifted(record.started, seconds), _shifted(record.ended, seconds)
    if created:
        record.created = _shifted(record.created, seconds) or record.created
    for one in record.attempts:
        one.started, one.ended = _shifted(one.started, seconds), _shifted(one.ended, seconds)


def _shifted(moment: str | None, seconds: float) -> str | None:
    if moment is None:
        return None
    return (datetime.fromisoformat(moment) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
