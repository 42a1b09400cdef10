r"""Paths of this machine, also as a notebook from Windows writes them: `.\src`, `data\raw.csv`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def local(given: Any, folder: Any = ".") -> Path:
    """A path as it was given; one with backslashes that is not there with slashes, if that is there.

    Args:
        given: relative to the working folder.
        folder: that it is relative to, in place of the working folder.
    """
    text = os.fsdecode(given)
    path, other = Path(text).expanduser(), Path(slashes(text)).expanduser()
    return other if path != other and not Path(folder, path).exists() and Path(folder, other).exists() else path


def slashes(text: str) -> str:
    """A path with slashes for backslashes."""
    return text.replace("\\", "/")
