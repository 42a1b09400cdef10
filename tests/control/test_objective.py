"""The default metric by which the runs of a sweep are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import new
from labrun.config.schema import Config
from labrun.control import objective, results
from labrun.errors import ConfigError
from labrun.runs import recording
from labrun.runs.groups import SweepMember
from labrun.runs.record import COMPLETED, FAILED, Record, write_record
from labrun.tasks import monitored

NETWORK = "labrun.models.mnist_dnn.MnistDNN"


def config_of(
    target: str = NETWORK, metric: Any = "auto", goal: Any = "auto", regression: bool = False, **trainer: str
) -> dict[str, Any]:
    """A config with its metrics and goals."""
    config: dict[str, Any] = {
        "task": "fit",
        "model": {"_target_": target},
        "dataset": {"validation_size": 0.2, "regression": regression},
        "callbacks": None,
        "trainer": {"monitor": "auto", "monitor_mode": "auto", **trainer},
        "sweep": {"metric": metric, "goal": goal},
    }
    monitored.resolve_defaults(config)
    objective.resolve_defaults(config)
    return config


@pytest.mark.parametrize(
    ("config", "metric", "goal"),
    [
        (config_of(), "val_accuracy", "maximize"),
        (config_of(monitor="val/acc"), "val/acc", "maximize"),
        (config_of(monitor="val/wer"), "val/wer", "minimize"),
        (config_of(monitor="odd", monitor_mode="min"), "odd", "minimize"),
        (config_of(monitor="odd"), "odd", "auto"),
        (config_of(monitor="val/acc", metric="fid"), "fid", "minimize"),
        (config_of("sklearn.svm.SVC", monitor="val/acc"), "val_accuracy", "maximize"),
        (config_of("sklearn.svm.SVR", regression=True), "val_r2", "maximize"),
        (config_of(metric=["acc", "odd"], goal=["auto", "minimize"]), ["acc", "odd"], ["maximize", "minimize"]),
    ],
)
def test_the_metric_and_goal_of_a_sweep_follow_the_monitored_metric(
    config: dict[str, Any], metric: Any, goal: Any
) -> None:
    assert (config["sweep"]["metric"], config["sweep"]["goal"]) == (metric, goal)


def test_a_sweep_needs_a_direction_and_records_the_given_one() -> None:
    with pytest.raises(ConfigError, match=r"sweep.metric=odd.*sweep.goal=minimize \(or trainer.monitor_mode=max\|min"):
        objective.check(Config(config_of(monitor="odd")))
    objective.check(Config(config_of(monitor="odd", monitor_mode="max")))
    assert objective.explicit_directions(Config(config_of(monitor="odd", monitor_mode="min"))) == {"odd": "min"}
    assert objective.explicit_directions(Config(config_of(metric="acc", goal="minimize"))) == {"acc": "min"}
    assert objective.explicit_directions(Config(config_of(monitor="val/acc"))) == {}


def with_metric(run: str, metric: str, **metrics: float) -> Record:
    """A completed run whose own objective is a metric."""
    config = {"sweep": {"metric": metric, "goal": "maximize"}, "report": "none"}
    return new(run, status=COMPLETED, metrics=metrics, config=config)


def test_runs_with_several_objectives_are_compared_by_a_common_metric() -> None:
    """`auto` stands for AUC_weighted with model.folds, and for accuracy without."""
    folded = with_metric("a0000000", "AUC_weighted", AUC_weighted=0.99, accuracy=0.7)
    plain = with_metric("b0000000", "accuracy", accuracy=0.8)
    assert objective.common([folded, plain]).metric == objective.common([plain, folded]).metric == "accuracy"
    by = objective.common([folded, plain])
    assert max([folded, plain], key=lambda record: objective.rank(record, by)) is plain
    assert objective.common([folded]).metric == "AUC_weighted"
    odd = with_metric("c0000000", "odd", odd=1.0)
    assert objective.common([folded, odd]).metric == "AUC_weighted"
    assert objective.rank(odd, objective.common([folded, odd])) == float("-inf")


def test_the_metric_given_on_resume_orders_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dirs = []
    for number, (accuracy, loss) in enumerate(((0.9, 0.5), (0.8, 0.1))):
        record = with_metric(f"a000000{number}", "accuracy", accuracy=accuracy, test_loss=loss)
        record.sweep = SweepMember(str(tmp_path), number)
        run_dirs.append(tmp_path / str(number))
        recording.create(run_dirs[-1], record)
        write_record(run_dirs[-1], record)
    for wanted, first in ((None, "0"), (objective.Objective("test_loss", False), "1")):
        results.print_summary(tmp_path, run_dirs, None, wanted)
        rows = [line.split() for line in capsys.readouterr().out.splitlines() if "completed" in line]
        assert rows[0][0] == first


def test_a_missing_best_run_is_explained() -> None:
    config = {"sweep": {"metric": "val/acc", "goal": "maximize"}}
    runs = [new("a0000000", status=COMPLETED, metrics={"accuracy": 1.0}, config=config)]
    told = "no best run: no run logged val/acc. They logged accuracy: set sweep.metric=NAME"
    assert objective.no_best(runs, "val/acc") == told
    silent = [new("b0000000", status=COMPLETED, config=config)]
    assert objective.no_best(silent, "val/acc") == "no best run: no run logged a metric"
    runs[0].metrics["val/acc"] = float("nan")
    assert objective.no_best(runs, "val/acc") == "no best run: no completed run has a finite value of val/acc"
    runs[0].status = FAILED
    assert objective.no_best(runs, "val/acc") == "no best run: no run is completed"
    assert objective.rank(runs[0]) == float("-inf")
