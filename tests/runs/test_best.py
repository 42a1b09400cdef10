"""The best of several runs, by a metric whose direction comes from its name, the runs or the user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from helpers import new, submitted
from labrun.errors import RecordError
from labrun.runs import comparable, store
from labrun.runs.groups import DataEntry
from labrun.runs.record import COMPLETED, Record, read_record, write_record


def completed(root: Path, number: int, metrics: dict[str, float], directions: dict[str, str] | None = None) -> str:
    """A run that was done long ago; its id."""
    run_dir = submitted(root, f"a000000{number}")
    record = read_record(run_dir)
    record.status, record.metrics, record.directions = COMPLETED, dict(metrics), directions or {}
    record.started = record.ended = "2020-01-01T00:00:00.000+00:00"
    write_record(run_dir, record)
    return record.id


def best(root: Path, name: str) -> str:
    return store.find(root, f"best:{name}")[1].id


def test_the_name_gives_the_direction(workspace: Path) -> None:
    low = completed(workspace, 1, {"val/acc": 0.5, "wer": 0.1, "AUC_weighted": float("nan"), "fid": 3.0})
    high = completed(workspace, 2, {"val/acc": 0.7, "wer": 0.3, "AUC_weighted": 0.2, "fid": float("-inf")})
    assert [best(workspace, name) for name in ("val/acc", "wer", "AUC_weighted", "fid")] == [high, low, high, low]
    assert best(workspace, "val/acc:min") == low


def test_the_runs_give_the_direction_if_the_name_does_not(workspace: Path) -> None:
    low = completed(workspace, 1, {"odd": 1.0}, {"odd": "min"})
    high = completed(workspace, 2, {"odd": 2.0}, {"odd": "min"})
    assert best(workspace, "odd") == low
    assert best(workspace, "odd:max") == high
    completed(workspace, 3, {"odd": 3.0}, {"odd": "max"})
    with pytest.raises(RecordError, match=r"neither its name nor the runs say.*best:odd:max or best:odd:min"):
        best(workspace, "odd")


def test_the_user_must_give_an_unknown_direction(workspace: Path, lab_here: Command) -> None:
    low, high = (completed(workspace, number, {"odd": float(number)}) for number in (1, 2))
    with pytest.raises(RecordError, match="best:odd:max"):
        best(workspace, "odd")
    assert (best(workspace, "odd:max"), best(workspace, "odd:min")) == (high, low)
    shown = [line.split()[0] for line in lab_here("runs", "--sort", "odd:min").stdout.splitlines()]
    assert shown == ["id", low, high]
    keeping = ("runs", "gc", "--older-than", "1d", "--keep-best", "1", "--yes", "--metric")
    refused = lab_here(*keeping, "odd")
    assert refused.returncode != 0 and "--metric odd:max or --metric odd:min" in refused.stderr
    assert len(list(workspace.glob("outputs/*/*/run.json"))) == 2
    kept = lab_here(*keeping, "odd:min")
    assert kept.returncode == 0, kept.stderr
    assert [path.parent.name[-8:] for path in workspace.glob("outputs/*/*/run.json")] == [low]


def scored(number: int, **values: Any) -> Record:
    """A completed run of the data set t, whose accuracy is of the test split."""
    data = DataEntry(name="t", digest=values.pop("digest", "d"), content=values.pop("content", None))
    own = {key: values.pop(key) for key in ("split_seed", "target", "path", "validation_size") if key in values}
    data.own_test = values.pop("own_test", None)
    config = {"model": {"folds": values.pop("folds", 0)}, "dataset": {"split_seed": 0, **own}}
    metrics = {"accuracy": 0.9, "test_accuracy": 0.9} if config["model"]["folds"] else {"accuracy": 0.9}
    return new(f"a000000{number}", status=COMPLETED, data=[data], config=config, metrics=metrics, **values)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({}, None),
        ({"digest": "e"}, "t was not the same in all of them"),
        ({"split_seed": 1}, "or was split differently"),
        ({"target": "another"}, "t was not the same in all of them"),
        ({"path": "moved", "validation_size": 0.2}, None),
        ({"folds": 5}, "of the test split in 1 of them .such as a0000001., and the mean of 5 folds in 1"),
        ({"folds": 1, "validation_size": 0.2}, "and of the validation split in 1 of them .such as a0000002"),
    ],
)
def test_scores_that_do_not_compare_are_reported(other: dict[str, Any], why: str | None) -> None:
    found = comparable.mixture([scored(1), scored(2, **other)], "accuracy")
    if why is None:
        assert found is None
    else:
        assert re.search(f"accuracy is not comparable between these runs: .*{why}", found or "")


def test_several_numbers_of_folds_are_reported() -> None:
    five, six = scored(1, folds=5), scored(2, folds=5)
    assert comparable.mixture([five, six], "accuracy") is None
    told = comparable.mixture([five, scored(2, folds=1)], "accuracy") or ""
    assert "of the validation split in 1 of them (such as a0000002), and the mean of 5 folds in 1" in told
    smaller = scored(2, folds=5, validation_size=0.3)
    assert "split differently" in (comparable.mixture([five, smaller], "accuracy") or "")
    assert comparable.mixture([five, smaller], "test_accuracy") is None
    best, trial = scored(1), scored(2, folds=5)
    trial.config["model"]["_target_"] = "labrun.models.pipeline.pipeline"
    del trial.metrics["test_accuracy"]  # a search does not test its trials
    assert "the mean of 5 folds in 1" in (comparable.mixture([best, trial], "accuracy") or "")


def test_runs_of_several_data_sets_are_reported_by_their_names(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in ((1, "digits"), (2, "mnist")):
        completed(workspace, number, {"accuracy": 0.5})
        run_dir = workspace / "outputs" / "test" / f"now-a000000{number}"
        record = read_record(run_dir)
        record.data = [DataEntry(name=name, digest=name)]
        write_record(run_dir, record)
    best(workspace, "accuracy")
    assert "best:accuracy: accuracy is not comparable between these runs: they read different data" in caplog.text


def test_the_digest_of_arrays_made_by_code_counts_if_recorded() -> None:
    same, other = [scored(1, content="c"), scored(2, content="c")], [scored(1, content="c"), scored(2, content="d")]
    assert comparable.mixture(same, "accuracy") is None
    assert "t was not the same" in (comparable.mixture(other, "accuracy") or "")


def test_the_split_matters_only_if_it_decides_what_is_scored() -> None:
    own = [scored(1, own_test=True), scored(2, own_test=True, split_seed=1)]
    assert comparable.mixture(own, "accuracy") is None, "the data have a test split of their own"
    validated = [scored(1), scored(2, validation_size=0.3)]
    for record in validated:
        record.metrics["val_accuracy"] = 0.5
    assert comparable.mixture(validated, "accuracy") is None
    assert "split differently" in (comparable.mixture(validated, "val_accuracy") or "")


def test_facts_missing_in_older_records_are_not_compared() -> None:
    """Older versions did not record the test split, or the digest of arrays made by code."""
    old, now = scored(1), scored(2, own_test=True, content="c", split_seed=1)
    assert comparable.mixture([old, now], "accuracy") is None
