"""Notices that labrun prints for a script."""

from __future__ import annotations

import sys


def warn(message: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"labrun: {message}\n")
