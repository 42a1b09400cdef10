"""Checks that nobody but the user could have written files, before labrun executes or believes what they say.

The warm interpreter has its own check, since its client imports next to nothing (`labrun.warm.identity`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path


def is_own(found: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user and nobody else may write it."""
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_private(found: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user and nobody else has access to it."""
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def is_out_of_reach(path: Path) -> bool:
    """Return whether a file of this user that its group may write (a common umask) is safe in a private folder."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & stat.S_IWOTH and is_private(path.parent.stat())


def foreign_writer(paths: Sequence[Path]) -> str | None:
    """Return why another user may have written one of the files, or None; their group may do so (a common umask)."""
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        if found.st_uid != os.geteuid():
            return f"{path} belongs to {_name(found.st_uid)}"
        if found.st_mode & stat.S_IWOTH:
            return f"everyone may write to {path}"
    return None


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"
