"""A mistake on a command line, and the arguments that correct it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labrun.config.checking import masked_word
from labrun.errors import ConfigError

LONGEST = 1500
"""Maximum length of the text about one mistake, in characters."""
FRONT = -1
"""The position before the first argument."""


@dataclass(frozen=True)
class Mistake:
    """A mistake in one or more arguments.

    Args:
        text: what was given, what is allowed, and what to do.
        fix: replacement arguments by position in the command line; empty if no correction is known.
    """

    text: str
    fix: Mapping[int, Sequence[str]] = field(default_factory=dict)


def mended(mistakes: Sequence[Mistake], words: Sequence[str]) -> list[str] | None:
    """Return the corrected command line; None if the correction of a mistake is unknown."""
    if not mistakes or not all(one.fix for one in mistakes):
        return None
    changes: dict[int, Sequence[str]] = {}
    for one in mistakes:
        changes |= one.fix
    return [*changes.get(FRONT, ()), *(new for place, word in enumerate(words) for new in changes.get(place, (word,)))]


def message(found: Sequence[Mistake], then: Sequence[Mistake], command: Sequence[str] | None) -> str:
    """Return a message with all mistakes and, if known, the corrected command.

    Args:
        found: the mistakes.
        then: mistakes that become visible once the others are corrected.
        command: the arguments of the corrected command, if known.
    """
    text = str(ConfigError(list(dict.fromkeys(_cut(one.text) for one in found))))
    lines = [text, *dict.fromkeys(f"  {_cut(one.text)}" for one in then)]
    return "\n".join(lines if command is None else [*lines, f"  Type: {typed(command)}"])


def _cut(text: str) -> str:
    """Shorten a text in the middle, for example if the user typed a long list."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def typed(words: Sequence[str], program: str = "labrun") -> str:
    """Return a command line quoted for a shell, with secrets masked."""
    return shlex.join([program, *(masked_word(word) for word in words)])
