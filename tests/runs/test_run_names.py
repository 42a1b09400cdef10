"""Labels of runs in views of many runs, made of their differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import new
from labrun.runs.groups import SweepMember
from labrun.runs.record import write_record
from labrun.runs.run_names import RunNames


def test_a_run_of_a_sweep_is_named_by_its_distinguishing_values(tmp_path: Path) -> None:
    sweep = tmp_path / "multirun/mnist/now-a1"
    found = []
    for number in range(3):
        overrides = ["model=mnist_dnn", f"model.lr={number}", "compute.cpus_per_run=1"]
        record = new(f"e{number:07d}", overrides=overrides, sweep=SweepMember(str(sweep), number))
        (sweep / str(number)).mkdir(parents=True)
        write_record(sweep / str(number), record)
        found.append((record, sweep / str(number)))
    names = RunNames()
    assert [names.name(*pair) for pair in found] == [f"{n}: lr={n} (e{n:07d})" for n in range(3)]


@pytest.mark.parametrize(
    "overrides, name",
    [
        ([], "a1111111"),
        (["experiment=test", "tracking=none"], "a1111111"),
        (["model.lr=0.1", "+trainer.options.x=1"], "lr=0.1 x=1 (a1111111)"),
        (["model.lr=0.123456", "model.optimizer.lr=2"], "model.lr=0.1235 model.optimizer.lr=2 (a1111111)"),
        (["model/optimizer=adam", "~model.tol"], "optimizer=adam ~tol (a1111111)"),
        ([f"dataset.ignore=[{'x' * 300}]"], f"ignore=[{'x' * 149}... (a1111111)"),
    ],
)
def test_a_single_run_is_named_by_its_overrides(overrides: list[str], name: str, tmp_path: Path) -> None:
    assert RunNames().name(new("a1111111", overrides=overrides), tmp_path) == name
