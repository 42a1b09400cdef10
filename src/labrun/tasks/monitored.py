"""The monitored metric, which selects the best checkpoint or stops training early, and its direction."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labrun.config import schema, targets
from labrun.config.instantiate import Node
from labrun.config.schema import Config, Trainer
from labrun.errors import ConfigError
from labrun.runs import direction
from labrun.runs.direction import Direction
from labrun.tasks import base

AUTO = "auto"
WATCHERS = ("ModelCheckpoint", "EarlyStopping")
"""Lightning's callbacks that compare values of a metric."""
_WITHOUT_TRAINER = ("labrun.models.logistic_regression.", "labrun.models.pipeline.", "sklearn.")


VALIDATION = ("val_loss", "val/loss", "valid_loss", "valid/loss", "validation_loss", "validation/loss", "loss/val")
TRAINING = ("train_loss", "train/loss", "training_loss", "loss/train")


def loss_of(target: str, has_validation: bool) -> str:
    """Return the loss that `trainer.monitor=auto` selects: labrun's name for a plain network, else the module's own.

    Args:
        target: the model's `_target_`.
        has_validation: whether there is a validation split.
    """
    names = VALIDATION if has_validation else TRAINING
    if targets.is_plain_network(target):
        return names[0]
    return targets.quoted(target, names) or names[0]


OWN_KEYS = {
    "max_epochs": "trainer.max_epochs",
    "gradient_clip_val": "trainer.gradient_clip_val",
    "accumulate_grad_batches": "trainer.accumulate_grad_batches",
    "deterministic": "trainer.deterministic",
    "precision": "trainer.precision",
    "limit_train_batches": "trainer.limit_train_batches",
    "limit_val_batches": "trainer.limit_val_batches",
    "log_every_n_steps": "trainer.log_every_n_batches",
    "logger": "logger=csv, tensorboard or wandb adds one, and the record's own stays",
    "callbacks": "callbacks=... and callbacks.NAME",
    "enable_checkpointing": "callbacks=none leaves checkpoints out",
    "default_root_dir": "it is the run's folder",
}
"""Arguments of the Trainer that labrun's own keys set; records would be wrong or incomplete otherwise."""
READS_NOTHING = ("callbacks", "logger", "trainer")
"""Config groups without effect on a model that Lightning does not train."""


def reads_trainer(config: Config) -> bool:
    """Return whether a config may train a network; scikit-learn's models and scripts do not use `trainer`."""
    target = config.model.get("_target_")
    return base.of(config).trains and target is not None and not str(target).startswith(_WITHOUT_TRAINER)


def resolve_defaults(config: dict[str, Any], overrides: Sequence[str] = ()) -> None:
    """Resolve the direction of `trainer.monitor` in a config, in place, and check the callbacks and Trainer options.

    Args:
        config: the run's config.
        overrides: the overrides as typed; those without effect are reported once.

    Raises:
        ConfigError: the direction of a callback's metric is unknown, or a Trainer option is not allowed.
    """
    typed = Config(config)
    if not reads_trainer(typed):
        if base.of(typed).trains and (idle := _without_effect(overrides)):
            _warn(
                f"{', '.join(idle)}: no effect with model={str(typed.model['_target_']).rpartition('.')[2]}, which "
                "Lightning does not train: it has no epochs, callbacks or loggers"
            )
        return
    sizes = [key for key in _keys(overrides) if key in ("trainer.batch_size", "trainer.eval_batch_size")]
    if sizes and typed.dataset.get("_target_") != schema.DATASETS and typed.has_loaders:
        _warn(f"{', '.join(sizes)}: no effect with dataset={typed.dataset.get('name')}, which brings its own loaders")
    trainer = config["trainer"]
    for name in trainer.get("options") or {}:
        if name in OWN_KEYS:
            raise ConfigError(f"trainer.options.{name}: labrun sets this itself: {OWN_KEYS[name]}")
    strategy = (trainer.get("options") or {}).get("strategy")
    if isinstance(strategy, str) and "spawn" in strategy:
        raise ConfigError(
            f"trainer.options.strategy={strategy}: its processes get the training as a pickle, and loggers, loaders "
            f"and callbacks cannot be pickled. Use {strategy.replace('spawn', 'fork')}; or leave it out, and set "
            "compute.tasks_per_node=2 or compute.gpus_per_run=2"
        )
    for node in typed.callbacks.values():
        _name_each(node)
    monitor, mode = trainer["monitor"], trainer.get("monitor_mode", AUTO)
    if monitor == AUTO and mode == direction.MAX:
        raise ConfigError(
            "trainer.monitor_mode=max: trainer.monitor=auto watches the loss, which is minimized. Name the metric, "
            "as in trainer.monitor=val_accuracy"
        )
    if monitor != AUTO and mode == AUTO:
        trainer["monitor_mode"] = direction.of(monitor) or AUTO
    for name, node in _watchers(typed.callbacks):
        watched(node, name, typed.trainer)


