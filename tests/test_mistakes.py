"""Messages about mistakes: what was given, what is allowed, and a corrected command, all in one message."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Command, Refused
from labrun import mistakes
from labrun.mistakes import flags, grammar
from labrun.mistakes.mistake import mended
from labrun.warm import client, session

FOREIGN = (
    "mismatched",
    "extraneous",
    "no viable",
    "LexerNoViable",
    "missing EQUAL",
    "usage:",
    "hydra.cc",
    "To append",
    "not in struct",
    "full_key",
    "HYDRA_FULL_ERROR",
    "Traceback",
    "invalid choice",
    "unrecognized",
)
"""Words of Hydra, of its parser and of argparse."""

WORDS = {
    "seed=1, 2": "seed=1,2",
    "seed=1 , 2": "seed=1,2",
    "seed=[1, 2]": "'seed=[1,2]'",
    "notes={a: 1, b: 2}": "'notes={a:1,b:2}'",
    "seed= 1": "seed=1",
    "seed =1": "seed=1",
    "seed = 1": "seed=1",
    "seed=1,": "seed=1",
    "seed=,1": "seed=1",
    "seed=1,,2": "seed=1,2",
    "seed=[1,2": "'seed=[1,2]'",
    "seed=[1,2]]": "'seed=[1,2]'",
    "notes={a:1": "'notes={a:1}'",
    "seed=(1,2)": "'seed=[1,2]'",
    "notes='\"x y'": "'notes=\"x y\"'",
    "seed==1": "seed=1",
    "seed:=1": "seed=1",
    "seed+=1": "seed=1",
    "seed:3": "seed=3",
    "seed 3": "seed=3",
    "'model[tol]=1'": "model.tol=1",
    "model..tol=1": "model.tol=1",
    "notes=\u201cx\u201d": "'notes=\"x\"'",
    "notes=first try": "'notes='\"'\"'first try'\"'\"''",
    "run seed=1": "seed=1",
    "mnist_dnn": "model=mnist_dnn",
    "model/mnist_dnn": "model=mnist_dnn",
    "\u2014multirun seed=1,2": "--multirun seed=1,2",
    "evaluate": "task=evaluate from=last",
    "=x": None,
    "seed=range(a,b)": None,
    "logs": None,
    "train.py": None,
    "1x=2": None,
}


@pytest.mark.parametrize("line", WORDS)
def test_a_correction_is_suggested_for_an_unparsable_argument(line: str, workspace: Path) -> None:
    words = shlex.split(line)
    found = grammar.check(words, flags.split_words(words).overrides)
    assert len(found) == 1, found
    assert words[0][:4].rstrip("=") in found[0].text.replace("\\u2014", "\u2014")
    assert not any(foreign in found[0].text for foreign in FOREIGN)
    new = mended(found, words)
    assert (None if new is None else shlex.join(new)) == WORDS[line]


COMMANDS = {
    "modle=mnist_dnn": ("modle: no such key. Did you mean 'model=mnist_dnn'?", "model=mnist_dnn"),
    "lr=0.1": ("Choose a network that has it: model=mnist_dnn model.lr=0.1", "model=mnist_dnn model.lr=0.1"),
    "model=mnist_dnn lr=0.1": ("Did you mean 'model.lr'?", "model=mnist_dnn model.lr=0.1"),
    "model.lr=0.1": ("model=logistic_regression has no such key", "model=mnist_dnn model.lr=0.1"),
    "optimizer=adam": ("Choose a network that has one", "model=mnist_dnn model/optimizer=adam"),
    "model=mnist_dnn model.optimizer=adam": ("chosen with slashes", "model=mnist_dnn model/optimizer=adam"),
    "-m model=mnist_dnn model.optimizer=adam,adamw": (
        "chosen with slashes",
        "-m model=mnist_dnn model/optimizer=adam,adamw",
    ),
    "dataset=cifar": (
        "there is no dataset 'cifar'. Did you mean 'cifar10'? There are: cifar10, csv",
        "dataset=cifar10",
    ),
    "model=": ("there is nothing after the '='", None),
    "epochs=3": ("Did you mean 'trainer.max_epochs'?", "trainer.max_epochs=3"),
    "patience=5": ("callbacks.early_stopping.patience", "callbacks=early_stopping callbacks.early_stopping.patience=5"),
    "+seed=3": ("so leave out the '+'", "seed=3"),
    "seed=1,2": ("gives several values to one run", "-m seed=1,2"),
    "-m modle=mnist_dnn,cifar10_cnn": ("no such key", "-m model=mnist_dnn,cifar10_cnn"),
    "seed=1, 2": ("the shell splits words at spaces", "-m seed=1,2"),
    "seed=[1, 2]": ("expected a whole number", None),
    "seed=null": ("seed=null: expected a whole number", None),
    "'model.x=$y'": ("model.x: no such key. Keys of model: _target_, name", None),
    "'seed=$y'": ("The shell has not replaced $y", None),
    "'seed=${y}'": ("a variable of the environment is ${oc.env:y}", None),
    "'seed=${oc.env:NOT_SET}'": ("seed: the environment variable NOT_SET is not set on this machine", None),
    "'hydra.run.dir=${oc.env:NOT_SET}'": ("labrun: the environment variable NOT_SET is not set", None),
    "seed=": ("is a shell variable empty?", None),
    "--model x": ("set without dashes, as in model=x", None),
    "--lr 0.1": ("set without dashes", "model=mnist_dnn model.lr=0.1"),
    "-model=mnist_dnn": ("set without dashes", "model=mnist_dnn"),
    "--verison": ("Did you mean '--version'?", "--version"),
    "--cfg jobb": ("expected one of job, hydra, all", None),
    "--resolve": ("--resolve goes with --cfg", None),
    "--config-dir nowhere": ("there is no such folder", None),
    "modle=mnist_dnn --help": ("no such key", "model=mnist_dnn --help"),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_mistake_is_one_message_with_the_corrected_command(line: str, labrun_here: Command, workspace: Path) -> None:
    said, typed = COMMANDS[line]
    done = labrun_here(*shlex.split(line))
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert done.stderr.startswith("labrun: ") and done.stderr.count("labrun: ") == 1 and said in done.stderr, (
        done.stderr
    )
    assert not any(foreign in done.stderr for foreign in FOREIGN), done.stderr
    offered = [text.removeprefix("  Type: labrun ") for text in done.stderr.splitlines() if "  Type: " in text]
    assert offered == ([] if typed is None else [typed])
    assert list(workspace.rglob("run.json")) == []


def test_flags_may_stand_between_overrides(labrun_here: Command) -> None:
    shown = labrun_here("seed=3", "--cfg", "job", "model.tol=0.5")
    assert shown.returncode == 0 and "seed: 3" in shown.stdout and "tol: 0.5" in shown.stdout


def test_a_suggested_command_composes_with_a_users_own_configs(labrun_here: Command, workspace: Path) -> None:
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "mine.yaml").write_text("defaults: [mnist_dnn]\nunits: 3\n")
    done = labrun_here("model=mien", "units=4")
    assert "Did you mean 'mine'?" in done.stderr and "Type: labrun model=mine model.units=4" in done.stderr, done.stderr


def test_an_argument_missing_in_a_config_is_suggested_with_a_plus(labrun_here: Command, workspace: Path) -> None:
    (workspace / "mine.py").write_text("class Net:\n    def __init__(self, learning_rate=0.1):\n        pass\n")
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "mine.yaml").write_text("_target_: mine.Net\n")
    done = labrun_here("model=mine", "model.learning_rate=0.02")
    assert "model=mine takes it" in done.stderr and "'+model.learning_rate=0.02'" in done.stderr, done.stderr


def test_configs_of_a_parent_folder_are_named(
    labrun_here: Command, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "conf" / "experiment").mkdir(parents=True)
    (workspace / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    (workspace / "below").mkdir()
    monkeypatch.chdir(workspace / "below")
    told = labrun_here("experiment=mine").stderr
    assert f"There is one in {workspace / 'conf'}, but that applies only to commands run in {workspace}" in told


def test_the_version_is_labruns_and_needs_no_hydra(
    labrun_here: Command, lab_here: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        labrun_here("--version").stdout.split()[0] == "labrun" and lab_here("--version").stdout.split()[0] == "labrun"
    )
    monkeypatch.setattr(client, "_command", lambda module: pytest.fail("nothing is loaded for it"))
    monkeypatch.setattr(sys, "argv", ["labrun", "--version"])
    client.labrun()
    assert capfd.readouterr().out.startswith("labrun ")


def test_a_command_skips_the_teardown_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's native libraries would report leaks, which hide the command's own output."""
    left: list[object] = []
    monkeypatch.setattr(session, "leave", lambda end: left.append(end.code))

    def fail() -> None:
        sys.exit(2)

    def stumble() -> None:
        raise ValueError

    monkeypatch.setitem(sys.modules, "torch", sys)
    client.run_and_exit(fail)
    assert left == [2]
    client.run_and_exit(stumble)
    assert left == [2, 1] and "ValueError" in capfd.readouterr().err
    client.run_and_exit(lambda: None)
    assert left == [2, 1, 0]
    monkeypatch.delitem(sys.modules, "torch")
    client.run_and_exit(lambda: None)
    assert left == [2, 1, 0]
    with pytest.raises(SystemExit):
        client.run_and_exit(fail)


