"""What a control script is told of how labrun carries its calls out: each thing once a process."""

from __future__ import annotations

from labrun.compat.azureml import notice

_told: set[str] = set()


def once(message: str) -> None:
    """One line, the first time that it is due."""
    if message not in _told:
        _told.add(message)
        notice.warn(message)
