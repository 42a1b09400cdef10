"""Flags on `labrun`'s command line: splitting them from overrides, and mistakes in them."""

from __future__ import annotations

import argparse
import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from labrun.config.hydra_versions import flags_parser
from labrun.mistakes import grammar
from labrun.mistakes.mistake import Mistake

SHOWING = ("--cfg", "--help", "--info")
ALONE = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")
"""Flags that Hydra accepts only one of."""


@dataclass
class Split:
    """A command line, split into flags and overrides."""

    overrides: list[int] = field(default_factory=list)
    """Positions of the overrides."""
    values: dict[str, str] = field(default_factory=dict)
    """Values of the given flags; empty for flags without a value."""
    strange: list[int] = field(default_factory=list)
    """Positions of arguments that look like flags, but are not."""
    lacking: list[str] = field(default_factory=list)
    """Flags whose value is missing."""


@functools.cache
def known() -> Mapping[str, argparse.Action]:
    """Return Hydra's flags, each under all its names."""
    # argparse has no public list of a parser's options
    return {name: action for action in flags_parser()._actions for name in action.option_strings}


def flag_of(word: str) -> argparse.Action | None:
    """Return the flag for an argument, which may be abbreviated as in argparse; None if it is not a flag."""
    name = word.partition("=")[0]
    if name in known():
        return known()[name]
    if not name.startswith("--") or name == "--":
        return None
    found = {id(action): action for flag, action in known().items() if flag.startswith(name)}
    return next(iter(found.values())) if len(found) == 1 else None


def split_words(words: Sequence[str]) -> Split:
    """Split a command line into flags and overrides."""
    found = Split()
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":  # no flags after it
            found.overrides += range(place + 1, len(words))
            break
        action = flag_of(word) if word.startswith("-") else None
        if not word.startswith("-") or word == "-":
            found.overrides.append(place)
        elif action is None:
            found.strange.append(place)
        else:
            long = max(action.option_strings, key=len)
            found.values[long] = word.partition("=")[2]
            if action.nargs != 0 and "=" not in word:
                after = words[place + 1] if place + 1 < len(words) else None
                is_value = after is not None and not after.startswith("-")
                if is_value and after is not None:
                    found.values[long] = after
                    place += 1
                elif action.nargs is None:
                    found.lacking.append(long)
        place += 1
    return found


def check(words: Sequence[str]) -> list[Mistake]:
    """Return the mistakes in the flags of a command line. argparse finds them; this function explains them."""
    found = split_words(words)
    complaint = _complaint(words)
    mistakes = list(_refused(words, found)) if complaint is not None else []
    mistakes += _together(words, found)
    return mistakes or ([] if complaint is None else [Mistake(f"{complaint}. labrun --help lists the options")])


class _ComplaintError(Exception):
    """Carries the error message of argparse."""


def _complaint(words: Sequence[str]) -> str | None:
    """Return the error message of argparse for a command line; None if it has none."""
    parser = flags_parser()

    def complain(message: str) -> NoReturn:
        raise _ComplaintError(message)

    parser.error = complain  # type: ignore[method-assign]
    try:
        parser.parse_intermixed_args([word for word in words if word != "--version"])
    except _ComplaintError as error:
        return str(error)
    return None


def _refused(words: Sequence[str], found: Split) -> Iterator[Mistake]:
    for place in found.strange:
        yield _strange(words, place)
    for flag in found.lacking:
        yield Mistake(f"{flag}  needs a value: {flag} {_wanted(known()[flag])}")
    for flag, value in found.values.items():
        action = known()[flag]
        if action.nargs == 0 and value:
            yield Mistake(f"{flag} takes no value, but was given {value!r}")
        elif action.choices and value not in ("", *action.choices):
            yield Mistake(f"{flag} {value}: expected one of {', '.join(action.choices)}")


def _together(words: Sequence[str], found: Split) -> Iterator[Mistake]:
    """Yield mistakes in combinations of flags, for which Hydra fails with a traceback."""
    together = [flag for flag in ALONE if flag in found.values]
    shown = next((flag for flag in SHOWING if flag in found.values), None)
    if "--multirun" in found.values and shown is not None:
        yield Mistake(f"{shown} shows one configuration: leave out -m, and give each key one value")
    elif len(together) > 1:
        yield Mistake(f"{' and '.join(together)} cannot be combined: use one of them")
    if "--resolve" in found.values and not {"--cfg", "--help"} & set(found.values):
        yield Mistake("--resolve goes with --cfg: labrun --cfg job --resolve")
    actions = ("install=", "uninstall=", "query=")
    if "--shell-completion" in found.values and not any(words[place].startswith(actions) for place in found.overrides):
        yield Mistake("-sc needs an action: labrun -sc install=bash (or fish, zsh), or uninstall=bash")
    if "--experimental-rerun" in found.values:
        yield Mistake("--experimental-rerun: 'lab runs rerun RUN' repeats a run with the configuration and code it had")


def _wanted(action: Any) -> str:
    return "|".join(action.choices) if action.choices else action.option_strings[-1].lstrip("-").upper()


def _strange(words: Sequence[str], place: int) -> Mistake:
    """Return the mistake for an unknown flag: a typo, or an override written as a flag, as in other tools."""
    word = words[place]
    name, equals, value = word.partition("=")
    bare = name.lstrip("-")
    after = words[place + 1] if place + 1 < len(words) else ""
    long = [flag for flag in known() if flag.startswith("--")]
    near = difflib.get_close_matches(name, long, n=1, cutoff=0.75)
    said = f"{name}: labrun has no such option"
    if name == "-m" or name == "--multirun":
        return Mistake(f"{word}: -m takes no value", {place: [name]})
    if near and not equals:
        return Mistake(f"{said}. Did you mean {near[0]!r}? labrun --help lists them", {place: [near[0]]})
    if equals and grammar.is_readable(f"{bare}={value}"):
        new, fix = f"{bare}={value}", {place: [f"{bare}={value}"]}
    elif bare and after and not after.startswith("-") and "=" not in after and grammar.is_readable(f"{bare}={after}"):
        new, fix = f"{bare}={after}", {place: [f"{bare}={after}"], place + 1: []}
    else:
        return Mistake(f"{said}: groups and keys are set without dashes, as group=option and key=value; labrun --help")
    return Mistake(f"{said}: groups and keys are set without dashes, as in {new}", fix)
