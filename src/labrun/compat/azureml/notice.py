"""What a script that calls something of old is told."""

from __future__ import annotations

import sys


def warn(message: str) -> None:
    """One line to the person who reads the log."""
    sys.stderr.write(f"labrun: {message}\n")
