"""`.amlignore`: what a script's folder says that its runs are without, in the grammar of `.gitignore`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

FILE = ".amlignore"
WORDS = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}


def of(folder: Path) -> Callable[[Path], bool]:
    """Whether a path below a folder is one of those that its `.amlignore` names; the last line that fits decides."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    rules = [rule(line.rstrip()) for line in lines if line.strip() and not line.startswith("#")]
    return lambda path: next((out for out, means in reversed(rules) if means.fullmatch(path.as_posix())), False)


def rule(line: str) -> tuple[bool, re.Pattern[str]]:
    """A line: whether it leaves out, and the paths that it means."""
    out = not line.startswith("!")
    body = line.lstrip("!").removeprefix("\\")
    only_folders, body = body.endswith("/"), body.rstrip("/")
    start = "" if "/" in body else "(?:.*/)?"
    parts = re.split(r"(\*\*/|/\*\*$|\*|\?|\[[^]]+\])", body.removeprefix("/"))
    sets = {part: fnmatch.translate(part).rpartition(")")[0] + ")" for part in parts[1::2] if part.startswith("[")}
    text = "".join({**WORDS, **sets}.get(part) or re.escape(part) for part in parts)
    return out, re.compile(start + text + ("/.*" if only_folders else "(?:/.*)?"))
