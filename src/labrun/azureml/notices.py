"""Notices on how labrun handles a control script's calls, each printed once per process."""

from __future__ import annotations

from labrun.compat.azureml import notice

_told: set[str] = set()


def once(message: str) -> None:
    """Print a notice, unless this process has already printed it."""
    if message not in _told:
        _told.add(message)
        notice.warn(message)
