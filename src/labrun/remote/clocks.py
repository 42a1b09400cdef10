"""Two machines' clocks: a mirrored record tells its times by the clock of the machine that it is on.

Everything that compares a time with the present (ages, `rm --older-than`, the newest run) then compares moments of one
clock. How long a run took, and how old a heartbeat is, are durations of one clock already.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from labrun.remote import link as links
from labrun.remote.link import Link
from labrun.runs.record import Record


def note(link: Link, ahead_s: float) -> None:
    """Note by how much the clock there is ahead, if that is much, and other than was noted."""
    if abs(ahead_s - link.ahead_s) > links.CLOCKS_S:
        link.ahead_s = ahead_s if abs(ahead_s) > links.CLOCKS_S else 0.0


def turn(record: Record, seconds: float, created: bool = False) -> None:
    """Tell a record's times by a clock that is that much ahead of the one that they were told by.

    Args:
        record: changed in place.
        seconds: may be negative.
        created: also when it was submitted.
    """
    if not seconds:
        return
    record.started, record.ended = _turned(record.started, seconds), _turned(record.ended, seconds)
    if created:
        record.created = _turned(record.created, seconds) or record.created
    record.attempts = [
        {**one, **{key: _turned(one[key], seconds) for key in ("started", "ended") if one.get(key)}}
        for one in record.attempts
    ]


def _turned(moment: str | None, seconds: float) -> str | None:
    if moment is None:
        return None
    return (datetime.fromisoformat(moment) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
