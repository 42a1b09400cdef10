"""Parser of `lab`'s command line. Each mistake is reported in one message with what is allowed and what to type."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast

from labrun.config.checking import pairs
from labrun.errors import LabrunError

USER_ERROR = 2
SYNONYMS = pairs(
    "list:ls log:logs delete:rm remove:rm del:rm stop:cancel kill:cancel abort:cancel info:show get:show "
    "describe:show cat:logs tail:logs metric:metrics plot:metrics diff:compare cp:download pull:download "
    "push:upload put:upload follow:watch attach:watch retry:rerun restart:rerun clean:gc prune:gc "
    "archive:export serve:show ps:ls annotate:note file:files"
)
"""Names that other tools use for verbs."""
OTHER_NOUNS = pairs(
    "run:runs experiment:runs experiments:runs job:runs jobs:runs history:runs dataset:data datasets:data "
    "datastore:data asset:data assets:data model:models registry:models target:compute machines:compute "
    "cluster:compute mlflow:ui dashboard:ui"
)
"""Names that other tools use for nouns."""
OF_NAMED_RUNS = ("rm", "cancel", "compare", "export", "tag", "note")
"""Verbs of `lab runs` without a default run."""
FIRST = ("runs", "data", "models", "compute", "warm")
"""Nouns in the order of preference for a verb that several of them have."""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help formatter that lists subcommands without a line for their metavar. argparse has no public method for it."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, Commands):
            return super()._format_action(action)
        return "".join(super(Help, self)._format_action(one) for one in action._get_subactions())


class Parser(argparse.ArgumentParser):
    """Parser that raises a `WrongError` for a mistake, instead of exiting. Its subparsers have the same class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": Help, **options})

    def add_commands(self, title: str, metavar: str, required: bool = False) -> Commands:
        """As `add_subparsers`, but each parser is built when its command is called."""
        return cast(Commands, self.add_subparsers(action=Commands, title=title, metavar=metavar, required=required))

    def error(self, message: str) -> NoReturn:
        """Raise a `WrongError`.

        Args:
            message: the message of argparse.

        Raises:
            WrongError: always.
        """
        raise WrongError(self, message)


class Deferred:
    """A parser that is built when its command is called: building all of them costs more than `lab runs` itself.

    Args:
        build: builds the parser without arguments.
    """

    def __init__(self, build: Callable[[], argparse.ArgumentParser]) -> None:
        self._build = build
        self._steps: list[Callable[[argparse.ArgumentParser], object]] = []

    def then(self, step: Callable[[argparse.ArgumentParser], object]) -> None:
        """Call a function with the parser when it is built, after the earlier steps."""
        self._steps.append(step)

    def add_argument(self, *names: str, **options: Any) -> None:
        """As argparse's method, when the parser is built."""
        self.then(lambda parser: parser.add_argument(*names, **options))

    def set_defaults(self, **values: Any) -> None:
        """As argparse's method, when the parser is built."""
        self.then(lambda parser: parser.set_defaults(**values))

    def built(self) -> argparse.ArgumentParser:
        """Build the parser."""
        parser = self._build()
        for step in self._steps:
            step(parser)
        return parser


class _Built(UserDict[str, Any]):
    """Parsers by name, each of which is built when it is first taken."""

    def __getitem__(self, name: str) -> argparse.ArgumentParser:
        parser: Deferred | argparse.ArgumentParser = self.data[name]
        if isinstance(parser, Deferred):
            parser = self.data[name] = parser.built()
        return parser


class Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """The nouns, or the verbs of a noun. The parser of each is built when it is called, or named in a mistake.

    `add_subparsers` takes such a class, but argparse's own, which knows how to call a subparser, is private.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.choices = self._name_parser_map = _Built()  # type: ignore[assignment]

    def add(self, name: str, help: str, **options: Any) -> Deferred:
        """Add a command.

        Args:
            name: its noun or verb.
            help: its line in the help of the parser above, and the first sentence of its own help.
            options: further arguments of the parser.
        """
        options.setdefault("description", f"{help[0].upper()}{help[1:]}.")
        self._choices_actions.append(self._ChoicesPseudoAction(name, (), help))
        parser = Deferred(lambda: self._parser_class(prog=f"{self._prog_prefix} {name}", **options))
        self._name_parser_map[name] = parser
        return parser


class WrongError(Exception):
    """A mistake, and the parser that found it.

    Args:
        parser: the parser of the noun or verb.
        message: the message of argparse.
    """

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        super().__init__(message)
        self.prog, self.message = parser.prog, message


def refuse(top: argparse.ArgumentParser, arguments: Sequence[str], error: WrongError) -> NoReturn:
    """Report a mistake in one message, and exit with code 2.

    Args:
        top: the parser, with all nouns and verbs.
        arguments: the command-line arguments.
        error: the mistake.

    Raises:
        SystemExit: always.
    """
    words = Words(top, arguments)
    _end(words.explain(words.called(error.prog), error.message))


def refuse_rest(top: argparse.ArgumentParser, arguments: Sequence[str], rest: Sequence[str]) -> NoReturn:
    """As `refuse`, for arguments that no parser accepts."""
    words = Words(top, arguments)
    _end(words.explain(words.deepest(), f"unrecognized arguments: {' '.join(rest)}"))


def refuse_nothing(nouns: Sequence[str] | Mapping[str, str]) -> NoReturn:
    """As `refuse`, for a command without a noun."""
    _end(f"name a command: {', '.join(f'lab {noun}' for noun in nouns)}. lab --help says more")


def _end(text: str) -> NoReturn:
    sys.stderr.write(f"{text}\n" if text.startswith("lab ") else f"lab: {text}\n")
    sys.exit(USER_ERROR)


def subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the subparsers of a parser by name: the nouns, or the verbs of a noun."""
    for action in _actions(parser):
        if isinstance(action, Commands):
            return dict(action.choices)
    return {}


