"""scikit-learn's digits, each somewhere in a larger picture with noise over it, and the pixels that are the digit's."""

from __future__ import annotations

from typing import Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

Part = Literal["train", "validation", "test"]
SHARES: dict[Part, slice] = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
INK = 6
"""Of 16 shades: a pixel that is darker is the digit's."""


class NoisyDigits(Dataset[tuple[Tensor, Tensor]]):
    """Pictures, (1, size, size) float32, and the class of each pixel, (size, size) int64: 0 paper, 1 digit.

    A training picture is made anew each time: another place, maybe upside down, other noise. The others stay as they
    are.

    Args:
        part: which of the digits.
        size: height and width of a picture.
        noise: standard deviation of the noise; ink is 1.
        augment: draw anew each time; None: in training.
        count: take so many; None: all.
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
