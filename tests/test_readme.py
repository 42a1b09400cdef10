"""The README takes five minutes. `test_docs.py` runs its commands, except those on real data, which run here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Command

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len(README.splitlines()) <= 150


def test_the_first_block_sets_labrun_up_in_two_commands() -> None:
    first = re.search(r"```bash\n(.*?)```", README, re.DOTALL)
    assert first is not None
    assert [line.partition("#")[0].strip() for line in first[1].splitlines()] == [
        "pip install uv",
        "uv run labrun",
        "uv run pytest -n auto",
    ]


EXPECTED = {
    ("experiment=mnist_logreg", "model.regularization=0.8"): (0.9255, 0.002),
    ("experiment=mnist_dnn",): (0.985, 0.015),
    ("experiment=cifar10_cnn",): (0.33, 0.04),
}
FEWER = {("experiment=cifar10_cnn",): ["trainer.max_epochs=1", "trainer.limit_train_batches=2500"]}
"""A tenth of two epochs: all of them take two minutes."""
ON_REAL_DATA = [
    tuple(shlex.split(line, comments=True)[1:])
    for block in re.findall(r"<!-- data -->\n```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]


def test_each_claimed_accuracy_is_checked() -> None:
    assert set(ON_REAL_DATA) == set(EXPECTED)


@pytest.mark.parametrize("arguments", ON_REAL_DATA, ids=" ".join)
def test_commands_reach_the_claimed_accuracy_on_real_data(
    arguments: tuple[str, ...], labrun: Command, workspace: Path, real_data: Path
) -> None:
    """Over 15 s each: on the whole MNIST or CIFAR-10."""
    more = FEWER.get(arguments, [])
    done = labrun(*arguments, *more, f"datastore.root={real_data}", "tracking=none", timeout=900)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^  accuracy +([\d.]+)$", done.stdout, re.MULTILINE)
    assert accuracy is not None
    middle, spread = EXPECTED[arguments]
    assert abs(float(accuracy[1]) - middle) <= spread
    drawn = {path.name for path in workspace.glob("outputs/*/*/outputs/*.png")}
    assert {"samples.png", "confusion_matrix.png"} <= drawn


def test_labrun_is_importable_without_its_dependencies() -> None:
    code = "import labrun, sys; assert not {'torch', 'hydra', 'numpy', 'mlflow'} & set(sys.modules); labrun.log('x', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "x: 1\n", done.stderr
