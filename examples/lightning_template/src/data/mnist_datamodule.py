"""A LightningDataModule in the template's style; scikit-learn's digits replace MNIST, so that nothing is downloaded."""

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
    """The 1,797 digits of 8x8 pixels, split into three parts.

    Args:
        data_dir: folder of the data; `prepare_data` writes them to it.
        train_val_test_split: number of images in each part.
        batch_size: images per step.
        num_workers: number of loader processes.
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
        """Number of classes: ten digits."""
        return 10

    def prepare_data(self) -> None:
        # Replaces a download. Lightning, or labrun, calls this in one process only.
        place = Path(self.hparams["data_dir"])
        place.mkdir(parents=True, exist_ok=True)
        digits = load_digits()
        np.savez(place / FILE, images=digits.images.astype(np.float32), labels=digits.target)

    def setup(self, stage: str | None = None) -> None:
        # Called for fit and again for test: keep the same split.
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
        assert part is not None, "call setup first"
        return DataLoader(
            part,
            batch_size=self.hparams["batch_size"],
            num_workers=self.hparams["num_workers"],
            pin_memory=self.hparams["pin_memory"],
            shuffle=shuffle,
        )

    def teardown(self, stage: str | None = None) -> None:
        """Do nothing: no resources are open."""

    def state_dict(self) -> dict[Any, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the state is empty."""
