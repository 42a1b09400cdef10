"""Python interpreters of this machine, by their version: pyenv's, uv's, conda's, and those on the path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

Version = tuple[int, ...]


def find(version: str) -> str | None:
    """An interpreter of a version, such as `3.6` or `3.6.2`: that one, else the newest of the same minor version.

    Returns:
        Its path; None where there is none.
    """
    wanted = parsed(version)
    found = {path: _version_of(path) for path in dict.fromkeys(_places(wanted[:2]))}
    same = {path: one for path, one in found.items() if one is not None and one[:2] == wanted[:2]}
    exact = [path for path, one in same.items() if one[: len(wanted)] == wanted]
    return max(exact or same, key=lambda path: same[path], default=None)


def parsed(version: str) -> Version:
    """The numbers of a version: `3.6.*` is (3, 6)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _places(minor: Version) -> Iterator[str]:
    """Where an interpreter of a minor version may lie; this one first."""
    name = "python" + ".".join(map(str, minor))
    yield sys.executable
    home = Path.home()
    roots = [
        Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python"),
        *(home / conda / "envs" for conda in ("miniconda3", "anaconda3", "miniforge3", "mambaforge")),
    ]
    for root in roots:
        yield from (str(path) for path in sorted(root.glob(f"*/bin/{name}")))
    on_path = shutil.which(name)
    if on_path:
        yield on_path


@lru_cache
def _version_of(path: str) -> Version | None:
    """The version that an interpreter says it has; None where it does not start, as one of pyenv's shims may."""
    code = "import sys; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([path, "-IS", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return tuple(map(int, done.stdout.split()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
