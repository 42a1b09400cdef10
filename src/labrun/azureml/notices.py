"""Notices on how labrun handles a control script's calls, each printed once per process."""

from __future__ import annotations

from labrun.compat.azureml import notice

_printed: set[str] = set()


def notify_once(message: str) -> None:
    """Print a notice, unless this process has already printed it."""
    if message not in _printed:
        _printed.add(message)
        notice.warn(message)
