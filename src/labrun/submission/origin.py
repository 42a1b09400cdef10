"""A new run's id, and the state of the code in git: without a config and therefore without Hydra."""

from __future__ import annotations

import secrets
from pathlib import Path

from labrun._io import run_command
from labrun.runs.groups import GitState
from labrun.submission import snapshot

ID_BYTES = 4


def new_id() -> str:
    """Return a random run id: eight hexadecimal digits, the first a letter, so that no prefix of it is a number."""
    return secrets.choice("abcdef") + secrets.token_hex(ID_BYTES)[1:]


def git_state(folder: Path, root: Path) -> GitState | None:
    """Return the state of the repository around a folder; None outside git. Remote URLs may hold tokens: not taken."""

    def ask(*arguments: str) -> str | None:
        answer = run_command(["git", "-C", str(folder), *arguments], timeout_s=10)
        return None if answer is None else answer.strip()

    commit = ask("rev-parse", "HEAD") if snapshot.may_be_in_git(folder) else None
    if commit is None:
        return None
    return GitState(commit, ask("rev-parse", "--abbrev-ref", "HEAD"), snapshot.is_changed(folder, root))
