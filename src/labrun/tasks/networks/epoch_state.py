"""Averages and metrics gathered since the start of an epoch, which Lightning leaves out of checkpoints.

With them, a training resumed within an epoch ends it with the same values as without the interruption. A running best
(torchmetrics' `MaxMetric`, `MinMetric`) is also kept at the end of an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MaxMetric, Metric, MetricCollection, MinMetric

from labrun.tasks.networks.batch_sources import overrides
from labrun.tasks.networks.progress import is_midway

log = logging.getLogger(__name__)

LOST = {
    "on_train_epoch_end": "lists and numbers that the module itself gathers over an epoch cover only the rest of this "
    "epoch. Values that it logs, and its torchmetrics, cover all of it",
    "on_train_batch_end": "not called for the last batch before the interruption: its checkpoint was written earlier",
}
"""Hooks whose work is not entirely in a checkpoint, and the missing part."""
Values = dict[str, Any]
"""Plain values, tensors and lists of tensors, which a checkpoint stores unchanged."""


def capture(trainer: Any, module: Any, midway: bool) -> Values:
    """Return what has been gathered so far.

    Args:
        trainer: the Trainer, during training.
        module: the module in training.
        midway: whether the epoch is in progress; otherwise only running bests are returned.
    """
    for collection in module.modules():
        if isinstance(collection, MetricCollection):
            collection.values()  # updates metrics that share a state, of which only the first is current
    found: Values = {
        "metrics": {
            name: metric_state(metric)
            for name, metric in _metrics(module)
            if metric.update_called and (midway or isinstance(metric, MaxMetric | MinMetric))
        }
    }
    if midway:
        found["averages"] = {key: _average(one) for key, one in _logged(trainer).items() if _is_average(one)}
        if gathers(module):
            found["own"] = module.epoch_state()
    return found


class EpochState:
    """Saves what each process has gathered in the epoch to checkpoints, and restores it.

    Args:
        counts: whether to restore what a resumed run gathered.
    """

    KEY = "labrun_gathered"

    def __init__(self, counts: bool) -> None:
        self._counts = counts
        self._values: Values = {}
        self._averages: Values = {}

    def save(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what has been gathered so far to a checkpoint."""
        own = capture(trainer, module, is_midway(checkpoint))
        of_all = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(of_all, own)
        checkpoint[self.KEY] = of_all

    def load(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Load from a checkpoint what `restore` needs, and warn of what it cannot contain."""
        found = checkpoint.get(self.KEY)
        if self._counts and isinstance(found, list) and len(found) == trainer.world_size:
            self._values = found[trainer.global_rank]
            if is_midway(checkpoint):
                self._warn_about_own_state(module)
        elif is_midway(checkpoint):
            log.warning(
                "This epoch's training averages cover only the rest of the epoch: what came before cannot be restored"
            )

    @staticmethod
    def _warn_about_own_state(module: Any) -> None:
        """Warn of lists and sums in the module's own code, which no checkpoint contains."""
        for name, lost in LOST.items() if not gathers(module) else ():
            code = getattr(getattr(module, name), "__code__", None)
            if overrides(module, name, "LightningModule") and (code is None or code.co_names):
                log.warning("%s.%s: %s", type(module).__name__, name, lost)

    def restore(self, trainer: Any, module: Any) -> None:
        """Restore what is pending, around each batch: hooks at the start of training may reset metrics before that."""
        if self._values:
            self._begin(module)
        if self._averages:
            self._merge(trainer)

    def end(self, trainer: Any) -> None:
        """Restore what is pending for the last time in this epoch."""
        if self._averages:
            self._merge(trainer)
            names = sorted({key.split(".", 1)[1] for key in self._averages})
            if names:
                log.warning("Logged only before the interruption, and not in this epoch's values: %s", ", ".join(names))
            self._averages = {}

    def _begin(self, module: Any) -> None:
        values, self._values = self._values, {}
        known = dict(_metrics(module))
        for name in values["metrics"].keys() & known.keys():
            take_metric_state(known[name], values["metrics"][name])
        if "own" in values and gathers(module):
            module.load_epoch_state(values["own"])
        self._averages = dict(values.get("averages", {}))

    def _merge(self, trainer: Any) -> None:
        """Add values logged before the interruption to those logged since; Lightning creates a sum at its first log."""
        logged = _logged(trainer)
        for key in self._averages.keys() & logged.keys():
            one, before = logged[key], self._averages.pop(key)
            if not _is_average(one):
                continue
            value = before["value"].to(one.value.device)
            is_extreme = one.meta.is_max_reduction or one.meta.is_min_reduction
            one.value = one.meta.reduce_fx(value, one.value) if is_extreme else value + one.value
            if one.meta.is_mean_reduction:
                one.cumulated_batch_size = before["weight"].to(one.value.device) + one.cumulated_batch_size
            one._computed = None


def metric_state(metric: Metric) -> Values:
    """Return a metric's state as plain values."""
    return {"updates": metric.update_count, "state": {key: _cpu(value) for key, value in metric.metric_state.items()}}


def take_metric_state(metric: Metric, found: Values) -> None:
    """Restore a metric's state from `metric_state`."""
    for key in found["state"].keys() & metric.metric_state.keys():
        setattr(metric, key, _moved(found["state"][key], metric.device))
    # No public call sets these; with a count of 0, torchmetrics would warn that nothing has been added.
    metric._update_count, metric._computed = found["updates"], None


def gathers(module: Any) -> bool:
    """Return whether a module is one of labrun's, which keep their own sums in addition to Lightning's."""
    return type(module).__module__.startswith("labrun.")


def _metrics(module: nn.Module) -> Iterator[tuple[str, Metric]]:
    return ((name, one) for name, one in module.named_modules() if isinstance(one, Metric))


def _logged(trainer: Any) -> dict[str, Any]:
    return getattr(trainer.fit_loop.epoch_loop, "_results", None) or {}


def _is_average(one: Any) -> bool:
    """Return whether Lightning itself reduces an epoch's values, rather than a metric that was logged as an object."""
    return bool(one.is_tensor and one.meta.on_epoch and not one.has_reset)


def _average(one: Any) -> Values:
    weight = {"weight": _cpu(one.cumulated_batch_size)} if one.meta.is_mean_reduction else {}
    return {"value": _cpu(one.value), **weight}


def _cpu(value: Any) -> Any:
    return _moved(value, torch.device("cpu"))


def _moved(value: Any, device: torch.device) -> Any:
    """Copy a state to a device."""
    if isinstance(value, list | tuple):
        return type(value)(_moved(one, device) for one in value)
    return value.detach().clone().to(device) if isinstance(value, Tensor) else value
