"""Means over seeds: grouping of runs into settings, the runs included in a mean, and notes on the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers import new
from labrun.api import notebook
from labrun.api.handles import Sweep
from labrun.control import objective, results
from labrun.errors import RecordError
from labrun.report import aggregation, figures, mean_curves
from labrun.runs import recording
from labrun.runs.context import RunContext
from labrun.runs.groups import Code, DataEntry, SweepMember
from labrun.runs.record import Record, write_record
from labrun.runs.status import Status

Values = Sequence[tuple[int, float | str | None]]
SWEEP = SweepMember("/sweep", 0)


def a_run(seed: int, lr: float = 0.1, status: str = "completed", **values: Any) -> Record:
    """A sweep's run that was given a seed and a learning rate."""
    config = {"seed": seed, "model": {"lr": lr, "name": "net"}, "compute": {"target": "local"}, "report": "none"}
    config["sweep"] = {"metric": "accuracy", "goal": "maximize"}
    made = new(f"{seed:04x}{round(lr * 100):04x}", sweep=SWEEP, status=Status(status), config=config)
    made.overrides = [f"model.lr={lr}", f"seed={seed}"]
    for key, value in values.items():
        setattr(made, key, value)
    return made


def scored(seed: int, accuracy: Any, lr: float = 0.1, **values: Any) -> Record:
    return a_run(seed, lr, metrics={"accuracy": accuracy}, **values)


def test_each_setting_has_a_mean_a_deviation_and_a_count() -> None:
    found = [scored(seed, 0.1 * seed * factor, lr) for lr, factor in ((0.1, 1), (0.3, 2)) for seed in (1, 2, 3)]
    settings = aggregation.of_seeds(found)
    assert [one.overrides for one in settings] == [("model.lr=0.1",), ("model.lr=0.3",)]
    assert aggregation.labels(settings) == ["model.lr=0.1", "model.lr=0.3"]
    summaries = [one.summary("accuracy") for one in settings]
    assert [one.mean for one in summaries] == pytest.approx([0.2, 0.4])
    assert [one.std for one in summaries] == pytest.approx([0.1, 0.2])  # of the sample
    assert [one.count for one in summaries] == ["3", "3"]
    assert aggregation.rows(settings)[0] == ["runs", "accuracy_mean", "accuracy_std", "accuracy_n"]


def test_without_repeats_there_are_no_settings() -> None:
    assert aggregation.of_seeds([scored(1, 0.5, lr) for lr in (0.1, 0.3)]) == []
    assert aggregation.of_seeds([scored(1, 0.5, 0.1), scored(2, 0.5, 0.3)]) == []  # they advance together
    assert aggregation.of_seeds([scored(1, 0.5), scored(1, 0.5)]) == []
    assert aggregation.of_seeds([]) == []


def test_a_sweep_over_seeds_alone_is_one_setting() -> None:
    (only,) = aggregation.of_seeds([a_run(seed, overrides=[f"seed={seed}"]) for seed in (1, 2)])
    assert only.overrides == () and aggregation.labels([only]) == ["test"]


@pytest.mark.parametrize(
    ("status", "metrics", "told"),
    [
        ("failed", {"accuracy": 0.0}, ""),
        ("stopped", {"accuracy": 0.0}, ""),
        ("completed", {}, ""),
        ("completed", {"accuracy": "text"}, ""),
        ("completed", {"accuracy": True}, ""),
        ("completed", {"accuracy": "NaN"}, "accuracy is NaN in run 0003000a: left out of the mean"),
        ("completed", {"accuracy": "-Infinity"}, "accuracy is -Infinity in run 0003000a: left out of the mean"),
        ("completed", {"accuracy": math.nan}, "accuracy is NaN in run 0003000a: left out of the mean"),
    ],
)
def test_runs_left_out_of_a_mean_are_counted_and_named(status: str, metrics: Mapping[str, Any], told: str) -> None:
    settings = aggregation.of_seeds([scored(1, 0.2), scored(2, 0.4), a_run(3, status=status, metrics=metrics)])
    found = settings[0].summary("accuracy")
    assert found.mean == pytest.approx(0.3) and found.count == "2 of 3"
    assert aggregation.notes(settings, ["accuracy"]) == ([f"test: {told}"] if told else [])


