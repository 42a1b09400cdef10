"""Every command of the README is executed: the marks before its blocks say with what."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import Command, Refused
from helpers import lab, run_lab, run_labrun
from servers import Server

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (\w+)(?:: (\S+))? -->\n```\w+\n(.*?)```", README, re.DOTALL)


def commands(kind: str) -> list[list[str]]:
    """The argument lists of all blocks of one kind."""
    lines = [line for mark, _, text in BLOCKS if mark == kind for line in lines_of(text)]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.split()]


def lines_of(text: str) -> list[str]:
    """A block's commands; one that goes on after a backslash is one."""
    return text.replace("\\\n", " ").splitlines()


def test_every_command_block_is_marked() -> None:
    blocks = re.findall(r"(.*)\n```bash\n", README)
    assert len(blocks) == sum(1 for mark, _, _ in BLOCKS if mark not in ("file", "python")) + 1, (
        "all but the first, which is the set-up"
    )


def test_the_first_block_is_the_set_up_in_two_commands() -> None:
    first = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert [line.partition("#")[0].strip() for line in first[1].splitlines()] == [
        "pip install uv", "uv run labrun", "uv run pytest -n auto",
    ]  # fmt: skip


def sections() -> dict[str, list[str]]:
    """The commands that need nothing but what the page has, under their headings."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^##+ ", README, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"<!-- (run|lab) -->\n```bash\n(.*?)```", part, re.DOTALL)
        lines = [line for _, text in blocks for line in lines_of(text) if line.strip()]
        if lines:
            found[part.partition("\n")[0]] = lines
    return found


BEFORE = {
    "Look back": ["labrun", "labrun -m model=mnist_dnn model.lr=0.01,0.1 trainer.max_epochs=2"],
    "Registered models": ["labrun"],
}
"""Sections that look at what others have run."""


def carry_out(heading: str, folder: Path) -> None:
    """A section's commands, in a folder of its own with the files of the page."""
    for mark, name, text in BLOCKS:
        if mark == "file":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    if heading == "AutoML":  # all twenty pipelines of its first command: tests/sweep/test_automl.py
        (folder / "conf" / "local").mkdir(parents=True)
        (folder / "conf" / "local" / "default.yaml").write_text(
            "# @package _global_\nsweep:\n  max_trials: 4\nmodel:\n  folds: 2\ndataset:\n  max_samples: 500\n"
        )
    programs = {"labrun": run_labrun, "lab": run_lab}
    for line in [*BEFORE.get(heading, []), *sections()[heading]]:
        program, *arguments = shlex.split(line, comments=True)
        done = programs[program](*arguments, cwd=folder, timeout=900)
        asked = "--yes" in done.stdout and done.returncode == 1  # it lists what would go, and nobody is there to agree
        assert done.returncode == 0 or asked, (arguments, done.stdout, done.stderr)


@pytest.mark.parametrize("heading", sections())
def test_commands_that_need_nothing(heading: str, tmp_path: Path) -> None:
    """Over 15 s: every command of the page runs for real."""
    carry_out(heading, tmp_path)


def test_what_is_typed_in_python(workspace: Path) -> None:
    """Over 15 s: a new interpreter, which submits runs."""
    (text,) = (text for mark, _, text in BLOCKS if mark == "python")
    done = subprocess.run([sys.executable, "-c", text], cwd=workspace, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "completed" in done.stdout and "from-python/1" in done.stdout, done.stderr


def test_the_page_of_mlflow() -> None:
    assert commands("ui") == [["ui"]], "tests/cli/test_ui.py opens it in a browser"


def test_data_on_azure(labrun: Command, workspace: Path, real_data: Path, azurite_server: Server) -> None:
    """Over 15 s: all of CIFAR-10 goes to the server and back, and some of it is trained on."""
    (workspace / "cifar-10-batches-py").symlink_to(real_data / "cifar-10-batches-py")
    os.environ.update(azurite_server.environment)
    (text,) = (text for mark, _, text in BLOCKS if mark == "azure")
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        fast = ["trainer.batch_size=256", "trainer.limit_train_batches=40"] if program == "labrun" else []
        done = {"labrun": labrun, "lab": lambda *a: lab(workspace, *a)}[program](*arguments, *fast)
        assert done.returncode == 0, (arguments, done.stderr)
    assert "read by 2 run(s)" in done.stdout


def test_a_plain_application(workspace: Path) -> None:
    (text,) = (text for mark, name, text in BLOCKS if mark == "file" and name == "my_app.py")
    (workspace / "my_app.py").write_text(text)
    for arguments in commands("app"):
        done = subprocess.run([sys.executable, *arguments], cwd=workspace, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0 and done.stdout.count("completed") == 3, done.stderr


def test_on_slurm(labrun: Command, workspace: Path, real_data: Path, cluster: None) -> None:
    """Over 15 s: jobs that import PyTorch and read the whole MNIST; they train on a part of it."""
    for arguments in commands("slurm"):
        part = ["dataset.max_samples=4000"] if "experiment=mnist_dnn" in arguments else []
        done = labrun(*arguments, *part, f"datastore.root={real_data}", "tracking=none")
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)


def test_what_needs_a_gpu_is_refused_in_the_right_words(refused_here: Refused) -> None:
    for arguments in commands("refused"):
        said = refused_here(*arguments, "dataset.download=false", CUDA_VISIBLE_DEVICES="")
        assert "no GPU is visible here" in said


def test_own_images(labrun: Command, workspace: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (workspace / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            size = (30 + number, 40, 3)
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(
                workspace / "pictures" / name / f"{number}.png"
            )
    for arguments in commands("images"):
        done = labrun(*arguments, "tracking=none")
        assert done.returncode == 0, done.stderr


EXPECTED = {
    ("experiment=mnist_logreg", "model.regularization=0.8"): (0.9255, 0.002),
    ("experiment=mnist_dnn",): (0.985, 0.015),
    ("experiment=cifar10_cnn",): (0.40, 0.06),
}
FEWER = {
    "experiment=cifar10_cnn": ["trainer.max_epochs=1", "trainer.limit_train_batches=5000"],
    "experiment=cifar10_cnn trainer.batch_size=128": ["trainer.max_epochs=1"],
}
"""By a command's beginning, the longest that fits: a fifth and a half of two epochs; the first took two minutes."""


def fewer(arguments: list[str]) -> list[str]:
    """What makes a command shorter."""
    found = [beginning for beginning in FEWER if " ".join(arguments).startswith(beginning)]
    return FEWER[max(found, key=len)] if found else []


@pytest.mark.parametrize("arguments", commands("data"), ids=lambda a: " ".join(a)[:60])
def test_commands_on_the_real_data(arguments: list[str], labrun: Command, workspace: Path, real_data: Path) -> None:
    """Over 15 s each: on the whole MNIST or CIFAR-10."""
    done = labrun(*arguments, *fewer(arguments), f"datastore.root={real_data}", "tracking=none", timeout=900)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^  accuracy +([\d.]+)$", done.stdout, re.MULTILINE)
    assert accuracy is not None
    middle, spread = EXPECTED.get(tuple(arguments), (0.5, 0.4))
    assert abs(float(accuracy[1]) - middle) <= spread
    text = {path.name for path in workspace.glob("outputs/*/*/outputs/*.png")}
    assert {"samples.png", "confusion_matrix.png"} <= text


def test_the_modules_are_importable_without_the_rest() -> None:
    code = "import labrun, sys; assert not {'torch', 'hydra', 'numpy', 'mlflow'} & set(sys.modules); labrun.log('x', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "x: 1\n", done.stderr
