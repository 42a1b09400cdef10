"""A sweep's objectives: the metrics by which its runs are compared, and their directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labrun.config.schema import Config
from labrun.errors import ConfigError
from labrun.runs import direction
from labrun.runs.record import COMPLETED, Record
from labrun.tasks import monitored

GOALS = {direction.MAX: "maximize", direction.MIN: "minimize"}


@dataclass(frozen=True)
class Objective:
    """One metric, and its direction."""

    metric: str
    maximize: bool
    is_known: bool = True
    """Whether the direction is known; a single run needs none."""

    def score(self, value: float) -> float:
        """Convert a value of the metric to a score: higher is better, and a value that is not finite is the worst."""
        if not math.isfinite(value):
            return -math.inf
        return value if self.maximize else -value


def resolve_defaults(config: dict[str, Any]) -> None:
    """Replace `auto` in a config's metrics and goals, in place.

    Raises:
        ConfigError: the numbers of goals and metrics differ, or a metric is listed twice.
    """
    sweep = config["sweep"]
    several = isinstance(sweep["metric"], list)
    metrics = list(sweep["metric"]) if several else [sweep["metric"]]
    goals = list(sweep["goal"]) if isinstance(sweep["goal"], list) else [sweep["goal"]] * len(metrics)
    if not metrics or len(set(metrics)) < len(metrics) or any(not str(metric).strip() for metric in metrics):
        raise ConfigError(f"sweep.metric={sweep['metric']}: give the name of a metric, or several different ones")
    if len(goals) != len(metrics):
        raise ConfigError(f"sweep.goal={sweep['goal']}: give one goal, or one for each of {', '.join(metrics)}")
    typed = Config(config)
    if typed.script is not None and sweep.get("sampler") and "auto" in metrics:
        raise ConfigError("sweep.metric: name the metric that the script logs, as in sweep.metric=val_loss")
    metrics = [_usual(typed) if metric == "auto" else metric for metric in metrics]
    goals = [_goal(metric, typed) if goal == "auto" else goal for metric, goal in zip(metrics, goals, strict=True)]
    sweep["metric"], sweep["goal"] = (metrics, goals) if several else (metrics[0], goals[0])


def _goal(metric: str, config: Config) -> str:
    """Return the goal for `auto`, or `auto` if it is unknown, which only a sweep refuses (see `check`)."""
    said = config.trainer.monitor_mode if metric == config.trainer.monitor else None
    found = said if said in GOALS else direction.of(metric)
    return "auto" if found is None else GOALS[found]


def check(config: Config) -> None:
    """Check that the directions of a sweep's metrics are known.

    Raises:
        ConfigError: neither the config nor the metric's name determines whether large or small values are good.
    """
    for metric, goal in config.sweep.goals:
        if goal == "auto":
            is_monitor = metric == config.trainer.monitor
            also = " (or trainer.monitor_mode=max|min)" if is_monitor else ""
            raise ConfigError(
                f"sweep.metric={metric}: the name does not say whether large or small values are good. Set "
                f"sweep.goal=maximize or sweep.goal=minimize{also}"
            )


def explicit_directions(config: Config) -> dict[str, str]:
    """Return the directions in a config from `resolve_defaults` that the metrics' names do not imply."""
    said = {one.metric: direction.MAX if one.maximize else direction.MIN for one in of(config) if one.is_known}
    trainer = config.trainer
    if monitored.reads_trainer(config) and trainer.monitor_mode != "auto":
        said[trainer.monitor] = trainer.monitor_mode
    return {metric: one for metric, one in said.items() if metric != "auto" and direction.of(metric) != one}


def _usual(config: Config) -> str:
    model = config.model
    if not model:
        return "accuracy"  # a script's metrics are not known before it runs
    if isinstance(model.get("metric"), str):
        return str(model["metric"])
    if model.get("folds") is not None and config.dataset.get("regression"):
        return "r2"
    if model.get("folds"):
        return "AUC_weighted"
    if monitored.reads_trainer(config) and config.trainer.monitor != "auto":
        return config.trainer.monitor
    if config.has_loaders:
        return monitored.loss_of(str(model["_target_"]), has_validation=True)
    score = "r2" if config.dataset.get("regression") else "accuracy"
    return f"val_{score}" if config.dataset.get("validation_size") else score


def of(config: Config) -> list[Objective]:
    """Return the objectives in a config from `resolve_defaults`."""
    return [
        Objective("accuracy" if metric == "auto" else metric, goal != "minimize", goal != "auto")
        for metric, goal in config.sweep.goals
    ]


def values(record: Record) -> list[float] | None:
    """Return a run's final value of each metric; None if it lacks one."""
    found = [record.metrics.get(one.metric) for one in of(record.typed)]
    if any(value is None or isinstance(value, bool) for value in found):
        return None
    try:
        return [float(value) for value in found]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


USUAL = ("accuracy", "r2", "val_accuracy", "val_loss")
"""Metrics by which runs with different objectives are compared, if all of them have the metric."""


def common(found: Sequence[Record]) -> Objective:
    """Return the objective for comparing a sweep's runs: their own, or a metric that all have if theirs differ.

    Args:
        found: at least one run.
    """
    first, *others = dict.fromkeys(of(record.typed)[0] for record in found)
    if not others:
        return first
    completed = [record for record in found if record.status == COMPLETED]
    shared = [name for name in USUAL if all(_number(record, name) is not None for record in completed)]
    for name in shared if completed else []:
        return Objective(name, direction.of(name) != direction.MIN)
    return first


def _number(record: Record, metric: str) -> float | None:
    value = record.metrics.get(metric)
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def no_best(finished: Sequence[Record], metric: str) -> str:
    """Say why a sweep has no best run.

    Args:
        finished: the runs; none of them is completed with a finite value of the metric.
        metric: the metric by which they are compared.
    """
    completed = [record for record in finished if record.status == COMPLETED]
    if not completed:
        return "no best run: no run is completed"
    if any(metric in record.metrics for record in completed):
        return f"no best run: no completed run has a finite value of {metric}"
    logged = ", ".join(sorted({name for record in completed for name in record.metrics}))
    if not logged:
        return "no best run: no run logged a metric"
    return f"no best run: no run logged {metric}. They logged {logged}: set sweep.metric=NAME"


def rank(record: Record, by: Objective | None = None) -> float:
    """Return the sort key of a run in its sweep, from its first metric: higher is better, -inf if not completed.

    Args:
        record: the run's record.
        by: the sweep's common objective (`common`); None: the run's own objective.
    """
    if by is not None and by != of(record.typed)[0]:
        value = _number(record, by.metric)
        return -math.inf if record.status != COMPLETED or value is None else by.score(value)
    found = values(record)
    if record.status != COMPLETED or not found:
        return -math.inf
    return of(record.typed)[0].score(found[0])