def test_one_value_has_no_deviation_and_no_value_no_mean() -> None:
    settings = aggregation.of_seeds([scored(1, 0.2), a_run(2, status="failed"), a_run(3, 0.3), a_run(4, 0.3)])
    one, none = (setting.summary("accuracy") for setting in settings)
    assert (one.mean, one.std, one.count) == (0.2, None, "1 of 2")
    assert (none.mean, none.std, none.count) == (None, None, "0 of 2")
    assert aggregation.rows(settings)[1] == [[2, 0.2, None, 1], [2, None, None, 0]]


def test_huge_values_give_an_infinite_deviation() -> None:
    found = aggregation.of_seeds([scored(1, 1.7e308), scored(2, -1.7e308)])[0].summary("accuracy")
    assert found.mean == 0 and found.std == math.inf


def test_runs_with_different_configs_are_different_settings() -> None:
    """Even with equal overrides, since a config file may have changed. The compute target does not matter."""
    plain = {"sweep": None, "overrides": ["seed=1"]}
    first, second = scored(1, 0.1, **plain), scored(2, 0.2, **{**plain, "overrides": ["seed=2"]})
    other = scored(3, 0.3, **{**plain, "overrides": ["seed=3"]})
    other.config["model"]["name"] = "another"
    elsewhere = scored(4, 0.4, **{**plain, "overrides": ["seed=4", "compute=slurm"]})
    elsewhere.config["compute"] = {"target": "slurm"}
    assert [len(one.runs) for one in aggregation.group([first, second, other, elsewhere], ["seed"])] == [3, 1]


def test_every_swept_key_separates_settings() -> None:
    found = [scored(seed, 0.1) for seed in (1, 2, 1, 2)]
    for place, one in enumerate(found):
        one.overrides.append(f"compute.cpus_per_run={1 + place // 2}")
    assert [len(one.runs) for one in aggregation.of_seeds(found)] == [2, 2]


def test_runs_of_several_sweeps_with_equal_configs_are_one_setting() -> None:
    later = scored(3, 0.3, sweep=SweepMember("/another", 0))
    alone = scored(4, 0.4, sweep=None, overrides=["seed=4"])
    assert [len(one.runs) for one in aggregation.group([scored(1, 0.1), scored(2, 0.2), later, alone], ["seed"])] == [4]


def test_a_key_derived_from_the_seed_does_not_separate_settings() -> None:
    found = [scored(seed, 0.1, sweep=None) for seed in (1, 2)]
    for one in found:
        one.config["model"]["random_state"] = one.config["seed"]
    assert len(aggregation.group(found, ["seed"])) == 1
    for one in found:  # unless it is an override: then both vary
        one.overrides.append(f"model.random_state={one.config['seed']}")
    assert len(aggregation.group(found, ["seed"])) == 2


def test_values_made_from_the_seed_do_not_separate_settings_of_a_sweep() -> None:
    found = [scored(seed, 0.1) for seed in (1, 2)]
    for one in found:
        one.config["model"]["name"] = f"net-{one.config['seed']}"
    assert len(aggregation.group(found, ["seed"])) == 1


def test_aggregating_over_a_group_keeps_overrides_within_it_apart() -> None:
    found = [scored(1, 0.1, lr) for lr in (0.1, 0.3)]
    for one, name in zip(found, ("net", "other"), strict=True):
        one.config["model"]["name"] = name
        one.overrides.append(f"model={name}")
    assert len(aggregation.group(found, ["model"])) == 2
    assert len(aggregation.group(found, ["model", "model.lr"])) == 1


def test_a_group_is_named_with_a_slash_or_a_dot() -> None:
    assert [aggregation.plain_key(text) for text in ("model/estimator=svm", "++a.b=1", "~c", "db@model.opt=x")] == [
        "model.estimator",
        "a.b",
        "c",
        "model.opt",
    ]


