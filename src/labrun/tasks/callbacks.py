"""What happens beside the training of a network: the line per epoch, and a logger into the run's record."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import Container, OmegaConf
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from labrun.runs import context, recording

log = logging.getLogger(__name__)


class PrintReport(pl.Callback):
    """After each epoch one line, with the columns and widths of Chainer's `PrintReport`."""

    WIDTH = 14

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._header: list[str] = []
        self._epoch = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A module logs its epoch's values after the callbacks' own turn, so the line comes as the next epoch begins.
        self._print(trainer)
        self._epoch = trainer.current_epoch + 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        if not self._epoch:
            return
        values = trainer.callback_metrics
        row: dict[str, str] = {"epoch": str(self._epoch)}
        columns = {
            "main/loss": "train_loss",
            "validation/main/loss": "val_loss",
            "main/accuracy": "train_accuracy",
            "validation/main/accuracy": "val_accuracy",
        }
        for title, name in columns.items():
            if name in values:
                row[title] = f"{float(values[name]):.6g}"
        row["elapsed_time"] = f"{time.monotonic() - self._begun:.6g}"
        if list(row) != self._header:
            self._header = list(row)
            log.info("  ".join(f"{title:<{max(self.WIDTH, len(title))}}" for title in row).rstrip())
        log.info("  ".join(f"{value:<{max(self.WIDTH, len(title))}}" for title, value in row.items()).rstrip())


class LeaveWhenAsked(pl.Callback):
    """When the run is asked to make room: a checkpoint after the present batch, and out.

    Args:
        path: the checkpoint that the next attempt goes on from.
    """

    EVERY = 10
    """Of several processes, so many batches pass between two agreements on whether to leave."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        asked = recording.asked_to_leave()
        if trainer.world_size > 1:
            if batch_idx % self.EVERY:
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            partial = self._path.with_suffix(".partial")
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                os.replace(partial, self._path)
            log.info("Asked to make room: saved after step %d", trainer.global_step)
            raise recording.Preempted("asked to make room")


class PlainCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that can be read without unpickling anybody's classes.

    What a module's `save_hyperparameters` noted is kept as far as it is plain values: the run's config holds it all.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """As Lightning's own."""
        for part in ("hyper_parameters", "datamodule_hyper_parameters"):
            values = checkpoint.get(part)
            if isinstance(values, Container):
                checkpoint.pop("hparams_type", None)
                values = OmegaConf.to_container(values, resolve=True)
            if isinstance(values, Mapping):
                checkpoint[part] = {key: value for key, value in values.items() if _is_plain(value)}
        super().save_checkpoint(checkpoint, path, storage_options)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(map(_is_plain, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool, torch.Tensor)


class RecordLogger(pl.loggers.logger.Logger):
    """Passes what a person's own LightningModule logs with `self.log` to the run's record."""

    @property
    def name(self) -> str:
        return "labrun"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The record holds the whole config already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        epoch = int(metrics["epoch"]) + 1 if "epoch" in metrics else None  # Lightning counts from 0, and by steps else
        for name, value in metrics.items():
            if name != "epoch":
                context.log(name, value, step, epoch)
