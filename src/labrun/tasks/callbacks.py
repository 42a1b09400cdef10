"""Callbacks for configs to name: `_target_: labrun.tasks.callbacks.PrintReport`. Their path is public."""

from __future__ import annotations

import logging
import time
from typing import ClassVar

import pytorch_lightning as pl

from labrun.tasks.networks.metric_names import is_fork

log = logging.getLogger(__name__)


class PrintReport(pl.Callback):
    """Prints a line after each epoch, titled as in Chainer's `PrintReport`, or by name if it lacks one of the metrics.

    Args:
        columns: maximum number of metrics to show.
    """

    WIDTH = 14
    TITLES: ClassVar = {
        "train_loss": "main/loss",
        "val_loss": "validation/main/loss",
        "train_accuracy": "main/accuracy",
        "val_accuracy": "validation/main/accuracy",
    }

    def __init__(self, columns: int = 8) -> None:
        self._columns = columns
        self._begun = time.monotonic()
        self._header: list[str] = []
        self._epoch = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()
        if trainer.fit_loop.restarted_mid_epoch:  # on_train_epoch_start is not called for this epoch
            self._epoch = trainer.current_epoch + 1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A module logs its epoch's values after the callbacks have run, so print when the next epoch starts.
        self._print(trainer)
        self._epoch = trainer.current_epoch + 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        if not self._epoch:
            return
        values = trainer.callback_metrics
        row: dict[str, str] = {"epoch": str(self._epoch)}
        names = [*(name for name in self.TITLES if name in values), *(n for n in values if n not in self.TITLES)]
        shown = [name for name in names if not is_fork(name, values)][: self._columns]
        titles = self.TITLES if set(shown) <= set(self.TITLES) else {}
        for name in shown:
            row[titles.get(name, name)] = f"{float(values[name]):.6g}"
        row["elapsed_time"] = f"{time.monotonic() - self._begun:.6g}"
        if list(row) != self._header:
            self._header = list(row)
            log.info("  ".join(f"{title:<{max(self.WIDTH, len(title))}}" for title in row).rstrip())
        log.info("  ".join(f"{value:<{max(self.WIDTH, len(title))}}" for title, value in row.items()).rstrip())
