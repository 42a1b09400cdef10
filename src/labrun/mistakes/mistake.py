"""A mistake in a command line, and the words that mend it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labrun.checking import is_secret
from labrun.errors import ConfigError

LONGEST = 1500
"""Characters of what is said of one mistake."""
FRONT = -1
"""The place before all words."""


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a word, or with several.

    Args:
        text: what was given, what is allowed, and what to do.
        fix: by the place of a word in the command line, the words to type in its place; empty where that is not known.
    """

    text: str
    fix: Mapping[int, Sequence[str]] = field(default_factory=dict)


def mended(mistakes: Sequence[Mistake], words: Sequence[str]) -> list[str] | None:
    """The command line without the mistakes; None where one of them is not known to be mended."""
    if not mistakes or not all(one.fix for one in mistakes):
        return None
    changes: dict[int, Sequence[str]] = {}
    for one in mistakes:
        changes |= one.fix
    return [*changes.get(FRONT, ()), *(new for place, word in enumerate(words) for new in changes.get(place, (word,)))]


def message(found: Sequence[Mistake], then: Sequence[Mistake], command: Sequence[str] | None) -> str:
    """All mistakes at once, and the whole command as it is to be typed, where that is known.

    Args:
        found: the mistakes.
        then: those that come to light once the others are mended.
        command: without all of them.
    """
    text = str(ConfigError(list(dict.fromkeys(_cut(one.text) for one in found))))
    lines = [text, *dict.fromkeys(f"  {_cut(one.text)}" for one in then)]
    return "\n".join(lines if command is None else [*lines, f"  Type: {typed(command)}"])


def _cut(text: str) -> str:
    """A text without its middle where somebody typed a whole list."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def typed(words: Sequence[str], program: str = "labrun") -> str:
    """A command as a shell takes it; no secret is shown."""
    return shlex.join([program, *(masked_word(word) for word in words)])


def masked_word(word: str) -> str:
    """A word of a command, without the value of what is named as a secret."""
    key, equals, value = word.partition("=")
    hides = equals and value and not value.startswith("${") and is_secret(key.rpartition(".")[2])
    return f"{key}=***" if hides else word
