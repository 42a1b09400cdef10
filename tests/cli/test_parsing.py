"""Messages of `lab` about an invalid command line: one message, with the options and what to type."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from conftest import Command
from labrun import cli
from labrun.cli import parsing

MISTAKES = {
    "": "name a command: lab runs, lab data",
    "logs": "Did you mean 'lab runs logs'?",
    "logs last -f": "Did you mean 'lab runs logs last -f'?",
    "status": "Did you mean 'lab runs'? 'lab compute status' shows free resources",
    "run ls": "Did you mean 'lab runs ls'?",
    "list": "Did you mean 'lab runs ls' or 'lab data ls'",
    "ls models": "Did you mean 'lab models ls'?",
    "rm": "Did you mean 'lab runs rm RUN' or 'lab data rm ASSET[@VERSION]|PATH' or 'lab models rm MODEL'?",
    "register last": "Did you mean 'lab models register last --name NAME'?",
    "model=mnist_dnn -m": "Did you mean 'labrun model=mnist_dnn -m'?",
    "frobnicate": "there is no 'lab frobnicate'. There are lab runs, lab data, lab compute",
    "runs log": "Did you mean 'lab runs logs'? Actions: ls, show, logs",
    "runs delete abc": "Did you mean 'lab runs rm abc'?",
    "runs --foo": "lab runs: there is no option --foo. Options: --help, --experiment",
    "runs ls --statsu failed": "Did you mean '--status'?",
    "runs --status runing": "--status 'runing': expected one of queued, running",
    "runs --status": "--status  needs a value: --status queued|running",
    "runs -n x": "'x' is not a whole number from 1 on",
    "data": "name an action: lab data upload, lab data download",
    "data ls a b": "'b' is not expected. Say lab data ls [FOLDER]",
    "models register": "RUN, --name is missing. Say lab models register RUN [FILE] --name NAME",
    "models list": "Did you mean 'lab models ls'?",
    "compute foo": "there is no 'lab compute foo'. Actions: ls, status",
    "ui --port": "--port  needs a value: --port N",
    "--foo": "lab: there is no option --foo",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_refused_in_one_message(line: str, lab_here: Command) -> None:
    done = lab_here(*shlex.split(line))
    assert done.returncode == 2 and done.stdout == ""
    assert MISTAKES[line] in done.stderr and done.stderr.startswith("lab") and done.stderr.count("\n") == 1, done.stderr
    assert not any(word in done.stderr for word in ("usage:", "invalid choice", "unrecognized", "lab: lab"))


def test_the_option_root_may_follow_the_command(lab_here: Command) -> None:
    assert lab_here("runs", "--root", ".").stdout.startswith("no runs in")


def test_a_folder_may_have_the_name_of_a_command(lab_here: Command) -> None:
    Path("data").mkdir()
    assert lab_here("runs", "ls", "--root", "data").stdout.startswith("no runs in")


def test_only_the_parser_of_the_command_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    init = parsing.Parser.__init__

    def noted(parser: parsing.Parser, **options: object) -> None:
        init(parser, **options)
        built.append(parser.prog)

    monkeypatch.setattr(parsing.Parser, "__init__", noted)
    cli.parse(["runs", "ls"])
    assert built == ["lab", "lab runs", "lab runs ls"]
