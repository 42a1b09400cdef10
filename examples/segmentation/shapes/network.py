"""The network: down to half the size, up again, and each pixel's classes from both."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallUNet(nn.Module):
    """Scores of classes for each pixel.

    Args:
        classes: how many.
        width: channels at full size; twice as many at half of it.
    """

    def __init__(self, classes: int = 2, width: int = 12) -> None:
        super().__init__()
        self.fine = _convolved(1, width)
        self.coarse = nn.Sequential(nn.MaxPool2d(2), _convolved(width, 2 * width), _convolved(2 * width, 2 * width))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Sequential(_convolved(2 * width, width), nn.Conv2d(width, classes, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, classes, height, width) of (N, 1, height, width)."""
        fine = self.fine(pictures)
        both = torch.cat([fine, self.up(self.coarse(fine))], dim=1)
        scores: Tensor = self.out(both)
        return scores


def _convolved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