def test_output_of_native_code_is_flushed_on_exit() -> None:
    code = "import ctypes; from labrun.warm import session; ctypes.CDLL(None).printf(b'native')"
    done = subprocess.run([sys.executable, "-c", f"{code}; session.leave(SystemExit(3))"], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"native", b"")


@pytest.mark.parametrize(
    "word, told",
    [
        ("lr=half(1)", "there is no function half(); there are bool, choice, "),
        ("lr=[choice('half(1)', half(1))]", "there is no function half(); there are bool, choice, "),
        ("lr=int(a)", "ValueError while evaluating 'int(a)': invalid literal"),
        ("lr=interval(1)", "TypeError while evaluating 'interval(1)': missing a required argument"),
        ("lr=range(1,stop=2,3)", "the value cannot be read. Allowed are "),
        ("lr={x", "its brackets do not match. Allowed are "),
    ],
)
def test_a_function_that_fails_is_told_from_a_value_that_does_not_parse(word: str, told: str) -> None:
    (found,) = grammar.check([word], [0])
    assert told in found.text


def test_hydras_messages_are_shortened() -> None:
    try:
        raise ValueError("Key 'x' is not in struct\n    full_key: x\n    object_type=dict")
    except ValueError as error:
        text = mistakes.in_short(error)
    assert text == "Key 'x' is not in struct"


def test_an_experiment_with_groups_of_another_project_is_explained(workspace: Path, refused_here: Refused) -> None:
    (workspace / "conf" / "experiment").mkdir(parents=True)
    (workspace / "conf" / "experiment" / "theirs.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: mnist\n  - override /model: mnist_dnn\n"
    )
    said = refused_here("experiment=theirs", "seed=3")
    assert (
        "in experiment/theirs: 'override /data': there is no group 'data'" in said and "Did you mean 'dataset'?" in said
    )


def test_the_file_that_names_a_missing_option_is_named(workspace: Path, refused_here: Refused) -> None:
    (workspace / "conf" / "model" / "scheduler").mkdir(parents=True)
    (workspace / "conf" / "model" / "scheduler" / "step.yaml").write_text("step_size: 3\n")
    (workspace / "conf" / "model" / "mine.yaml").write_text("defaults:\n  - scheduler: steps\n")
    said = refused_here("model=mine")
    assert "in model/mine: there is no model/scheduler 'steps'. Did you mean 'step'?" in said
