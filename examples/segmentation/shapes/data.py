"""scikit-learn's digits at random positions in larger, noisy images, with the class of each pixel."""

from __future__ import annotations

from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

Part = Literal["train", "validation", "test"]
SHARES: dict[Part, slice] = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
INK = 6
"""Threshold, of 16 shades: a darker pixel belongs to the digit."""


class NoisyDigits(Dataset[tuple[Tensor, Tensor]]):
    """Images, (1, size, size) float32, and the class of each pixel, (size, size) int64: 0 paper, 1 digit.

    A training image is different each time: a random position, a random rotation by 180 degrees, new noise. Validation
    and test images never change.

    Args:
        part: split that the digits belong to.
        size: height and width of an image.
        noise: standard deviation of the noise; ink is 1.
        augment: generate a new variant each time; None: only in training.
        count: maximum number of images; None: all.
    """

    def __init__(
        self, part: Part, size: int = 16, noise: float = 0.3, augment: bool | None = None, count: int | None = None
    ) -> None:
        digits = load_digits()
        self._images = torch.from_numpy(digits.images[SHARES[part]][:count]).float()
        self._size, self._noise = size, noise
        self._augments = part == "train" if augment is None else augment

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        drawn = None if self._augments else torch.Generator().manual_seed(place)
        image, room = self._images[place], self._size - 8 + 1
        if self._augments and torch.rand(()) < 0.5:
            image = image.flip(0, 1)
        top, left = torch.randint(room, (2,), generator=drawn).tolist()
        picture = torch.zeros(self._size, self._size)
        picture[top : top + 8, left : left + 8] = image
        noise = self._noise * torch.randn(picture.shape, generator=drawn)
        return (picture / 16 + noise)[None], (picture > INK).long()
