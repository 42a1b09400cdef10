"""Why a command was refused, for the process that started it, which need not read the command's output for that.

Whoever starts a command names a file in the variable `LABRUN_REFUSAL`. The command writes there why it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "LABRUN_REFUSAL"


@dataclass(frozen=True)
class Refusal:
    """Why a command has ended."""

    message: str
    is_controlled: bool = False
    """Another controller holds the runs already."""


def leave(refusal: Refusal) -> None:
    """Write why this process ends, if the process that started it wants to know."""
    if path := os.environ.get(VARIABLE):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(asdict(refusal)), encoding="utf-8")


def forget() -> None:
    """Hide the file from the commands that this process starts: its starter asked about this one alone."""
    os.environ.pop(VARIABLE, None)


def parsed(text: str) -> Refusal | None:
    """Return a refusal from the content of its file; None if it holds none."""
    try:
        content = json.loads(text)
        return Refusal(str(content["message"]), bool(content["is_controlled"]))
    except (ValueError, KeyError, TypeError):
        return None


def taken(path: Path) -> Refusal | None:
    """Return the refusal that a file holds, and remove the file; None if the command left none."""
    try:
        text = path.read_text(encoding="utf-8")
        path.unlink()
    except (OSError, ValueError):
        return None
    return parsed(text)
