"""Fast training of networks that turn batches from memory into class scores."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from labrun.config.schema import Config
from labrun.runs import context
from labrun.tasks.networks.learner import optimizers
from labrun.tasks.networks.record_logger import validates_by_epoch

log = logging.getLogger(__name__)

OWN = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
"""Metrics that a `Classifier` logs to the record directly, since Lightning would round them."""


class Classifier(pl.LightningModule):
    """Trains any network that turns a batch into class scores, with cross-entropy.

    Logs to the run: `loss` (running mean) every `log_every_n_batches`; at the end of each epoch `train_loss` and
    `train_accuracy`, and with a validation split `val_loss` and `val_accuracy` (step: the epoch, starting at 1).
    """

    def __init__(self, network: nn.Module, config: Config) -> None:
        super().__init__()
        self.network = network
        self._model_node = config.model
        self._log_every, self._max_epochs = config.trainer.log_every_n_batches, config.trainer.max_epochs
        self._train = _Running()
        self._recent = _Running()
        self._validation = _Running()

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this attribute for each hook, 40 times per step, and torch's __setattr__ is slow.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.network(x)
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        scores = self.network(x)
        loss = nn.functional.cross_entropy(scores, y)
        self._train.add(loss, scores, y)
        if self._log_every:
            self._recent.add_loss(loss)
            if (batch_idx + 1) % self._log_every == 0:
                value = self._recent.pop_mean()
                if self.trainer.is_global_zero:
                    context.log("loss", value, self.trainer.global_step + 1, self.current_epoch + 1)
                log.info("[%d, %5d] loss: %.3f", self.current_epoch + 1, batch_idx + 1, value)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        scores = self.network(x)
        self._validation.add(nn.functional.cross_entropy(scores, y) * len(y), scores, y, weight=len(y))

    def on_validation_epoch_end(self) -> None:
        loss, accuracy = self._validation.pop()
        step = None if validates_by_epoch(self.trainer) else self.trainer.global_step
        self._note({"val_loss": loss, "val_accuracy": accuracy}, step)

    def on_train_epoch_start(self) -> None:
        self._recent.pop_mean()

    def on_train_epoch_end(self) -> None:
        loss, accuracy = self._train.pop()
        self._note({"train_loss": loss, "train_accuracy": accuracy})

    def _note(self, values: dict[str, float], step: int | None = None) -> None:
        """Log an epoch's values, averaged over all processes, to Lightning and to the record.

        Args:
            values: values by name.
            step: their step; None for the epoch's number.
        """
        if self.trainer.world_size > 1:
            values = {name: float(self.trainer.strategy.reduce(torch.tensor(v))) for name, v in values.items()}
        self.log_dict(values, sync_dist=self.trainer.world_size > 1)
        if self.trainer.is_global_zero:
            for name, value in values.items():
                context.log(name, value, self.current_epoch + 1 if step is None else step, self.current_epoch + 1)

    def epoch_state(self) -> dict[str, Any]:
        """Return this epoch's sums, for a checkpoint within the epoch."""
        return {"train": self._train.state(), "recent": self._recent.state()}

    def load_epoch_state(self, values: dict[str, Any]) -> None:
        """Restore the sums from `epoch_state`."""
        self._train.take(values["train"], self.device)
        self._recent.take(values["recent"], self.device)

    def configure_optimizers(self) -> Any:
        return optimizers(self.parameters(), self._model_node, self._max_epochs)


class _Running:
    """Mean over batches that stays on the device until it is read."""

    def __init__(self) -> None:
        self._loss: Tensor | float = 0.0
        self._hits: Tensor | int = 0
        self._batches = 0
        self._weight = 0
        self._samples = 0

    def add_loss(self, loss: Tensor) -> None:
        self._loss = self._loss + loss.detach()
        self._batches += 1

    def add(self, loss: Tensor, scores: Tensor, y: Tensor, weight: int = 1) -> None:
        self._loss = self._loss + loss.detach()
        self._hits = self._hits + (scores.detach().argmax(1) == y).sum()
        self._weight += weight
        self._samples += len(y)

    def state(self) -> dict[str, Any]:
        return {name: torch.as_tensor(value).cpu() for name, value in vars(self).items()}

    def take(self, state: dict[str, Any], device: torch.device) -> None:
        self._loss, self._hits = state["_loss"].to(device), state["_hits"].to(device)
        self._batches, self._weight, self._samples = (int(state[f"_{n}"]) for n in ("batches", "weight", "samples"))

    def pop_mean(self) -> float:
        mean = float(self._loss) / max(1, self._batches)
        self._loss, self._batches = 0.0, 0
        return mean

    def pop(self) -> tuple[float, float]:
        loss = float(self._loss) / max(1, self._weight)
        accuracy = float(self._hits) / max(1, self._samples)
        self._loss, self._hits, self._weight, self._samples = 0.0, 0, 0, 0
        return loss, accuracy
