"""A convolutional network: each layer halves the image size and doubles the number of channels."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Compute class scores for images of any size.

    Args:
        num_classes: filled in by labrun.
        width: channels of the first convolution.
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        self.layers = nn.Sequential(
            *(_block(before, after) for before, after in itertools.pairwise(widths)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, (N, classes), for images, (N, 3, height, width)."""
        scores: Tensor = self.layers(images)
        return scores


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)
    )
