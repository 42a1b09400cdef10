"""A LightningDataModule in the template's manner; scikit-learn's digits stand for MNIST, so that nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

FILE = "digits.npz"


class MNISTDataModule(LightningDataModule):
    """The 1,797 digits of 8x8 pixels, split in three.

    Args:
        data_dir: where they lie; they are put there by the first who asks.
        train_val_test_split: how many of each part.
        batch_size: images per step.
        num_workers: processes that load.
        pin_memory: see `DataLoader`.
    """

    def __init__(
        self,
        data_dir: str = "data/",
        train_val_test_split: Sequence[int] = (1200, 297, 300),
        batch_size: int = 64,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.data_train: Dataset[Any] | None = None
        self.data_val: Dataset[Any] | None = None
        self.data_test: Dataset[Any] | None = None

    @property
    def num_classes(self) -> int:
        """Ten digits."""
        return 10

    def prepare_data(self) -> None:
        # In the place of a download. Lightning, or labrun, has one process do it.
        place = Path(self.hparams["data_dir"])
        place.mkdir(parents=True, exist_ok=True)
        digits = load_digits()
        np.savez(place / FILE, images=digits.images.astype(np.float32), labels=digits.target)

    def setup(self, stage: str | None = None) -> None:
        # Called for fit, and again for test: the parts stay the same.
        if self.data_train is None:
            with np.load(Path(self.hparams["data_dir"]) / FILE) as file:
                images = (torch.from_numpy(file["images"])[:, None] / 16 - 0.3) / 0.4
                digits = TensorDataset(images, torch.from_numpy(file["labels"]))
            self.data_train, self.data_val, self.data_test = random_split(
                digits, list(self.hparams["train_val_test_split"]), generator=torch.Generator().manual_seed(42)
            )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.data_train, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.data_val)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return self._loader(self.data_test)

    def _loader(self, part: Dataset[Any] | None, shuffle: bool = False) -> DataLoader[Any]:
        assert part is not None, "setup comes first"
        return DataLoader(
            part,
            batch_size=self.hparams["batch_size"],
            num_workers=self.hparams["num_workers"],
            pin_memory=self.hparams["pin_memory"],
            shuffle=shuffle,
        )

    def teardown(self, stage: str | None = None) -> None:
        """Nothing is open."""

    def state_dict(self) -> dict[Any, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing was kept."""
