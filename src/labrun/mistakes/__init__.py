"""Explanation of mistakes on `labrun`'s command line, in one message: what was given, what is allowed, what to type.

Hydra reports a mistake in the terms of its parser, or with a generic hint. This package compares the arguments with the
options and keys that exist. A command that a message suggests has been composed successfully before it is shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hydra.errors import HydraException, MissingConfigException, SearchPathException
from omegaconf.errors import OmegaConfBaseException

from labrun.causes import chain
from labrun.compose import paths
from labrun.config import masking
from labrun.errors import ConfigError, LabrunError
from labrun.messages import suggest
from labrun.mistakes import choices, composed, flags, grammar
from labrun.mistakes.mistake import Mistake, mended, message

HYDRAS = (HydraException, OmegaConfBaseException)
"""Errors that Hydra raises while it parses a command line and composes."""
MAX_ROUNDS = 3
"""Maximum number of times a corrected command is checked for further mistakes."""
NOISE = ("See https://", "To append to", "Config search path", "\t", "full_key:", "object_type=", "reference_type=")
"""Beginnings of lines in Hydra's and OmegaConf's messages that do not help the user; their errors have no attribute for
the others."""
LACKING = re.compile(
    r"In '([^']+)': (?:Could not override '(?=[^']+'\. No match)|Invalid Defaults List override .+\n.+ for ')([^'@]+)'"
)
"""Hydra's message about an override of a group that is not among the defaults: that of 1.3, or that of 1.4. The error
itself has no attributes."""


def in_words(words: Sequence[str]) -> str | None:
    """Return a message about mistakes that are visible without composing; None if there are none."""
    found = flags.check(words)
    if not found:
        return None
    with composed.kept():
        return _answer(found, words)


def explained(error: BaseException, words: Sequence[str]) -> str:
    """Explain an error of Hydra's from the command line that caused it.

    Args:
        error: one of `HYDRAS`.
        words: the command-line arguments.
    """
    values = flags.split_words(words).values
    if isinstance(error, MissingConfigException) and values.get("--config-name") == error.missing_cfg_file:
        return (
            f"--config-name {error.missing_cfg_file}: there is no {error.missing_cfg_file}.yaml in {paths.conf_dir()}"
            f"{', ./conf' if paths.user_conf_dir() else ''} or --config-dir. labrun's own is 'config'; a file of yours "
            "that builds on it begins with 'defaults: [config]'"
        )
    if isinstance(error, SearchPathException) and values.get("--config-dir"):
        folder = values["--config-dir"]
        what = "is not a folder" if os.path.exists(folder) else "there is no such folder"
        return f"--config-dir {folder}: {what} (looked for {os.path.abspath(folder)})"
    with composed.kept():
        found = _found(words)
        if found:
            return _answer(found, words)
        lacking = LACKING.match(str(error))
        if lacking is None:
            return in_short(error)
        groups = composed.composable(flags.split_words(words)).groups
        return (
            f"in {lacking[1]}: 'override /{lacking[2]}': there is no group {lacking[2]!r} among the defaults."
            f"{suggest(lacking[2], groups)} Groups: {', '.join(groups)}"
        )


def in_overrides(words: Sequence[str]) -> str | None:
    """Return a message about overrides that Hydra accepts but that do not do what they seem to; None if there are none.

    Args:
        words: the command-line arguments.
    """
    with composed.kept():
        found = choices.groups_as_keys(words)
        return _answer(found, words) if found else None


def unreadable(overrides: Sequence[str], error: BaseException) -> str:
    """Return a message about overrides from elsewhere than the command line: a search space in YAML, or a rerun.

    Args:
        overrides: the overrides.
        error: the error that Hydra raised.
    """
    found = grammar.check(overrides, range(len(overrides)))
    return str(ConfigError([one.text for one in found])) if found else in_short(error)


def _found(words: Sequence[str]) -> list[Mistake]:
    """Return the mistakes of a command line whose flags are correct."""
    split = flags.split_words(words)
    return grammar.check(words, split.overrides) or choices.check(words, split)


def _answer(found: Sequence[Mistake], words: Sequence[str]) -> str:
    """Return a message with all mistakes and, if known, a corrected command that composes."""
    then: list[Mistake] = []
    command = mended(found, words)
    for _ in range(MAX_ROUNDS):
        if command is None:
            break
        more = flags.check(command) or _found(command)
        if not more:
            unfit = choices.unfit(command, flags.split_words(command))
            then += [Mistake(text) for text in unfit]
            command = None if unfit else command
            break
        then += more
        command = mended(more, command)
    else:
        command = None
    return message(found, then, command)


def in_short(error: BaseException) -> str:
    """Return Hydra's own message without its generic hints."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        where = re.match(r"In '([^']+)':", str(error))  # the error has no attribute for it
        said = "" if where is None or where[1] in ("config", "hydra/config") else f"in {where[1]}: "
        shown = [option for option in error.options if not option.startswith("_")]
        return f"{said}there is no {group} {name!r}.{suggest(name, shown)} There are: {', '.join(shown)}"
    if any(isinstance(one, LabrunError) for one in chain(error)):
        return masking.reason(error)
    texts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    lines = [
        line.strip() for text in texts for line in text.splitlines() if line.strip() and not line.startswith(NOISE)
    ]
    kept = [line for line in dict.fromkeys(lines) if not line.strip().startswith(NOISE)]
    return ". ".join(line.rstrip(".") for line in kept[:3]) or type(error).__name__


__all__ = ["HYDRAS", "explained", "in_overrides", "in_short", "in_words", "unreadable"]