def test_repeated_runs_of_a_setting_count_once() -> None:
    """The completed run counts if the other one failed, otherwise the newer one."""
    old, newer = scored(1, 0.1, id="old", created="2026-01-01"), scored(1, 0.3, id="newer", created="2026-01-02")
    failed = a_run(1, status="failed", id="failed", created="2026-01-03")
    settings = aggregation.of_seeds([old, scored(2, 0.5), newer, failed])
    assert settings[0].summary("accuracy").values == (0.5, 0.3) and settings[0].summary("accuracy").count == "2"
    assert aggregation.notes(settings, []) == ["test: not counted, since other runs have the same values: old, failed"]


def test_runs_without_comparable_scores_have_no_mean() -> None:
    found = [scored(seed, 0.1, data=[DataEntry(name="digits", digest=f"d{seed}")]) for seed in (1, 2)]
    settings = aggregation.of_seeds(found)
    assert settings[0].summary("accuracy").mean is None and settings[0].summary("accuracy").count == "0 of 2"
    (note,) = aggregation.notes(settings, ["accuracy"])
    assert note.startswith("test: no mean of accuracy: the values are not comparable: digits was not the same in all")


def test_runs_with_different_splits_have_no_mean() -> None:
    data = [DataEntry(name="digits", digest="d", content="c")]
    found = [scored(seed, 0.1, data=data) for seed in (1, 2)]
    for one in found:
        one.config["dataset"] = {"split_seed": one.config["seed"]}
    settings = aggregation.of_seeds(found)
    assert settings[0].summary("accuracy").mixture


def test_runs_with_different_code_are_reported() -> None:
    found = [scored(seed, 0.1, code=Code(sources=f"c{seed}")) for seed in (1, 2)]
    (note,) = aggregation.notes(aggregation.of_seeds(found), ["accuracy"])
    assert "the code was not the same" in note


def test_a_key_that_no_run_has_is_refused() -> None:
    with pytest.raises(RecordError, match=r"no mean over sed: .* Did you mean 'seed'\? They were given model.lr, seed"):
        aggregation.group([scored(1, 0.1)], ["sed"])


def curve(name: str, values: Values) -> list[dict[str, Any]]:
    return [{"name": name, "step": step, "epoch": step, "value": value} for step, value in values]


