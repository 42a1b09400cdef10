"""What a training watches: the metric that picks the best checkpoint or ends it early, and its direction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from labrun import direction
from labrun.direction import Direction
from labrun.errors import ConfigError

AUTO = "auto"
WATCHERS = ("ModelCheckpoint", "EarlyStopping")
"""Lightning's callbacks that compare values of a metric."""
_WITHOUT_TRAINER = ("labrun.models.logistic_regression.", "labrun.models.pipeline.", "sklearn.")


def reads_trainer(config: Mapping[str, Any]) -> bool:
    """Whether a config may train a network: scikit-learn's models and scripts read nothing of `trainer`."""
    target = (config.get("model") or {}).get("_target_")
    return config.get("task") == "fit" and target is not None and not str(target).startswith(_WITHOUT_TRAINER)


def settle(config: dict[str, Any]) -> None:
    """Put the direction of `trainer.monitor` into a config; changes it.

    Raises:
        ConfigError: a callback compares values of a metric whose name does not tell whether it is to be large.
    """
    if not reads_trainer(config):
        return
    trainer = config["trainer"]
    monitor, mode = trainer["monitor"], trainer.get("monitor_mode", AUTO)
    if monitor == AUTO and mode == direction.MAX:
        raise ConfigError(
            "trainer.monitor_mode=max: trainer.monitor=auto watches the loss, which is to be small. Name the metric, "
            "as in trainer.monitor=val_accuracy"
        )
    if monitor != AUTO and mode == AUTO:
        trainer["monitor_mode"] = direction.of(monitor) or AUTO
    for name, node in _watchers(config):
        watched(node, name, trainer)


def _watchers(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, node in (config.get("callbacks") or {}).items():
        if isinstance(node, Mapping) and node.get("_target_"):
            is_one = str(node["_target_"]).rpartition(".")[2] in WATCHERS or {"monitor", "mode"} <= set(node)
            if is_one and node.get("save_top_k") != 0:
                yield str(name), node


def watched(node: Mapping[str, Any], name: str, trainer: Mapping[str, Any]) -> tuple[str, Direction]:
    """Which metric a callback watches (`auto`: the loss), and whether it is to be large or small.

    Args:
        node: the callback's config.
        name: what it is called there.
        trainer: the config's `trainer`.

    Raises:
        ConfigError: nothing tells.
    """
    metric = str(node.get("monitor") or trainer["monitor"])
    mode = node.get("mode")
    if mode in (direction.MIN, direction.MAX):
        return metric, mode
    if metric == AUTO:
        return metric, direction.MIN
    is_main = metric == trainer["monitor"]
    if is_main and trainer.get("monitor_mode", AUTO) != AUTO:
        return metric, trainer["monitor_mode"]
    found = direction.of(metric)
    if found is not None:
        return metric, found
    said = "trainer.monitor" if is_main else f"callbacks.{name}.monitor"
    key = "trainer.monitor_mode" if is_main else f"callbacks.{name}.mode"
    raise ConfigError(
        f"{said}={metric}: callbacks.{name} compares its values, and the name does not tell whether large or small "
        f"ones are good. Say {key}=max or {key}=min"
    )
