"""A small U-Net: it halves the image size, restores it, and classifies each pixel from both resolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallUNet(nn.Module):
    """Compute class scores for each pixel.

    Args:
        classes: number of classes.
        width: channels at full size; at half the size, twice as many.
    """

    def __init__(self, classes: int = 2, width: int = 12) -> None:
        super().__init__()
        self.fine = _convolved(1, width)
        self.coarse = nn.Sequential(nn.MaxPool2d(2), _convolved(width, 2 * width), _convolved(2 * width, 2 * width))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Sequential(_convolved(2 * width, width), nn.Conv2d(width, classes, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return scores, (N, classes, height, width), for images, (N, 1, height, width)."""
        fine = self.fine(pictures)
        both = torch.cat([fine, self.up(self.coarse(fine))], dim=1)
        scores: Tensor = self.out(both)
        return scores


def _convolved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