def curves(*runs: Values) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The mean curves of runs of one setting that logged these losses."""
    found = [scored(seed, 0.1) for seed in range(len(runs))]
    logged = {one.id: curve("loss", values) for one, values in zip(found, runs, strict=True)}
    return mean_curves.of(aggregation.group(found, ["seed"]), lambda record: logged[record.id])


def test_a_mean_curve_is_drawn_at_steps_that_all_runs_have(tmp_path: Path) -> None:
    found, notes = curves([(1, 1.0), (2, 2.0), (3, 9.0)], [(1, 3.0), (2, 2.0)])
    assert notes == [] and list(found) == ["test (n=2)"]
    lines = found["test (n=2)"]
    assert [(line["step"], line["epoch"], line["value"], line["n"]) for line in lines] == [(1, 1, 2.0, 2), (2, 2, 2, 2)]
    assert [line["std"] for line in lines] == pytest.approx([math.sqrt(2), 0.0])
    assert figures.compared_curves(found, tmp_path / "c.png") == tmp_path / "c.png"


def test_a_mean_curve_omits_values_that_are_not_finite() -> None:
    found, notes = curves([(1, 1.0), (2, math.nan), (3, 1.0)], [(1, 3.0), (2, 2.0), (3, 1.0)])
    assert [line["step"] for line in found["test (n=2)"]] == [1, 3]
    assert notes == ["test: loss is not finite at some steps of 0000000a: no mean is drawn there"]
    alone, _ = curves([(1, 1.0), (2, 2.0)])
    assert all("std" not in line for line in alone["test (n=1)"])


def test_runs_without_steps_in_common_have_no_mean_curve() -> None:
    found, notes = curves([(1, 1.0), (3, 1.0)], [(2, 3.0), (4, 1.0)])
    assert found == {} and notes == ["test: no curve of loss: its 2 runs have less than two steps in common"]


def test_the_legend_shows_different_numbers_of_runs_per_metric() -> None:
    found = [scored(seed, 0.1) for seed in (1, 2)]
    both = {one.id: curve("loss", [(1, 1.0), (2, 2.0)]) for one in found}
    both[found[0].id] += curve("score", [(1, 1.0), (2, 2.0)])
    assert list(mean_curves.of(aggregation.group(found, ["seed"]), lambda r: both[r.id])[0]) == ["test (n=1 to 2)"]


def write(folder: Path, found: Sequence[Record]) -> list[Path]:
    """The runs of a sweep on disk, each with a curve."""
    run_dirs = []
    for number, one in enumerate(found):
        one.sweep = SweepMember(str(folder), number)
        run_dirs.append(folder / str(number))
        recording.create(run_dirs[-1], one)
        write_record(run_dirs[-1], one)
        context = RunContext(run_dirs[-1])
        for step in range(3):
            context.log("loss", step * one.config["seed"], step)
        context.close()
    return run_dirs


@pytest.fixture
def sweep(tmp_path: Path) -> list[Path]:
    """Two settings with three seeds, one run of which has failed."""
    found = [scored(seed, 0.1 * seed + lr, lr) for lr in (0.1, 0.3) for seed in (1, 2)]
    return write(tmp_path, [*found, a_run(3, 0.1, status="failed"), scored(3, "NaN", 0.3)])


def test_the_table_at_the_end_of_a_sweep_shows_means(
    sweep: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    results.print_summary(tmp_path, sweep, None)
    out = capsys.readouterr().out
    table = [line.split() for line in out[out.index("over seed") :].splitlines()]
    assert table[1] == ["n", "accuracy_mean", "accuracy_std", "overrides"]
    assert table[2] == ["2", "of", "3", "0.4500", "0.0707", "model.lr=0.3"]
    assert table[3] == ["2", "of", "3", "0.2500", "0.0707", "model.lr=0.1"]
    assert f"folder: {tmp_path}   (results.csv, results_over_seed.csv)" in out
    assert "model.lr=0.3: accuracy is NaN in run" in caplog.text
    lines = (tmp_path / "results_over_seed.csv").read_text().splitlines()
    assert lines[0] == "runs,accuracy_mean,accuracy_std,accuracy_n,overrides"
    assert lines[1].startswith("3,0.25") and lines[1].endswith(",2,model.lr=0.1")
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 7


def test_a_sweep_without_repeats_shows_no_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dirs = write(tmp_path, [scored(1, 0.1, lr) for lr in (0.1, 0.3)])
    results.print_summary(tmp_path, run_dirs, None, objective.Objective("accuracy", True))
    out = capsys.readouterr().out
    assert "over seed" not in out and out.endswith("(results.csv)\n")
    assert not (tmp_path / "results_over_seed.csv").exists()


def test_means_are_available_in_python_and_in_notebooks(sweep: list[Path], tmp_path: Path) -> None:
    found = Sweep(tmp_path)
    table = found.to_frame(over="seed")
    assert list(table.columns) == ["model.lr", "runs", "accuracy_mean", "accuracy_std", "accuracy_n"]
    assert list(table["accuracy_n"]) == [2, 2] and list(table["model.lr"]) == ["0.1", "0.3"]
    assert len(found.to_frame(over=["seed", "model.lr"])) == 1 and len(found.to_frame()) == 6
    with pytest.raises(RecordError, match="no mean over what"):
        found.to_frame(over="what")
    page = notebook.sweep_page(found)
    assert "<th>accuracy_mean</th>" in page and "<td>2 of 3</td>" in page and page.count("<img") >= 1
    assert "accuracy is NaN in run" in page
