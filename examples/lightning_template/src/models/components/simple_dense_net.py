"""A network of three hidden layers."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class SimpleDenseNet(nn.Module):
    """Linear layers with batch normalization and ReLU between them.

    Args:
        input_size: number of pixels of an image.
        lin1_size, lin2_size, lin3_size: sizes of the hidden layers.
        output_size: number of classes.
    """

    def __init__(
        self,
        input_size: int = 64,
        lin1_size: int = 256,
        lin2_size: int = 256,
        lin3_size: int = 256,
        output_size: int = 10,
    ) -> None:
        super().__init__()
        sizes = (input_size, lin1_size, lin2_size, lin3_size)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(lin3_size, output_size))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (N, output_size), for images, (N, 1, height, width)."""
        scores: Tensor = self.model(x)
        return scores
