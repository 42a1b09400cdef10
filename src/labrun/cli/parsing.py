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
"""Names that other tools use for actions."""
OTHER_COMMANDS = pairs(
    "run:runs experiment:runs experiments:runs job:runs jobs:runs history:runs dataset:data datasets:data "
    "datastore:data asset:data assets:data model:models registry:models target:compute machines:compute "
    "cluster:compute mlflow:ui dashboard:ui"
)
"""Names that other tools use for commands."""
OF_NAMED_RUNS = ("rm", "cancel", "compare", "export", "tag", "note")
"""Actions of `lab runs` without a default run."""
FIRST = ("runs", "data", "models", "compute", "warm")
"""Commands in the order of preference for an action that several of them have."""


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
    """The commands, or the actions of a command. The parser of each is built when it is called, or named in a mistake.

    `add_subparsers` takes such a class, but argparse's own, which knows how to call a subparser, is private.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.choices = self._name_parser_map = _Built()  # type: ignore[assignment]

    def add(self, name: str, help: str, **options: Any) -> Deferred:
        """Add a command.

        Args:
            name: of the command or action.
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
        parser: the parser of the command or action.
        message: the message of argparse.
    """

    def __init__(self, parser: argparse.ArgumentParser, message: str) -> None:
        super().__init__(message)
        self.prog, self.message = parser.prog, message


def refuse(top: argparse.ArgumentParser, arguments: Sequence[str], error: WrongError) -> NoReturn:
    """Report a mistake in one message, and exit with code 2.

    Args:
        top: the parser, with all commands and actions.
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
    _end(words.unknown_arguments(words.deepest(), rest))


def refuse_nothing(commands: Sequence[str] | Mapping[str, str]) -> NoReturn:
    """As `refuse`, for a command line without a command."""
    _end(f"name a command: {', '.join(f'lab {command}' for command in commands)}. lab --help says more")


def _end(text: str) -> NoReturn:
    sys.stderr.write(f"{text}\n" if text.startswith("lab ") else f"lab: {text}\n")
    sys.exit(USER_ERROR)


def subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the subparsers of a parser by name: the commands, or the actions of a command."""
    for argument in _arguments(parser):
        if isinstance(argument, Commands):
            return dict(argument.choices)
    return {}


def _arguments(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """Return the options and positional arguments of a parser; argparse has no public list of them."""
    return parser._actions


class Words:
    """A command line of `lab` with a mistake, and its possible corrections.

    Args:
        top: the parser, with all commands and actions.
        arguments: the command-line arguments.
    """

    def __init__(self, top: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
        self.top, self.arguments = top, list(arguments)
        self.actions = {command: list(subparsers(parser)) for command, parser in subparsers(top).items()}

    def deepest(self) -> argparse.ArgumentParser:
        """Return the parser of the command or action in the arguments."""
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
        """Return labrun's message for a message of argparse.

        argparse passes only text to `Parser.error`. Its ArgumentError has the argument's name, but the refused value
        and the choices are in its text alone, and there is none for a missing argument.
        """
        if match := re.match(r"argument (COMMAND|ACTION): invalid choice: '(.*?)' \(choose from", message, re.DOTALL):
            return self._unknown_command(match[2]) if match[1] == "COMMAND" else self._unknown_action(parser, match[2])
        if message.startswith("the following arguments are required: ACTION"):
            return f"name an action: {self._listed(parser)}. {parser.prog} --help says more"
        if match := re.match(r"the following arguments are required: (.*)", message):
            return f"{parser.prog}: {match[1]} is missing. {_usage(parser)}"
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

    def _unknown_command(self, word: str) -> str:
        """Return the message for an unknown command: a typo, or an action or argument of another command."""
        problem = f"there is no 'lab {word}'"
        commands = f"There are {', '.join(f'lab {command}' for command in self.actions)}"
        rest = self._rest(word)
        if word == "help":
            return f"{problem}. Did you mean 'lab --help'?"
        if word == "version":
            return f"{problem}. Did you mean 'lab --version'?"
        if "=" in word or word in ("train", "fit", "sweep", "submit"):
            corrected = shlex.join(["labrun", *(one for one in [word, *rest] if "=" in one or one == "-m")])
            return f"{problem}: experiments are run by labrun. Did you mean '{corrected}'?"
        command = OTHER_COMMANDS.get(word) or next(
            iter(difflib.get_close_matches(word, list(self.actions), 1, 0.7)), None
        )
        action = SYNONYMS.get(word, word)
        having = [one for one in FIRST if action in self.actions.get(one, ())]
        first = rest[0] if rest else ""
        if having and (first in self.actions or OTHER_COMMANDS.get(first) in self.actions):  # lab ls models
            command, rest = OTHER_COMMANDS.get(first, first), [action, *rest[1:]]
        elif command is None and word == "status":
            return f"{problem}. Did you mean 'lab runs'? 'lab compute status' shows free resources. {commands}"
        elif command is None and having:
            corrections = [self._corrected(word, [one, action, *rest]) for one in having]
            return f"{problem}. Did you mean {' or '.join(map(repr, corrections))}? {commands}"
        if command is None:
            alike = [
                (one, v)
                for one in FIRST
                for v in self.actions.get(one, ())
                if difflib.get_close_matches(word, [v], 1, 0.75)
            ]
            if alike:
                corrections = [self._corrected(word, [*pair, *rest]) for pair in alike[:2]]
                return f"{problem}. Did you mean {' or '.join(map(repr, corrections))}? {commands}"
            return f"{problem}. {commands}"
        return f"{problem}. Did you mean {self._corrected(word, [command, *self._mended(command, rest)])!r}? {commands}"

    def _mended(self, command: str, rest: Sequence[str]) -> list[str]:
        """Return the arguments after a command, with a synonym replaced by its action."""
        if rest and rest[0] not in self.actions[command] and SYNONYMS.get(rest[0]) in self.actions[command]:
            return [SYNONYMS[rest[0]], *rest[1:]]
        return list(rest)

    def _corrected(self, word: str, words: Sequence[str]) -> str:
        """Return the corrected command for one with an unknown word. Missing arguments are in capitals."""
        parser: argparse.ArgumentParser = self.top
        for one in words:
            parser = subparsers(parser).get(one, parser)
        arguments = [one for one in words[2:] if not one.startswith("-")]
        needed = [text for text, _ in _required(parser)][len(arguments) :]
        needed += ["RUN"] if words[0] == "runs" and words[1:2] and words[1] in OF_NAMED_RUNS and not arguments else []
        return " ".join([shlex.join(["lab", *self._before(word), *words]), *needed])

    def _unknown_action(self, parser: argparse.ArgumentParser, word: str) -> str:
        """Return the message for an unknown action."""
        command = parser.prog.split()[-1]
        problem = f"there is no '{parser.prog} {word}'"
        actions = self.actions[command]
        action = SYNONYMS.get(word)
        near = action if action in actions else next(iter(difflib.get_close_matches(word, actions, 1, 0.6)), None)
        if near is not None:
            corrected = self._corrected(word, [command, near, *self._rest(word)])
            return f"{problem}. Did you mean {_without_repetition(corrected, command)!r}? Actions: {', '.join(actions)}"
        if "show" in actions and _is_there(command, word):
            return f"{problem}. Did you mean 'lab {command} show {word}'? Actions: {', '.join(actions)}"
        commands = [one for one in FIRST if word in self.actions.get(one, ())]
        hint = f" Did you mean 'lab {commands[0]} {word}'?" if commands else ""
        return f"{problem}.{hint} Actions: {', '.join(actions)}"

    def _listed(self, parser: argparse.ArgumentParser) -> str:
        return ", ".join(f"{parser.prog} {action}" for action in subparsers(parser))

    def unknown_arguments(self, parser: argparse.ArgumentParser, rest: Sequence[str]) -> str:
        """Return the message for unknown options or superfluous arguments."""
        option = next((word for word in rest if word.startswith("-") and word != "-"), None)
        if option is None:
            return f"{parser.prog}: {' '.join(rest)!r} is not expected. {_usage(parser)}"
        name = option.partition("=")[0]
        problem = f"{'' if parser is self.top else f'{parser.prog}: '}there is no option {name}"
        options = [text for argument in _arguments(parser) for text in argument.option_strings]
        above = {text for argument in _arguments(self.top) for text in argument.option_strings} - set(options)
        if name in above:
            return f"{name} comes before the command: lab {name} ... {parser.prog.removeprefix('lab ')} ..."
        having = self._that_has(name)
        hint = _near(name, options, 0.6) or (f" 'lab {having}' has it." if having else "")
        shown = [text for text in options if text.startswith("--")] or options
        return f"{problem}.{hint} Options: {', '.join(shown)}"

    def _that_has(self, name: str) -> str | None:
        for command, parser in subparsers(self.top).items():
            for action, inner in subparsers(parser).items():
                if any(name in argument.option_strings for argument in _arguments(inner)):
                    return f"{command} {action}"
        return None


def _is_there(command: str, word: str) -> bool:
    """Whether a word is a reference to an existing run or registered model."""
    from labrun.control import query
    from labrun.runs import model_journal, store

    try:
        if command == "runs":
            return bool(query.named(store.workspace(), word))
        return command == "models" and bool(model_journal.find(store.workspace(), word))
    except (LabrunError, OSError):
        return False


def _without_repetition(corrected: str, command: str) -> str:
    return corrected.replace(f"lab {command} {command} ", f"lab {command} ", 1)


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Move `--root FOLDER` and `--debug` to the front, so that they may also be typed after the command."""
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
    """Yield the required arguments of a command as in a usage line, positional first, each with argparse's object."""
    for argument in _arguments(parser):
        if not argument.option_strings and argument.nargs in (None, "+") and not isinstance(argument, Commands):
            yield str(argument.metavar or argument.dest).upper(), argument
    for argument in _arguments(parser):
        if argument.option_strings and argument.required:
            yield f"{argument.option_strings[-1]} {argument.metavar or argument.dest.upper()}", argument


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a command in one line: its words and required arguments."""
    required = {id(argument): text for text, argument in _required(parser)}
    words = [parser.prog]
    for argument in sorted(_arguments(parser), key=lambda one: bool(one.option_strings)):
        if id(argument) in required:
            words.append(required[id(argument)])
        elif not argument.option_strings and argument.nargs in ("?", "*"):
            words.append(f"[{argument.metavar or argument.dest}]")
    return f"Say {' '.join(words)}" + ("" if len(words) > 1 else f" without more words; {parser.prog} --help")


def _value_of(parser: argparse.ArgumentParser, names: str) -> str:
    for argument in _arguments(parser):
        if names.split("/")[0] in argument.option_strings:
            what = (
                "|".join(map(str, argument.choices))
                if argument.choices
                else str(argument.metavar or argument.dest).upper()
            )
            return f"{argument.option_strings[-1]} {what}"
    return names


def _near(word: str, choices: Sequence[str], cutoff: float = 0.5) -> str:
    found = difflib.get_close_matches(word, list(choices), 1, cutoff)
    return f" Did you mean {found[0]!r}?" if found else ""
