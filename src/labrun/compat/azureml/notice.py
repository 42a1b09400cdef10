"""Notices that labrun prints for a script."""

from __future__ import annotations

import sys

_printed: set[str] = set()


def warn(message: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"labrun: {message}\n")


def notify_once(message: str) -> None:
    """Write one line to stderr, unless this process has already written it."""
    if message not in _printed:
        _printed.add(message)
        warn(message)