def _without_effect(overrides: Sequence[str]) -> list[str]:
    """Return the typed keys that only training with Lightning uses."""
    return [
        key
        for key in _keys(overrides)
        if key.partition(".")[0] in READS_NOTHING and not key.startswith("trainer.resume")
    ]


def _keys(overrides: Sequence[str]) -> list[str]:
    return [text.lstrip("+~").partition("=")[0] for text in overrides]


@functools.cache
def _warn(text: str) -> None:
    """Print a warning only once, not for every run of a sweep."""
    sys.stderr.write(f"labrun: {text}\n")


def _name_each(node: Any) -> None:
    """Give each of several checkpoints its own file name, or the newest would overwrite the best."""
    if not (isinstance(node, dict) and str(node.get("_target_", "")).rpartition(".")[2] == "ModelCheckpoint"):
        return
    filename = str(node.get("filename") or "")
    overwrites = filename and "{" not in filename and node.get("enable_version_counter") is False
    if overwrites and node.get("save_top_k", 1) not in (0, 1):
        node["filename"] = f"{filename}-{{epoch}}"


def _watchers(callbacks: Node) -> Iterator[tuple[str, Node]]:
    for name, node in callbacks.items():
        if isinstance(node, Mapping) and node.get("_target_"):
            is_one = str(node["_target_"]).rpartition(".")[2] in WATCHERS or {"monitor", "mode"} <= set(node)
            if is_one and node.get("save_top_k") != 0 and not keeps_newest(node):
                yield str(name), node


def keeps_newest(node: Node) -> bool:
    """Return whether a checkpoint callback saves at regular intervals and monitors no metric.

    With `trainer.monitor` it would save nothing before the first validation, and then only improvements.
    """
    regular = node.get("every_n_train_steps") or node.get("train_time_interval")
    return bool(regular) and "monitor" not in node and node.get("save_top_k", 1) in (0, 1, -1)


def watched(node: Node, name: str, trainer: Trainer) -> tuple[str, Direction]:
    """Return the metric that a callback monitors (`auto` means the loss) and its direction.

    Args:
        node: the callback's config node.
        name: its key in `callbacks`.
        trainer: the config's `trainer`.

    Raises:
        ConfigError: the direction is unknown.
    """
    metric = str(node.get("monitor") or trainer.monitor)
    mode = node.get("mode")
    if mode in (direction.MIN, direction.MAX):
        return metric, mode
    if metric == AUTO:
        return metric, direction.MIN
    is_main = metric == trainer.monitor
    if is_main and trainer.monitor_mode != "auto":
        return metric, trainer.monitor_mode
    found = direction.of(metric)
    if found is not None:
        return metric, found
    said = "trainer.monitor" if is_main else f"callbacks.{name}.monitor"
    key = "trainer.monitor_mode" if is_main else f"callbacks.{name}.mode"
    raise ConfigError(
        f"{said}={metric}: callbacks.{name} compares its values, and the name does not say whether higher or lower is "
        f"better. Set {key}=max or {key}=min"
    )
