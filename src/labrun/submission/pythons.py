"""Local Python interpreters by version: those of pyenv, uv and conda, and those on the PATH."""

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

MINORS = range(6, 16)
"""Minor versions of Python 3 to look for when a range is requested."""


def find(wanted: str) -> str | None:
    """Find an interpreter of a version.

    Args:
        wanted: `3.6`, or `3.6.2` and `==3.6.2.*`: that version, else the newest 3.6; or a range such as `>=3.6,<3.9`:
            this interpreter if its version is in the range, else the newest one in the range.

    Returns:
        The interpreter's path; None if there is none.
    """
    exact = re.fullmatch(r"=*([\d.]+?)(\.\*)?", wanted)
    if exact is None:
        return _within(wanted)
    version = tuple(map(int, exact[1].split(".")))
    same = _of_minor(version[:2])
    first = [path for path, one in same.items() if one[: len(version)] == version]
    return max(first or same, key=lambda path: same[path], default=None)


def _within(wanted: str) -> str | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        range_ = SpecifierSet(wanted)
    except InvalidSpecifier:
        return None
    if range_.contains(".".join(map(str, sys.version_info[:3]))):
        return sys.executable
    there = {path: one for minor in MINORS for path, one in _of_minor((3, minor)).items()}
    fitting = [path for path, one in there.items() if range_.contains(".".join(map(str, one)))]
    return max(fitting, key=lambda path: there[path], default=None)


def _of_minor(minor: Version) -> dict[str, Version]:
    """Return the interpreters of a minor version, with their full versions."""
    found = {path: _version_of(path) for path in dict.fromkeys(_places(minor))}
    return {path: one for path, one in found.items() if one is not None and one[:2] == minor}


def _places(minor: Version) -> Iterator[str]:
    """Yield possible paths of interpreters of a minor version, this one first."""
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
    """Return the version that an interpreter reports; None if it does not start, as may happen with pyenv's shims."""
    code = "import sys; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([path, "-IS", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return tuple(map(int, done.stdout.split()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