def _actions(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """Return the options and positional arguments of a parser; argparse has no public list of them."""
    return parser._actions


class Words:
    """A command line of `lab` with a mistake, and its possible corrections.

    Args:
        top: the parser, with all nouns and verbs.
        arguments: the command-line arguments.
    """

    def __init__(self, top: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
        self.top, self.arguments = top, list(arguments)
        self.verbs = {noun: list(subparsers(parser)) for noun, parser in subparsers(top).items()}

    def deepest(self) -> argparse.ArgumentParser:
        """Return the parser of the noun or verb in the arguments."""
        parser = self.top
        for word in self.arguments:
            parser = subparsers(parser).get(word, parser)
        return parser

    def called(self, prog: str) -> argparse.ArgumentParser:
        """Return the parser of a command, such as `lab runs show`."""
        parser = self.top
        for word in prog.split():
            parser = subparsers(parser).get(word, parser)
        return parser

    def explain(self, parser: argparse.ArgumentParser, message: str) -> str:
        """Return labrun's message for a message of argparse, which passes its errors on only as text."""
        if match := re.match(r"argument (COMMAND|ACTION): invalid choice: '(.*?)' \(choose from", message, re.DOTALL):
            return self._noun(match[2]) if match[1] == "COMMAND" else self._verb(parser, match[2])
        if message.startswith("the following arguments are required: ACTION"):
            return f"name an action: {self._listed(parser)}. {parser.prog} --help says more"
        if match := re.match(r"the following arguments are required: (.*)", message):
            return f"{parser.prog}: {match[1]} is missing. {_usage(parser)}"
        if match := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
            return self._unknown(parser, match[1])
        if match := re.match(r"argument ([^:]+): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL):
            options = re.findall(r"'([^']*)'", match[3]) or match[3].split(", ")
            problem = f"{parser.prog}: {match[1]} {match[2]!r}: expected one of {', '.join(options)}"
            return f"{problem}.{_near(match[2], options)}"
        if match := re.match(r"argument ([^:]+): expected (one|at least one) argument", message):
            return f"{parser.prog}: {match[1]}  needs a value: {_value_of(parser, match[1])}"
        if match := re.match(r"argument ([^:]+): (.*)", message, re.DOTALL):
            return f"{parser.prog}: {match[1]}: {match[2]}"
        return f"{parser.prog}: {message}"

    def _rest(self, word: str) -> list[str]:
        """Return the arguments after a word."""
        return self.arguments[self.arguments.index(word) + 1 :] if word in self.arguments else []

    def _before(self, word: str) -> list[str]:
        """Return the arguments before a word, which are options of `lab` itself."""
        return self.arguments[: self.arguments.index(word)] if word in self.arguments else []

    def _noun(self, word: str) -> str:
        """Return the message for an unknown noun: a verb without its noun, a typo, or an argument of `labrun`."""
        problem = f"there is no 'lab {word}'"
        nouns = f"There are {', '.join(f'lab {noun}' for noun in self.verbs)}"
        rest = self._rest(word)
        if word == "help":
            return f"{problem}. Did you mean 'lab --help'?"
        if word == "version":
            return f"{problem}. Did you mean 'lab --version'?"
        if "=" in word or word in ("train", "fit", "sweep", "submit"):
            command = shlex.join(["labrun", *(one for one in [word, *rest] if "=" in one or one == "-m")])
            return f"{problem}: experiments are run by labrun. Did you mean '{command}'?"
        noun = OTHER_NOUNS.get(word) or next(iter(difflib.get_close_matches(word, list(self.verbs), 1, 0.7)), None)
        verb = SYNONYMS.get(word, word)
        having = [one for one in FIRST if verb in self.verbs.get(one, ())]
        first = rest[0] if rest else ""
        if having and (first in self.verbs or OTHER_NOUNS.get(first) in self.verbs):  # lab ls models
            noun, rest = OTHER_NOUNS.get(first, first), [verb, *rest[1:]]
        elif noun is None and word == "status":
            return f"{problem}. Did you mean 'lab runs'? 'lab compute status' shows free resources. {nouns}"
        elif noun is None and having:
            commands = [self._command(word, [one, verb, *rest]) for one in having]
            return f"{problem}. Did you mean {' or '.join(map(repr, commands))}? {nouns}"
        if noun is None:
            alike = [
                (one, v)
                for one in FIRST
                for v in self.verbs.get(one, ())
                if difflib.get_close_matches(word, [v], 1, 0.75)
            ]
            if alike:
                commands = [self._command(word, [*pair, *rest]) for pair in alike[:2]]
                return f"{problem}. Did you mean {' or '.join(map(repr, commands))}? {nouns}"
            return f"{problem}. {nouns}"
        return f"{problem}. Did you mean {self._command(word, [noun, *self._mended(noun, rest)])!r}? {nouns}"

    def _mended(self, noun: str, rest: Sequence[str]) -> list[str]:
        """Return the arguments after a noun, with a synonym replaced by its verb."""
        if rest and rest[0] not in self.verbs[noun] and SYNONYMS.get(rest[0]) in self.verbs[noun]:
            return [SYNONYMS[rest[0]], *rest[1:]]
        return list(rest)

    def _command(self, word: str, words: Sequence[str]) -> str:
        """Return the corrected command for one with an unknown word. Missing arguments are in capitals."""
        parser: argparse.ArgumentParser = self.top
        for one in words:
            parser = subparsers(parser).get(one, parser)
        arguments = [one for one in words[2:] if not one.startswith("-")]
        needed = [text for text, _ in _required(parser)][len(arguments) :]
        needed += ["RUN"] if words[0] == "runs" and words[1:2] and words[1] in OF_NAMED_RUNS and not arguments else []
        return " ".join([shlex.join(["lab", *self._before(word), *words]), *needed])

    def _verb(self, parser: argparse.ArgumentParser, word: str) -> str:
        """Return the message for an unknown verb."""
        noun = parser.prog.split()[-1]
        problem = f"there is no '{parser.prog} {word}'"
        verbs = self.verbs[noun]
        verb = SYNONYMS.get(word)
        near = verb if verb in verbs else next(iter(difflib.get_close_matches(word, verbs, 1, 0.6)), None)
        if near is not None:
            command = self._command(word, [noun, near, *self._rest(word)])
            return f"{problem}. Did you mean {_without_noun_twice(command, noun)!r}? Actions: {', '.join(verbs)}"
        if "show" in verbs and _is_there(noun, word):
            return f"{problem}. Did you mean 'lab {noun} show {word}'? Actions: {', '.join(verbs)}"
        nouns = [one for one in FIRST if word in self.verbs.get(one, ())]
        hint = f" Did you mean 'lab {nouns[0]} {word}'?" if nouns else ""
        return f"{problem}.{hint} Actions: {', '.join(verbs)}"

    def _listed(self, parser: argparse.ArgumentParser) -> str:
        return ", ".join(f"{parser.prog} {verb}" for verb in subparsers(parser))

    def _unknown(self, parser: argparse.ArgumentParser, rest: str) -> str:
        """Return the message for unknown options or superfluous arguments."""
        words = rest.split()
        option = next((word for word in words if word.startswith("-") and word != "-"), None)
        if option is None:
            return f"{parser.prog}: {rest!r} is not expected. {_usage(parser)}"
        name = option.partition("=")[0]
        problem = f"{'' if parser is self.top else f'{parser.prog}: '}there is no option {name}"
        options = [text for action in _actions(parser) for text in action.option_strings]
        above = {text for action in _actions(self.top) for text in action.option_strings} - set(options)
        if name in above:
            return f"{name} comes before the command: lab {name} ... {parser.prog.removeprefix('lab ')} ..."
        having = self._that_has(name)
        hint = _near(name, options, 0.6) or (f" 'lab {having}' has it." if having else "")
        shown = [text for text in options if text.startswith("--")] or options
        return f"{problem}.{hint} Options: {', '.join(shown)}"

    def _that_has(self, name: str) -> str | None:
        for noun, parser in subparsers(self.top).items():
            for verb, inner in subparsers(parser).items():
                if any(name in action.option_strings for action in _actions(inner)):
                    return f"{noun} {verb}"
        return None


def _is_there(noun: str, word: str) -> bool:
    """Whether a word is a reference to an existing run or registered model."""
    from labrun.control import query
    from labrun.runs import model_journal, store

    try:
        if noun == "runs":
            return bool(query.named(store.workspace(), word))
        return noun == "models" and bool(model_journal.find(store.workspace(), word))
    except (LabrunError, OSError):
        return False


def _without_noun_twice(command: str, noun: str) -> str:
    return command.replace(f"lab {noun} {noun} ", f"lab {noun} ", 1)


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Move `--root FOLDER` and `--debug` to the front, so that they may also be typed after the noun."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*front, *rest, word, *words]
        if word == "--debug" or word.startswith("--root="):
            front.append(word)
        elif word == "--root":
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return [*front, *rest]


def _required(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Any]]:
    """Yield the required arguments of a command as in a usage line, positional ones first, each with its action."""
    for action in _actions(parser):
        if not action.option_strings and action.nargs in (None, "+") and not isinstance(action, Commands):
            yield str(action.metavar or action.dest).upper(), action
    for action in _actions(parser):
        if action.option_strings and action.required:
            yield f"{action.option_strings[-1]} {action.metavar or action.dest.upper()}", action


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a command in one line: its words and required arguments."""
    required = {id(action): text for text, action in _required(parser)}
    words = [parser.prog]
    for action in sorted(_actions(parser), key=lambda one: bool(one.option_strings)):
        if id(action) in required:
            words.append(required[id(action)])
        elif not action.option_strings and action.nargs in ("?", "*"):
            words.append(f"[{action.metavar or action.dest}]")
    return f"Say {' '.join(words)}" + ("" if len(words) > 1 else f" without more words; {parser.prog} --help")


def _value_of(parser: argparse.ArgumentParser, names: str) -> str:
    for action in _actions(parser):
        if names.split("/")[0] in action.option_strings:
            what = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest).upper()
            return f"{action.option_strings[-1]} {what}"
    return names


def _near(word: str, choices: Sequence[str], cutoff: float = 0.5) -> str:
    found = difflib.get_close_matches(word, list(choices), 1, cutoff)
    return f" Did you mean {found[0]!r}?" if found else ""
