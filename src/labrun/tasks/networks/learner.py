"""Trains plain networks of any kind: takes batches apart, and chooses the loss and the metrics.

`labrun.tasks.networks.classifier.Classifier` trains networks that classify labrun's own arrays, and is faster. This
module takes batches of any structure, any loss and any metrics. Whatever the config leaves open is chosen by the first
batch and logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import classification, regression

from labrun.config.instantiate import Node, build, locate, parameters
from labrun.config.schema import Config, LearningSettings
from labrun.errors import ConfigError, UnfitError
from labrun.runs.cards import TargetKind
from labrun.tasks import outputs
from labrun.tasks.networks.epoch_state import metric_state, take_metric_state
from labrun.tasks.networks.metric_names import OF_A_LOADER
from labrun.tasks.task import is_named, optimizer_of, scheduler_of

log = logging.getLogger(__name__)

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
"""Names that the target may have in a dict batch."""
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
IGNORED = -100
"""The class index that torch's cross-entropy ignores."""
OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
"""Losses whose target holds class indices."""
OF_LABELS = (
    "BCEWithLogitsLoss",
    "BCELoss",
    "MultiLabelSoftMarginLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multilabel_soft_margin_loss",
)
"""Losses whose target holds 0 or 1 for each label, as floats."""
OF_QUANTITIES = (
    *("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss"),
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss"),
)
"""Losses whose target holds quantities, possibly as integers."""
DEFAULT_OPTIMIZER = {"_target_": "torch.optim.Adam", "_partial_": True}
DEFAULT_LR = 1e-3


@dataclass(frozen=True)
class Batch:
    """A batch split into the network's arguments and the target."""

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    target: Tensor

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.target)


def taken_apart(batch: Any, network: nn.Module, target: str | None) -> Batch:
    """Split a batch of any structure into inputs and a target.

    Args:
        batch: a tuple `(input, ..., target)`, a dict with the target under one of `TARGET_KEYS`, or a tensor.
        network: receives the inputs; from a dict, those that are parameters of its `forward`.
        target: `input` if the network is to reproduce its (first) input.

    Raises:
        UnfitError: there is no target, or `forward` takes nothing from a dict.
    """
    if isinstance(batch, Tensor):
        return Batch((batch,), {}, batch)
    if isinstance(batch, Mapping):
        return _of_dict(batch, network, target)
    if not isinstance(batch, Sequence) or not batch or not all(isinstance(one, Tensor | Mapping) for one in batch):
        raise UnfitError(
            f"a batch is a {type(batch).__name__}, but a plain network takes a tensor, a tuple (input, ..., target) or "
            "a dict: set dataset.collate_fn, or use a LightningModule with its own training_step"
        )
    first = batch[0]
    if len(batch) == 1 or target == "input":
        if not isinstance(first, Tensor):
            raise UnfitError("model.target=input: the first part of a batch is not a tensor")
        return Batch((first,), {}, first)
    if not isinstance(batch[-1], Tensor):
        raise UnfitError("the last part of a batch must be the target, but it is a dict")
    return Batch(tuple(batch[:-1]), {}, batch[-1])


def _target_key(batch: Mapping[str, Any]) -> str | None:
    return next((name for name in TARGET_KEYS if name in batch), None)


