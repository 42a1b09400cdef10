"""A LightningModule with a robust loss, metrics in sunspots, and a plot of the forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from forecast.network import GRUNetwork

PICTURE = "forecasts.png"


class Forecaster(pl.LightningModule):
    """Train `GRUNetwork` with the Huber loss.

    Args:
        input_size, output_size, hidden: see `GRUNetwork`.
        lr: initial learning rate; it follows a cosine schedule.
    """

    def __init__(self, input_size: int, output_size: int, hidden: int = 32, lr: float = 0.01) -> None:
        super().__init__()
        self.network = GRUNetwork(input_size, output_size, hidden)
        self._lr = lr
        errors = MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})
        self.val_errors, self.test_errors = errors.clone("val/"), errors.clone("test/")
        self._tested: list[tuple[Tensor, Tensor]] = []

    def forward(self, known: Tensor) -> Tensor:
        return self.network(known)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        known, coming = batch
        loss = nn.functional.huber_loss(self(known), coming, delta=10.0)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        known, coming = batch
        self.val_errors.update(self(known), coming.contiguous())
        self.log_dict(self.val_errors, on_step=False, on_epoch=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        known, coming = batch
        forecast = self(known)
        self.test_errors.update(forecast, coming.contiguous())
        self.log_dict(self.test_errors, on_step=False, on_epoch=True)
        self._tested.append((forecast.cpu(), coming.cpu()))

    def on_test_end(self) -> None:
        """Plot the forecasts into the run's `outputs/`; Lightning's root folder is the run's folder."""
        forecast, coming = (torch.cat(parts) for parts in zip(*self._tested, strict=True))
        self._tested.clear()
        if self.trainer.is_global_zero:
            draw(forecast, coming, Path(self.trainer.default_root_dir) / "outputs" / PICTURE)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        known, coming = batch
        return {"forecast": self(known), "true": coming}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), self._lr)
        epochs = self.trainer.max_epochs
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)]


def draw(forecast: Tensor, coming: Tensor, path: Path) -> None:
    """Plot forecasts and true values.

    Args:
        forecast: (windows, years); each window starts one year after the one before.
        coming: true values, in the same shape.
        path: path of the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([*coming[:, 0], *coming[-1, 1:]], color="black", label="sunspots")
    for start, line in enumerate(forecast):
        axes.plot(range(start, start + len(line)), line, color="tab:orange", alpha=0.4, lw=1)
    axes.plot([], [], color="tab:orange", label="forecasts, each from its first year")
    axes.set_xlabel("years since the start of the test split")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
