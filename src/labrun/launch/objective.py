"""What a sweep's runs are compared by: its metrics, and whether each is to be large or small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labrun.errors import ConfigError
from labrun.runs import record as records
from labrun.runs import store
from labrun.runs.record import Record


@dataclass(frozen=True)
class Objective:
    """One metric, and its direction."""

    metric: str
    maximize: bool

    def score(self, value: float) -> float:
        """A value of the metric as a score: more is better; what is not finite tells nothing, and is worst."""
        if not math.isfinite(value):
            return -math.inf
        return value if self.maximize else -value


def settle(config: dict[str, Any]) -> None:
    """Put the metrics and goals that `auto` stands for into a config; changes it.

    Raises:
        ConfigError: there are not as many goals as metrics, or a metric stands twice.
    """
    sweep = config["sweep"]
    several = isinstance(sweep["metric"], list)
    metrics = list(sweep["metric"]) if several else [sweep["metric"]]
    goals = list(sweep["goal"]) if isinstance(sweep["goal"], list) else [sweep["goal"]] * len(metrics)
    if not metrics or len(set(metrics)) < len(metrics) or any(not str(metric).strip() for metric in metrics):
        raise ConfigError(f"sweep.metric={sweep['metric']}: give the name of a metric, or several different ones")
    if len(goals) != len(metrics):
        raise ConfigError(f"sweep.goal={sweep['goal']}: give one goal, or one for each of {', '.join(metrics)}")
    if config.get("task") == "script" and sweep.get("sampler") and "auto" in metrics:
        raise ConfigError("sweep.metric: name the metric that the script logs, as in sweep.metric=val_loss")
    metrics = [_usual(config) if metric == "auto" else metric for metric in metrics]
    goals = [
        ("minimize" if store.is_to_be_small(metric) else "maximize") if goal == "auto" else goal
        for metric, goal in zip(metrics, goals, strict=True)
    ]
    sweep["metric"], sweep["goal"] = (metrics, goals) if several else (metrics[0], goals[0])


def _usual(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    if not model:
        return "accuracy"  # what a script logs is not known before it runs
    if isinstance(model.get("metric"), str):
        return str(model["metric"])
    if model.get("folds"):
        return "r2" if config["dataset"].get("regression") else "AUC_weighted"
    return "val_accuracy" if config["dataset"].get("validation_size") else "accuracy"


def of(config: Mapping[str, Any]) -> list[Objective]:
    """The objectives of a run's config, `auto` settled."""
    sweep = config.get("sweep", {})
    metrics, goals = sweep.get("metric", "accuracy"), sweep.get("goal", "maximize")
    if not isinstance(metrics, list):
        metrics, goals = [metrics], [goals]
    # Records of older versions have no metric.
    return [
        Objective("accuracy" if metric == "auto" else metric, goal != "minimize")
        for metric, goal in zip(metrics, goals, strict=True)
    ]


def values(record: Record) -> list[float] | None:
    """A run's final value of each metric, or None if it lacks one."""
    found = [record.metrics.get(one.metric) for one in of(record.config)]
    if any(value is None or isinstance(value, bool) for value in found):
        return None
    try:
        return [float(value) for value in found]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def rank(record: Record) -> float:
    """What a sweep's runs are sorted by, the best largest: the first metric, of completed runs."""
    found = values(record)
    if record.status != records.COMPLETED or not found:
        return -math.inf
    return of(record.config)[0].score(found[0])
