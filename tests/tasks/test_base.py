"""Task types: a third-party one is selected, checked, executed and recorded like labrun's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Command, Refused
from helpers import installed
from labrun.errors import ConfigError
from labrun.plugins import TASKS
from labrun.runs.record import COMPLETED, read_record

TOY = Path(__file__).with_name("toy")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of another task is installed."""
    with installed(TOY, TASKS.forget, monkeypatch):
        yield


def test_a_package_adds_a_task(toy: None, labrun_here: Command, refused_here: Refused, workspace: Path) -> None:
    plain = ("task=count_classes", "dataset.max_samples=60", "tracking=none")
    done = labrun_here(*plain)
    assert done.returncode == 0 and "train/0" in done.stdout, done.stdout + done.stderr
    (run_dir,) = workspace.glob("outputs/*/*/run.json")
    record = read_record(run_dir.parent)
    assert (record.task, record.status, record.model) == ("count_classes", COMPLETED, None)
    assert record.metrics["train/0"] > 0 and record.data[0].name == "digits" and record.signature
    assert "only the training of a network can use several processes" in refused_here(
        *plain, "compute=slurm", "compute.nodes=2"
    )
    assert "counts classes, and a quantity has none" in refused_here(*plain, "+dataset.regression=true")


def test_an_unknown_task_is_refused_with_the_known_ones(toy: None, refused_here: Refused) -> None:
    known = "fit, evaluate, predict, script, count_classes"
    assert f"task='evaluat': expected one of {known}. Did you mean 'evaluate'?" in refused_here("task=evaluat")
    with pytest.raises(ConfigError, match=rf"'evaluat': expected one of {known}\. Did you mean 'evaluate'"):
        TASKS.get("evaluat")
