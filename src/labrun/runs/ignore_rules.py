"""`.amlignore`: the files of a script's folder to exclude from its snapshot, in the syntax of `.gitignore`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

FILE = ".amlignore"
WORDS = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}


def of(folder: Path) -> Callable[[Path], bool]:
    """Return a function that tells whether a folder's `.amlignore` excludes a relative path. The last match wins."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    rules = [rule(line.rstrip()) for line in lines if line.strip() and not line.startswith("#")]
    return lambda path: next((out for out, means in reversed(rules) if means.fullmatch(path.as_posix())), False)


def rule(line: str) -> tuple[bool, re.Pattern[str]]:
    """Parse a line. Return whether it excludes, and a pattern of the paths that it matches."""
    out = not line.startswith("!")
    body = line.lstrip("!").removeprefix("\\")
    only_folders, body = body.endswith("/"), body.rstrip("/")
    start = "" if "/" in body else "(?:.*/)?"
    parts = re.split(r"(\*\*/|/\*\*$|\*|\?|\[[^]]+\])", body.removeprefix("/"))
    sets = {part: fnmatch.translate(part).rpartition(")")[0] + ")" for part in parts[1::2] if part.startswith("[")}
    text = "".join({**WORDS, **sets}.get(part) or re.escape(part) for part in parts)
    return out, re.compile(start + text + ("/.*" if only_folders else "(?:/.*)?"))
