"""The command `lab`: everything before and after a run. One module per command."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from labrun import terminal, version
from labrun.cli import parsing
from labrun.compose import paths
from labrun.config import masking
from labrun.errors import LabrunError
from labrun.runs import store

USER_ERROR = 2
CANCELED = 130


COMMANDS = {
    "runs": "list, inspect, compare and control runs",
    "data": "upload, download and inspect data; datastores and assets",
    "compute": "compute targets and their free resources",
    "remote": "manage the SSH machines that compute.host names",
    "shell": "open a shell in a run's folder, with its environment, on its node; forward its ports",
    "models": "registered models",
    "azureml": "run scripts and notebooks of the Azure ML SDK v1 that submit runs",
    "warm": "the warm interpreter, which makes commands start faster",
    "ui": "show runs and models in the MLflow UI, updated live",
}
"""The commands, each with its help text. Each is also the name of its module."""
TAKES_COMMAND = "shell"
"""The command that takes a user's command after `--`."""


EXAMPLES = """examples:
  lab runs                            the runs of this workspace, newest first
  lab runs show last                  everything about the newest run
  lab runs compare last best:accuracy compare two runs
  lab runs watch                      follow the newest run or sweep
  lab ui                              every run in the browser, with plots
  lab compute status                  free resources of this machine and the cluster

'lab COMMAND --help' lists the actions of a command. The documentation is the folder docs/ of labrun's repository.
"""


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line. The module of a command is loaded when the command is called."""
    top = parsing.Parser(prog="lab", description="Inspect and manage runs, data, models and machines.", epilog=EXAMPLES)
    top.add_argument("--version", action="store_true", help="show labrun's version")
    top.add_argument(
        "--root",
        type=Path,
        help="the workspace: the folder that holds outputs/ and multirun/ "
        "(default: LABRUN_ROOT, or the current folder, or the nearest parent folder with runs)",
    )
    top.add_argument("--debug", action="store_true", help="show the traceback behind a message")
    commands = top.add_commands(title="commands", metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add(name, help=text).then(functools.partial(_fill, name))
    return top


def _fill(name: str, command: argparse.ArgumentParser) -> None:
    importlib.import_module(f"labrun.cli.{name}").fill(command)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. Positional arguments may come before and after options.

    Raises:
        SystemExit: the command line has a mistake, which is reported in one message.
    """
    arguments = parsing.hoisted(arguments)
    top, after = parser(), []
    if _named_command(arguments) == TAKES_COMMAND and "--" in arguments:
        at = arguments.index("--")
        arguments, after = arguments[:at], arguments[at + 1 :]
    try:
        options, rest = top.parse_known_args(arguments)
    except parsing.WrongError as error:
        parsing.refuse(top, arguments, error)
    words = next((getattr(options, name) for name in ("words", "run") if hasattr(options, name)), None)
    if rest and (not isinstance(words, list) or any(word.startswith("-") for word in rest)):
        parsing.refuse_rest(top, arguments, rest)
    if isinstance(words, list):
        words += rest
    if after:
        options.command = after
    return options


def _named_command(arguments: Sequence[str]) -> str | None:
    """Return the first command in the arguments. The value of `--root` is none, whatever its name."""
    words = iter(arguments)
    for word in words:
        if word == "--root":
            next(words, None)
        elif word in COMMANDS:
            return word
    return None


def _find_above() -> None:
    """In a subfolder of a workspace, use that workspace."""
    with contextlib.suppress(OSError):  # the folder may be gone
        found = store.above(Path.cwd())
        if found is not None:
            os.environ[store.ROOT_VARIABLE] = str(found)
            paths.set_home(None if Path("conf").is_dir() else found)
            sys.stderr.write(f"lab: in the workspace {found}\n")


def main() -> None:
    """Run the command `lab`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    with terminal.guarded():
        _main()


def _main() -> None:
    options = parse(sys.argv[1:])
    if options.version:
        print(version.text())
        return
    if not hasattr(options, "act"):
        parsing.refuse_nothing(COMMANDS)
    with contextlib.suppress(OSError):  # the folder may be gone
        if str(Path.cwd()) not in sys.path:  # last, as in `labrun`; a rerun imports the user's modules
            sys.path.append(str(Path.cwd()))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    paths.set_home(None)
    if options.root is not None:
        if not options.root.is_dir():
            sys.stderr.write(f"lab: --root {options.root}: there is no such folder\n")
            sys.exit(USER_ERROR)
        os.environ[store.ROOT_VARIABLE] = str(options.root.resolve())
    elif store.ROOT_VARIABLE not in os.environ:
        _find_above()
    try:
        code = options.act(options)
        sys.stdout.flush()
        sys.exit(code)
    except LabrunError as error:
        if options.debug:
            sys.stderr.write(terminal.lines(masking.masked("".join(traceback.format_exception(error)))))
            sys.exit(USER_ERROR)
        sys.stderr.write(f"lab: {masking.masked(str(error))}\n")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(CANCELED)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            where = f"{error.filename}: " if error.filename else ""
            sys.stderr.write(f"lab: {where}{error.strerror or error}. Another workspace: lab --root FOLDER\n")
            sys.exit(1)
        # `lab ... | head`: the reader has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
