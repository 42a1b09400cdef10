"""The reason why a command was refused, in a file for the process that started it, which need not parse its output.

The process that starts a command names the file in the variable `LABRUN_REFUSAL`; the command writes its reason there.
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
    """Write why this process ends, if the process that started it has named a file."""
    if path := os.environ.get(VARIABLE):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(asdict(refusal)), encoding="utf-8")


def forget() -> None:
    """Remove the variable, so that commands started by this process do not write to the file."""
    os.environ.pop(VARIABLE, None)


def parsed(text: str) -> Refusal | None:
    """Parse the content of the file; None if it is not a refusal."""
    try:
        content = json.loads(text)
        return Refusal(str(content["message"]), bool(content["is_controlled"]))
    except (ValueError, KeyError, TypeError):
        return None


def taken(path: Path) -> Refusal | None:
    """Read the refusal from a file and remove the file; None if the command left none."""
    try:
        text = path.read_text(encoding="utf-8")
        path.unlink()
    except (OSError, ValueError):
        return None
    return parsed(text)
