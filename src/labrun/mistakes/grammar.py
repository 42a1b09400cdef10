"""Mistakes in overrides that do not parse: split by the shell, unclosed brackets or quotes, not KEY=VALUE."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.errors import HydraException

from labrun.compose import hydra_files, paths
from labrun.config.checking import is_secret
from labrun.messages import without_details
from labrun.mistakes.mistake import Mistake

VALUES = "a number, a word, 'text in quotes', [a,b], {k: v}; for a sweep several: a,b or range(1,4)"
RUN_WORDS = frozenset({"run", "train", "fit", "start", "exec", "execute", "launch", "submit", "labrun"})
LAB_WORDS = {
    "runs": "lab runs",
    "ls": "lab runs ls",
    "list": "lab runs ls",
    "status": "lab runs",
    "logs": "lab runs logs",
    "show": "lab runs show",
    "metrics": "lab runs metrics",
    "compare": "lab runs compare",
    "watch": "lab runs watch",
    "cancel": "lab runs cancel",
    "stop": "lab runs cancel",
    "rerun": "lab runs rerun",
    "data": "lab data",
    "models": "lab models",
    "register": "lab models register",
    "ui": "lab ui",
    "warm": "lab warm",
    "upload": "lab data upload",
    "download": "lab data download",
}
"""Commands of `lab` that users type after `labrun`."""
TASK_WORDS = {
    "evaluate": "task=evaluate from=last",
    "eval": "task=evaluate from=last",
    "test": "task=evaluate from=last",
    "score": "task=evaluate from=last",
    "resume": "trainer.resume=last",
    "continue": "trainer.resume=last",
    "sweep": "-m",
    "multirun": "-m",
    "tune": "-m",
    "help": "--help",
    "version": "--version",
    "config": "--cfg job",
    "cfg": "--cfg job",
}
CLOSERS = {"[": "]", "(": ")", "{": "}"}
NAME = r"[A-Za-z_$][\w$-]*"
KEY = re.compile(rf"{NAME}(?:[./](?:{NAME}|\d+))*(?:@[\w.$:-]*)?")
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'", "`": "'"})


def check(words: Sequence[str], positions: Sequence[int]) -> list[Mistake]:
    """Return the mistakes in arguments that do not parse as overrides.

    Args:
        words: the command-line arguments.
        positions: indices of the overrides in `words`.
    """
    found: list[Mistake] = []
    taken: set[int] = set()
    for number, position in enumerate(positions):
        if position in taken:
            continue
        join = _joined_after if is_readable(words[position]) else _joined
        joined = join(words, positions, number)
        if joined is not None:
            found.append(joined)
            taken |= set(joined.fix)
        elif not is_readable(words[position]):
            found.append(_alone(words, positions, number))
            taken |= set(found[-1].fix)
    return found


def is_readable(word: str) -> bool:
    """Whether an argument parses as an override with a key."""
    return bool(word.lstrip("+~").partition("=")[0].strip()) and _error(word) is None


@functools.lru_cache(maxsize=512)
def _error(word: str) -> HydraException | None:
    try:
        _parser().parse_override(word)
    except HydraException as error:
        return error
    return None


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser(create_functions())


def has_key(word: str) -> bool:
    """Whether an argument starts with KEY=."""
    key, equals, _ = word.partition("=")
    return bool(equals) and KEY.fullmatch(key.lstrip("+~").strip()) is not None


def _following(words: Sequence[str], positions: Sequence[int], number: int) -> Iterator[list[int]]:
    """Yield growing lists of positions: an argument and the one after it, the two after it, ... up to the next KEY=."""
    together = [positions[number]]
    for position in positions[number + 1 :]:
        if has_key(words[position]) or position != together[-1] + 1:
            return
        together.append(position)
        yield list(together)


def _joined(words: Sequence[str], positions: Sequence[int], number: int) -> Mistake | None:
    """Return the mistake if an argument parses when joined with those after it: the shell split it at a space."""
    word = words[positions[number]]
    if re.fullmatch(r"[\w.]+", word) and not _begins_with_equals(words, positions, number):
        return None  # a separate word, not part of a value
    for together in _following(words, positions, number):
        whole = "".join(words[position] for position in together)
        if has_key(whole) and is_readable(whole) and not whole.endswith("="):
            return _split_by_blank(words, together, whole)
    return None


def _begins_with_equals(words: Sequence[str], positions: Sequence[int], number: int) -> bool:
    after = positions[number + 1] if number + 1 < len(positions) else None
    return after is not None and words[after].startswith("=") and after == positions[number] + 1


def _joined_after(words: Sequence[str], positions: Sequence[int], number: int) -> Mistake | None:
    """As `_joined`, for an argument that parses on its own: `lr= 0.1`, `lr=1 , 2`."""
    word, best = words[positions[number]], None
    for together in _following(words, positions, number):
        last, first = words[together[-1]], words[together[1]]
        is_one = word.endswith("=") or first.startswith(",")
        whole = "".join(words[position] for position in together)
        if is_one and not is_readable(last) and is_readable(whole):
            best = (together, whole)
            if word.endswith("="):
                break
    return None if best is None else _split_by_blank(words, *best)


def _split_by_blank(words: Sequence[str], together: Sequence[int], whole: str) -> Mistake:
    given = " ".join(words[position] for position in together)
    text = f"{given!r}: the shell splits words at spaces: put none around '=' and ',', or quote all of it"
    return Mistake(
        f"{text}. Did you mean {whole!r}?",
        {position: [whole] if position == together[0] else [] for position in together},
    )


def _alone(words: Sequence[str], positions: Sequence[int], number: int) -> Mistake:
    """Return the mistake in a single argument."""
    position = positions[number]
    word = words[position]
    if "=" not in word and not word.startswith("~"):
        return _without_equals(words, positions, number)
    key, _, value = word.partition("=")
    if is_secret(key.rpartition(".")[2]) and value:
        return Mistake(
            f"{key}=***: the value cannot be read, and a secret has no place on a command line, which others can read: "
            f"{key}='${{oc.env:THE_VARIABLE}}'"
        )
    error = _error(word)
    cause = None if error is None else error.__cause__
    if error and cause and not hasattr(cause, "recognizer"):  # not the parser's: a function of the value failed
        unknown = re.match(r"Unknown function '(\w+)'", str(cause))  # Hydra gives the name only in its text
        if unknown:
            names = ", ".join(sorted(create_functions().functions))
            return _quoted(word, position, f"there is no function {unknown[1]}(); there are {names}")
        return Mistake(f"{word!r}: {without_details(error)}")
    for why, repair in REPAIRS:
        new = repair(word)
        if new != word and is_readable(new):
            return Mistake(f"{word!r}: {why}. Did you mean {new!r}?", {position: [new]})
    if not KEY.fullmatch(word.lstrip("+~").partition("=")[0]):
        key = word.partition("=")[0]
        return Mistake(
            f"{word!r}: {key!r} is not a key: a key is made of letters, digits and _, its parts joined by dots, as in "
            "trainer.max_epochs=3"
            if key
            else f"{word!r} has no key before the '='. Use KEY=VALUE, as in seed=1"
        )
    at = getattr(cause, "startIndex", None)
    sign = f" at {word[at]!r}" if isinstance(at, int) and at < len(word) else ""
    is_open = _closed(word.partition("=")[2]) != word.partition("=")[2]
    why = "its brackets do not match" if is_open else f"the value cannot be read{sign}"
    return _quoted(word, position, f"{why}. Allowed are {VALUES}")


def _quoted(word: str, position: int, why: str) -> Mistake:
    key, _, value = word.partition("=")
    new = f"{key}={hydra_files.quoted(value)}"
    if not is_readable(new) or re.match(r"\w+\(", value):  # a function is meant
        return Mistake(f"{word!r}: {why}")
    return Mistake(f"{word!r}: {why}. As text: {new}", {position: [new]})


def _without_equals(words: Sequence[str], positions: Sequence[int], number: int) -> Mistake:
    """Return the mistake in an argument that is not KEY=VALUE: a verb, the name of an option, a file, a key."""
    position = positions[number]
    word = words[position]
    what = f"{word!r} is not KEY=VALUE"
    rest = [words[other] for other in positions[number + 1 :]]
    if word and word[0] in DASHES:
        new = "-" * (2 if len(word.lstrip(DASHES)) > 1 else 1) + word.lstrip(DASHES)
        return Mistake(f"{word!r} begins with a typographic dash. Did you mean {new!r}?", {position: [new]})
    if word in RUN_WORDS:
        return Mistake(f"{what}: leave it out", {position: []})
    if word in TASK_WORDS:
        return Mistake(f"{what}. Did you mean {TASK_WORDS[word]!r}?", {position: TASK_WORDS[word].split()})
    if word in LAB_WORDS:
        return Mistake(f"{what}: labrun only runs experiments. Use {LAB_WORDS[word]}")
    if word.endswith((".py", ".ipynb", ".yaml", ".yml")):
        return _file(word, position)
    holding = [group for group, options in paths.groups().items() if word in options]
    holding = sorted(holding, key=lambda group: ("/" in group, group != "model", group))
    if holding:
        listed = " or ".join(f"{group}={word}" for group in holding)
        return Mistake(f"{what}. Did you mean {listed}?", {position: [f"{holding[0]}={word}"]})
    separated = re.fullmatch(rf"({NAME}(?:[./]{NAME})*)(?::=?|\s+)\s*(\S.*)", word)
    if separated and is_readable(f"{separated[1]}={separated[2]}"):
        new = f"{separated[1]}={separated[2]}"
        return Mistake(f"{what}: an '=' belongs between them. Did you mean {new!r}?", {position: [new]})
    if word.partition("/")[0] in paths.groups() and "/" in word:
        group, _, option = word.rpartition("/")
        if option in paths.groups().get(group, {}):
            return Mistake(f"{what}. Did you mean '{group}={option}'?", {position: [f"{group}={option}"]})
    if KEY.fullmatch(word) and rest and "=" not in rest[0] and is_readable(f"{word}={rest[0]}"):
        new = f"{word}={rest[0]}"
        return Mistake(
            f"{what}: an '=' belongs between them. Did you mean {new!r}?", {position: [new], positions[number + 1]: []}
        )
    before = words[position - 1] if number and positions[number - 1] == position - 1 else ""
    if has_key(before) and is_readable(before):
        key, _, value = before.partition("=")
        new = f"{key}={hydra_files.quoted(f'{value} {word}')}"
        return Mistake(
            f"{what}. If it belongs to the word before, quote both: {new}", {position - 1: [new], position: []}
        )
    if KEY.fullmatch(word):
        return Mistake(f"{what}: set {word}=VALUE. labrun --help lists groups and keys")
    return Mistake(f"{what}. labrun takes group=option and key=value; labrun --help lists them")


def _file(word: str, position: int) -> Mistake:
    if word.endswith(".py"):
        is_there = Path(word).is_file()
        there = "" if is_there else f" ({Path(word).resolve()} is not there)"
        new = ["experiment=script", f"script.path={word}"]
        fix = {position: new} if is_there else {}
        return Mistake(f"{word!r} is not KEY=VALUE. A script of your own runs with {' '.join(new)}{there}", fix)
    if word.endswith(".ipynb"):
        return Mistake(
            f"{word!r} is not KEY=VALUE, and a notebook does not run as an experiment: save it as a script, "
            "then: labrun experiment=script script.path=FILE.py"
        )
    path = Path(word)
    if path.parent.parent.name == "conf" or path.parent.name in paths.groups():
        return Mistake(
            f"{word!r} is not KEY=VALUE. A config file is chosen by its folder and name: "
            f"{path.parent.name}={path.stem}",
            {position: [f"{path.parent.name}={path.stem}"]},
        )
    return Mistake(
        f"{word!r} is not KEY=VALUE. Put your own config file into conf/experiment, and choose it with "
        f"experiment={path.stem}; or: labrun --config-dir FOLDER experiment=NAME"
    )


def _value(change: Callable[[str], str]) -> Callable[[str], str]:
    """Return a repair that changes the part after the `=`."""

    def repair(word: str) -> str:
        key, equals, value = word.partition("=")
        return f"{key}{equals}{change(value)}" if equals else word

    return repair


def _key(change: Callable[[str], str]) -> Callable[[str], str]:
    """Return a repair that changes the part before the `=`."""

    def repair(word: str) -> str:
        key, equals, value = word.partition("=")
        return f"{change(key)}{equals}{value}"

    return repair


def _closed(value: str) -> str:
    """Close all open brackets, and drop closing brackets without a match."""
    waiting: list[str] = []
    kept = ""
    quote = ""
    for sign in value:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in CLOSERS:
            waiting.append(CLOSERS[sign])
        elif sign in CLOSERS.values():
            if not waiting or waiting[-1] != sign:
                continue
            waiting.pop()
        kept += sign
    return kept.rstrip().rstrip(",") + "".join(reversed(waiting))


def _quotes_closed(value: str) -> str:
    for quote in "'\"":
        if value.count(quote) == 1 and value.strip()[0] == quote:
            return value + quote
        if value.count(quote) == 1:
            return hydra_files.quoted(value) if value.strip()[-1] != quote else quote + value
    return value


REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("it has a typographic quote", lambda word: word.translate(QUOTES)),
    ("there are two '=' instead of one", lambda word: re.sub(r"^([^=]*[^=!<>:+-])\s*==+\s*", r"\1=", word)),
    ("a value is set with '=' alone", lambda word: re.sub(r"^([^=]*?)\s*[:+*-]=\s*", r"\1=", word)),
    ("there are spaces around the '='", _key(lambda key: key.strip())),
    ("there is one comma too many", _value(lambda value: re.sub(r"\s*,(\s*,)+", ",", value).strip(" ,"))),
    ("there is one comma too many", _value(lambda value: re.sub(r",\s*(?=[\])}])", "", value))),
    ("there is one comma too many", _value(lambda value: re.sub(r"(?<=[\[({])\s*,", "", value))),
    ("a quote is not closed", _value(_quotes_closed)),
    ("its brackets do not match", _value(_closed)),
    ("a list is written in [ ]", _value(lambda value: re.sub(r"^\((.*)\)$", r"[\1]", _closed(value)))),
    ("a key is written with dots", _key(lambda key: re.sub(r"\[['\"]?([^]'\"]+)['\"]?\]", r".\1", key))),
    ("there is one dot too many", _key(lambda key: re.sub(r"\.\.+", ".", key).strip("."))),
    ("a key has no spaces", _key(lambda key: re.sub(r"\s+", ".", key.strip()))),
)
"""Repairs to try on an argument that does not parse, in this order, each with the mistake it corrects."""
