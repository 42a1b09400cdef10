"""The question that a command asks before it removes something."""

from __future__ import annotations

import sys

from labrun.errors import ConfigError


def agreed(question: str, yes: bool, refusal: str = "") -> bool:
    """Ask the user a yes/no question, unless `--yes` was given, and return whether the user agrees.

    Args:
        question: the question, which ends with a question mark.
        yes: whether `--yes` was given.
        refusal: error message if there is no terminal to ask at; empty: print the question, and return False.

    Raises:
        ConfigError: there is no terminal, and a refusal.
    """
    if yes:
        return True
    if sys.stdin.isatty():
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    if refusal:
        raise ConfigError(f"{refusal}: use --yes")
    print(f"{question}  Nothing was done: use --yes")
    return False
