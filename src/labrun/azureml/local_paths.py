r"""Local paths, including those written on Windows, such as `.\src` and `data\raw.csv`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def local(given: Any, folder: Any = ".") -> Path:
    """Return a path. If it does not exist but would with slashes for its backslashes, return that one.

    Args:
        given: the path.
        folder: the folder that it is relative to.
    """
    text = os.fsdecode(given)
    path, other = Path(text).expanduser(), Path(slashes(text)).expanduser()
    return other if path != other and not Path(folder, path).exists() and Path(folder, other).exists() else path


def slashes(text: str) -> str:
    """Replace backslashes with slashes."""
    return text.replace("\\", "/")