def _inputs_of_dict(batch: Mapping[str, Any], network: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the network's positional and keyword arguments from a dict batch."""
    key = _target_key(batch)
    inputs = {name: value for name, value in batch.items() if name != key}
    known = inspect.signature(network.forward).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    named = {name: value for name, value in inputs.items() if takes_all or name in known}
    if named:
        return (), named
    if len(inputs) == 1:
        return tuple(inputs.values()), {}
    raise UnfitError(
        f"a batch has {', '.join(batch)}, but the network's forward() takes {', '.join(known) or 'nothing'}: name "
        "its parameters after the batch's keys"
    )


def _of_dict(batch: Mapping[str, Any], network: nn.Module, wanted: str | None) -> Batch:
    key, known = _target_key(batch), inspect.signature(network.forward).parameters
    args, named = _inputs_of_dict(batch, network)
    if wanted == "input" or key is None:
        value = next(iter([*args, *named.values()]))
        if key is None and wanted != "input":
            raise UnfitError(
                f"a batch has {', '.join(batch)}, but no target ({', '.join(TARGET_KEYS)}). If the network reproduces "
                "its input, set model.target=input"
            )
        return Batch(args, named, value)
    if key in known:  # a network that computes its own loss
        named = {**named, key: batch[key]}
    return Batch(args, named, batch[key])


def scores_of(output: Any) -> Tensor:
    """Return the tensor of scores in a network's output.

    Raises:
        UnfitError: the output has none.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    elif not isinstance(output, Tensor | Mapping) and isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise UnfitError(f"the network returns a {type(output).__name__}, but must return a tensor of scores")
    return output


def classes_are_last(scores: Tensor, target: Tensor) -> bool | None:
    """Return whether class scores are (N, ..., C) rather than (N, C, ...), or None if their shape is ambiguous.

    Raises:
        UnfitError: they are neither.
    """
    last, second = scores.shape[:-1] == target.shape, (scores.shape[:1] + scores.shape[2:]) == target.shape
    if not last and not second:
        raise UnfitError(
            f"the network returns {tuple(scores.shape)} for a target of {tuple(target.shape)} class numbers, but must "
            "return a score for each class, (N, classes, ...) or (N, ..., classes)"
        )
    return last if scores.ndim == 2 or last != second else None


def forward_scores(network: nn.Module, batch: Any, target: str | None = None) -> Tensor:
    """Return a network's scores for a batch with or without a target.

    Args:
        network: a plain network.
        batch: see `taken_apart`; if a tuple has exactly as many parts as `forward` requires, all are inputs.
        target: see `taken_apart`.

    Raises:
        UnfitError: the network takes nothing from the batch, or its output has no scores.
    """
    if isinstance(batch, Tensor):
        return scores_of(network(batch))
    if isinstance(batch, Mapping):
        parts = _inputs_of_dict(batch, network)
        return scores_of(network(*parts[0], **parts[1]))
    known = inspect.signature(network.forward).parameters.values()
    needed = [one for one in known if one.kind in POSITIONAL and one.default is one.empty]
    if isinstance(batch, Sequence) and len(batch) == len(needed) > 1:
        return scores_of(network(*batch))
    found = taken_apart(batch, network, target)
    return scores_of(network(*found.args, **found.named))


class LossAndMetrics:
    """A plain network's loss and metrics: those of the config, or chosen by the first batch.

    Args:
        settings: the config's loss and metrics.
        classes: number of classes in the data, if known.
        weights: class weights of the loss; None weighs all classes equally.
    """

    def __init__(self, settings: LearningSettings, classes: int | None, weights: Tensor | None) -> None:
        self.settings, self._classes, self._weights = settings, classes, weights
        self.weights = None if weights is None else weights.tolist()
        self.is_inferred = False
        self.loss: Any = None
        self.metrics: dict[str, Any] = {}
        self.kind: TargetKind | None = None
        """None until the first batch."""
        self.classes_last = False
        self.known_last: bool | None = None
        """`classes_last` of a saved network, from its card."""
        self._guessed: tuple[int, ...] | None = None
        """Shape of the ambiguous scores from which `classes_last` was guessed."""

    def infer(self, scores: Tensor, target: Tensor, computes_own: bool) -> None:
        """Build the loss and the metrics, choosing those that the config leaves open.

        Raises:
            UnfitError: the loss cannot be inferred, or does not fit the scores and the target.
            ConfigError: the config's loss or metrics cannot be built.
        """
        known, why = self._kind_of(scores, target)
        self.kind, self.is_inferred = known, True
        if known is TargetKind.CLASSES:
            self._find_class_axis(scores, target)
        if known is TargetKind.CLASSES and self._weights is not None:
            if self.settings.class_weight == "balanced" and target.numel() != len(target):
                raise UnfitError(
                    "model.class_weight=balanced needs one class for each sample, but the target holds "
                    f"{target.numel() // len(target)} for each: give a weight for each class, "
                    "model.class_weight=[1.0,2.5]"
                )
            count = self._second(scores, target).shape[1]
            if count != len(self._weights):
                raise UnfitError(
                    f"model.class_weight: there are {len(self._weights)} weights, but the network has {count} "
                    "classes: give a weight for each, model.class_weight=[1.0,2.5]"
                )
        node = self.settings.loss
        if node is not None and is_named(node):
            self.loss = self._built(node, "model.loss", scores, target)
        elif not computes_own:
            self.loss = self._default(known)
            log.info("Loss: %s, chosen by the first batch (%s)", type(self.loss).__name__, why)
        if isinstance(self.loss, OF_CLASSES) and known is not TargetKind.CLASSES and not target.is_floating_point():
            raise UnfitError(
                f"model.loss: {type(self.loss).__name__} takes a score for each class, but the network returns "
                f"{tuple(scores.shape)} for a target of {tuple(target.shape)} class numbers"
            )
        if isinstance(self.loss, nn.Module):
            self.loss.to(scores.device)
        if given := self.settings.metrics:
            self.metrics = {
                str(name): self._built(one, f"model.metrics.{name}", scores, target)
                for name, one in given.items()
                if one is not None and is_named(one)
            }
        else:
            self.metrics = self._default_metrics(known, scores, target)

    def _find_class_axis(self, scores: Tensor, target: Tensor) -> None:
        """Determine the class axis. A guess is logged, and a later batch may correct it."""
        found = classes_are_last(scores, target)
        found = self.known_last if found is None else found
        if found is None:
            self._guessed, self.classes_last = tuple(scores.shape), scores.ndim == 3
            log.warning(
                "The first batch does not show which axis is that of the classes: its scores, %s, are taken as %s",
                self._guessed,
                "(N, places, classes)" if self.classes_last else "(N, classes, ...)",
            )
        else:
            self._guessed, self.classes_last = None, found

    def _second(self, scores: Tensor, target: Tensor) -> Tensor:
        """Move the class axis of scores to position 1, where torch's losses expect it.

        Shapes:
            scores: (N, C, ...), or (N, ..., C) from sequence models.
            target: (N, ...).
            returns: (N, C, ...).

        Raises:
            UnfitError: the shapes do not match.
        """
        found = classes_are_last(scores, target)
        if found is not None and self._guessed is not None:
            if found != self.classes_last:
                log.warning(
                    "Scores of %s were read along the wrong axis, as a later batch shows: %s",
                    self._guessed,
                    tuple(scores.shape),
                )
            self._guessed, self.classes_last = None, found
        last = self.classes_last if found is None else found
        return scores.movedim(-1, 1) if last else scores

    def _kind_of(self, scores: Tensor, target: Tensor) -> tuple[TargetKind, str]:
        named = str((self.settings.loss or {}).get("_target_")).rpartition(".")[2]
        if named in OF_QUANTITIES:
            return TargetKind.QUANTITY, ""
        is_whole, is_one_each = not target.is_floating_point(), scores.numel() == target.numel()
        if is_whole and scores.ndim == target.ndim + 1 and not is_one_each:
            return TargetKind.CLASSES, "its target holds class numbers"
        is_of_labels = named in OF_LABELS or (named != "None" and _are_bits(target) and self._has_metrics_of_labels())
        if is_of_labels or (is_whole and is_one_each and _are_bits(target)):
            return TargetKind.LABELS, "its target holds a 0 or 1 for each label"
        if is_whole and is_one_each:
            return TargetKind.QUANTITY, "its target holds whole numbers, and the network returns one for each"
        if target.is_floating_point() and named == "None" and _are_bits(target):
            raise UnfitError(
                f"the target of the first batch, {tuple(target.shape)} {target.dtype}, holds only 0 and 1, which may "
                "be labels or numbers: set model.loss._target_=torch.nn.BCEWithLogitsLoss, or torch.nn.MSELoss"
            )
        if target.is_floating_point():
            return TargetKind.QUANTITY, "its target holds numbers"
        if is_named(self.settings.loss):
            return TargetKind.OTHER, ""
        raise UnfitError(
            f"the network returns {tuple(scores.shape)} for a target of {tuple(target.shape)} {target.dtype}, and "
            "the loss cannot be inferred: set model.loss._target_=torch.nn...."
        )

    def _has_metrics_of_labels(self) -> bool:
        named = [str((one or {}).get("_target_")).rpartition(".")[2] for one in (self.settings.metrics or {}).values()]
        return any(one.startswith(("Multilabel", "Binary")) for one in named)

    def _default(self, kind: TargetKind) -> Any:
        if kind is TargetKind.CLASSES:
            return nn.CrossEntropyLoss(weight=self._weights, ignore_index=IGNORED)
        if self._weights is not None:
            raise UnfitError("model.class_weight: the target holds no class numbers, so there are no classes to weight")
        return nn.BCEWithLogitsLoss() if kind is TargetKind.LABELS else nn.MSELoss()

    def _default_metrics(self, kind: TargetKind, scores: Tensor, target: Tensor) -> dict[str, Any]:
        if kind is TargetKind.CLASSES:
            count = self._second(scores, target).shape[1]
            return {"accuracy": classification.MulticlassAccuracy(count, average="micro", ignore_index=IGNORED)}
        if kind is TargetKind.LABELS:
            count = scores.shape[1] if scores.ndim > 1 else 1
            if count == 1:
                return {"accuracy": classification.BinaryAccuracy(), "f1": classification.BinaryF1Score()}
            return {
                "accuracy": classification.MultilabelAccuracy(num_labels=count),
                "f1": classification.MultilabelF1Score(num_labels=count),
            }
        if kind is TargetKind.QUANTITY:
            return {
                "rmse": regression.MeanSquaredError(squared=False),
                "mae": regression.MeanAbsoluteError(),
                **({"r2": regression.R2Score()} if target.numel() == len(target) else {}),
            }
        return {}

    def _built(self, node: Node, key: str, scores: Tensor, target: Tensor) -> Any:
        count = self._classes or (scores.shape[1] if scores.ndim > 1 else 1)
        if self.kind is TargetKind.CLASSES:
            count = self._second(scores, target).shape[1]
        offered: dict[str, Any] = {"num_classes": count, "num_labels": count}
        if key == "model.loss":
            offered["weight"] = self._weights
            if self._weights is not None and "weight" not in parameters(locate(node["_target_"], key)):
                raise ConfigError(f"model.class_weight: {node['_target_']} takes no class weights")
        found = locate(str(node["_target_"]), key)
        if not isinstance(found, type):
            return build({"_partial_": True, **node}, key)  # a function, such as those of torch.nn.functional
        made = build(node, key, **{name: value for name, value in offered.items() if value is not None})
        if key != "model.loss" and not isinstance(made, torchmetrics.Metric):
            raise ConfigError(
                f"{key}._target_={node['_target_']!r} gives a {type(made).__name__}, not a torchmetrics.Metric"
            )
        return made

    def loss_of(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch.

        Raises:
            UnfitError: the shapes do not match; torch would broadcast them.
        """
        if isinstance(self.loss, OF_CLASSES) or (
            self.kind is TargetKind.CLASSES and not isinstance(self.loss, nn.Module)
        ):
            scores = self._second(scores, target) if scores.ndim == target.ndim + 1 else scores
            found: Tensor = self.loss(scores, target)
            return found
        pair = _alike(scores, target) if self.kind is not TargetKind.CLASSES else (scores, target)
        found = self.loss(*pair)
        if found.ndim:
            raise ConfigError(
                f"model.loss returns {tuple(found.shape)}, but must return one number: set reduction=mean"
            )
        return found

    def measured(self, metric: Any, scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return a metric's inputs: class axis second for classification, equal shapes for regression."""
        if type(metric).__module__.startswith("torchmetrics.classification") and self.kind is TargetKind.CLASSES:
            return self._second(scores, target), target
        if self.kind is TargetKind.QUANTITY:
            first, second = _alike(scores, target)
            is_flat = type(metric).__module__.startswith("torchmetrics.regression") and first.ndim > 2
            return (first.flatten(), second.flatten()) if is_flat else (first.contiguous(), second.contiguous())
        if self.kind is TargetKind.LABELS:
            first, second = _alike(scores, target)
            is_binary = type(metric).__name__.startswith("Binary")
            return (first.flatten(), second.flatten().int()) if is_binary else (first, second.int())
        return scores, target


def _are_bits(target: Tensor) -> bool:
    return bool(((target == 0) | (target == 1)).all())


def _flattens(shape: Sequence[int], flat: Sequence[int]) -> bool:
    """Return whether merging adjacent axes of a shape yields the other shape; axes of size 1 are ignored."""
    left = [size for size in shape if size != 1]
    for size in [size for size in flat if size != 1]:
        product = left.pop(0) if left else 0
        while product < size and left:
            product *= left.pop(0)
        if product != size:
            return False
    return not left


def _alike(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores in the target's shape, and the target in the scores' dtype."""
    if scores.shape != target.shape:
        if not (_flattens(scores.shape, target.shape) or _flattens(target.shape, scores.shape)):
            raise UnfitError(
                f"the network returns {tuple(scores.shape)} for a target of {tuple(target.shape)}: the shapes must "
                "be the same, or one must be the other flattened"
            )
        scores = scores.reshape(target.shape)
    return scores, target if target.dtype == scores.dtype or scores.dtype == torch.long else target.to(scores.dtype)


class Learner(pl.LightningModule):
    """Trains a plain network by its `LossAndMetrics`.

    Logs `train_loss` and `val_loss`, and the metrics as `train_NAME` and `val_NAME` (step: the epoch). For the test
    split it logs `test_loss`, and the metrics under their own names. With `trainer.log_every_n_batches` it also logs
    `loss`.
    """

    def __init__(self, network: nn.Module, config: Config, loss_and_metrics: LossAndMetrics) -> None:
        super().__init__()
        self.network = network
        self._node, self._settings = config.model, config.trainer
        self._target = loss_and_metrics.settings.target
        self._loss_and_metrics = loss_and_metrics
        self._metrics: dict[tuple[str, int], dict[str, Any]] = {}
        self._before: dict[str, Any] = {}

    @property
    def learns(self) -> dict[str, Any]:
        """The card's entries on the target; empty if no batch has been seen."""
        loss_and_metrics = self._loss_and_metrics
        named = getattr(loss_and_metrics.loss, "__name__", type(loss_and_metrics.loss).__name__)
        if loss_and_metrics.kind is None:
            return {}
        weights = {} if loss_and_metrics.weights is None else {"class_weights": loss_and_metrics.weights}
        return outputs.described(loss_and_metrics.kind, loss_and_metrics.classes_last, named) | weights

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._step(batch, "train")
        if self._settings.log_every_n_batches:
            self.log("loss", loss.detach(), on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch, "val", dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._step(batch, "test", dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return forward_scores(self.network, batch, self._target)

    def _step(self, batch: Any, stage: str, loader: int = 0) -> Tensor:
        parts = taken_apart(batch, self.network, self._target)
        output = self.network(*parts.args, **parts.named)
        scores, own = scores_of(output), _own_loss(output)
        if not self._loss_and_metrics.is_inferred:
            self._loss_and_metrics.infer(scores.detach(), parts.target, own is not None)
        loss = self._loss_and_metrics.loss_of(scores, parts.target) if self._loss_and_metrics.loss is not None else own
        assert loss is not None
        together = self.trainer.world_size > 1
        name = f"{stage}_loss"
        self.log(name, loss.detach(), on_step=False, on_epoch=True, batch_size=parts.size, sync_dist=together)
        for metric in self._of(stage, loader).values():
            metric.update(*self._loss_and_metrics.measured(metric, scores.detach(), parts.target))
        return loss

    def on_train_epoch_end(self) -> None:
        self._log_epoch_metrics("train")

    def on_validation_epoch_end(self) -> None:
        self._log_epoch_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_epoch_metrics("test")

    def _log_epoch_metrics(self, stage: str) -> None:
        """Log an epoch's metrics of each loader. torchmetrics synchronizes them across processes."""
        own = {loader: metrics for (name, loader), metrics in self._metrics.items() if name == stage}
        for loader, metrics in own.items():
            ending = f"{OF_A_LOADER}{loader}" if len(own) > 1 else ""  # Lightning's suffix for the losses
            for name, metric in metrics.items():
                value = metric.compute()
                metric.reset()
                for key, number in _numbers(name, value, type(metric).__name__):
                    full = f"{key}{ending}" if stage == "test" else f"{stage}_{key}{ending}"
                    together = self.trainer.world_size > 1
                    self.log(full, number, sync_dist=together, add_dataloader_idx=False)

    def _of(self, stage: str, loader: int) -> dict[str, Any]:
        if (stage, loader) not in self._metrics:
            self._metrics[stage, loader] = made = {
                name: metric.clone().to(self.device) for name, metric in self._loss_and_metrics.metrics.items()
            }
            for name in made.keys() & self._before.keys() if stage == "train" else ():
                take_metric_state(made[name], self._before.pop(name))
        return self._metrics[stage, loader]

    def epoch_state(self) -> dict[str, Any]:
        """Return the state of this epoch's metrics, for a checkpoint within the epoch."""
        return {name: metric_state(metric) for name, metric in self._metrics.get(("train", 0), {}).items()}

    def load_epoch_state(self, values: dict[str, Any]) -> None:
        """Restore the metrics' state from `epoch_state`, as soon as the first batch has determined the metrics."""
        self._before = dict(values)

    def configure_optimizers(self) -> Any:
        return optimizers(self.parameters(), self._node, self._settings.max_epochs)


MOST = 100
"""Maximum numbers from one metric."""


def _numbers(name: str, value: Any, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Yield a metric's numbers: one, one per class or output (`NAME_0`), or those of a dict (`NAME_KEY`).

    Raises:
        ConfigError: the metric returns something else.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        yield name, value
    elif isinstance(value, Tensor) and value.ndim == 1 and 0 < len(value) <= MOST:
        yield from ((f"{name}_{place}", one) for place, one in enumerate(value))
    elif isinstance(value, Mapping) and value and all(isinstance(one, Tensor) for one in value.values()):
        for key, one in value.items():
            yield from _numbers(f"{name}_{key}", one, kind)
    else:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(
            f"model.metrics.{name}: {kind} returns {shape}, but a record takes one number or a list of them"
        )


def optimizers(parameters: Any, node: Node, max_epochs: int) -> Any:
    """Return the optimizer and scheduler of a model's config, in the form that Lightning expects."""
    lr = node.get("lr")
    optimizer = optimizer_of(node.get("optimizer") or {**DEFAULT_OPTIMIZER, "lr": lr or DEFAULT_LR})(parameters)
    scheduler = node.get("scheduler")
    made = scheduler_of(scheduler, max_epochs)
    if made is None or scheduler is None:
        return optimizer
    interval = scheduler.get("interval", "epoch")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": made(optimizer), "interval": interval}}


def _own_loss(output: Any) -> Tensor | None:
    """Return the loss that a network computed itself, as Hugging Face's do; None if it did not."""
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return found if isinstance(found, Tensor) else None
