"""Windows of the yearly number of sunspots, 1700 to 2008; the data ship with statsmodels."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Sunspots(pl.LightningDataModule):
    """Windows of the series: the years that the model sees, and the years that it forecasts.

    Args:
        history: years that the model sees.
        horizon: years to forecast.
        validation_from: the first year to forecast for validation.
        test_from: the first year to forecast for the test.
        batch_size: windows per step.
        seed: seed of the order of the training windows.
    """

    def __init__(
        self,
        history: int = 33,
        horizon: int = 5,
        validation_from: int = 1920,
        test_from: int = 1960,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.input_size, self.output_size = 1, horizon  # labrun fills in model arguments of these names
        self.parts: dict[str, TensorDataset] = {}

    def setup(self, stage: str) -> None:
        from statsmodels.datasets import sunspots

        table = sunspots.load_pandas().data
        years, counts = table["YEAR"].to_numpy(), table["SUNACTIVITY"].to_numpy(dtype=np.float32)
        history, size = self.hparams["history"], self.hparams["history"] + self.hparams["horizon"]
        windows = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(counts, size).copy())
        first = years[history : history + len(windows)]
        last = first + self.hparams["horizon"] - 1
        cuts = self.hparams["validation_from"], self.hparams["test_from"]
        # No year is forecast in two parts.
        chosen = {
            "train": last < cuts[0],
            "validation": (first >= cuts[0]) & (last < cuts[1]),
            "test": first >= cuts[1],
            "predict": first == years[-1] - self.hparams["horizon"] + 1,
        }
        self.parts = {
            part: TensorDataset(windows[mask, :history, None], windows[mask, history:]) for part, mask in chosen.items()
        }

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        order = torch.Generator().manual_seed(self.hparams["seed"])
        return DataLoader(self.parts["train"], self.hparams["batch_size"], shuffle=True, generator=order)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._in_order("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._in_order("predict")

    def _in_order(self, part: str) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.parts[part], batch_size=256)
