"""Chainer's multi-layer perceptron for MNIST."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from labrun.models import chainer_npz
from labrun.models.network import Network


class MnistDNN(Network):
    """Three fully connected layers with ReLU: inputs - units - units - classes.

    LeCun-normal weights and zero biases, as in Chainer's `L.Linear`. The size of the first layer follows from the
    shape of the data.

    Shapes:
        input: (N, *input_shape).
        output: (N, num_classes) scores.

    Source: Chainer's `examples/mnist/train_mnist.py`.

    Args:
        input_shape: the shape of one sample.
        num_classes: number of classes.
        units: width of both hidden layers.
    """

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, units: int = 100) -> None:
        super().__init__()
        features = int(torch.Size(input_shape).numel())
        self.l1 = nn.Linear(features, units)
        self.l2 = nn.Linear(units, units)
        self.l3 = nn.Linear(units, num_classes)
        for layer in (self.l1, self.l2, self.l3):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.l1(x.flatten(1)))
        x = torch.relu(self.l2(x))
        scores: Tensor = self.l3(x)
        return scores

    def export(self, folder: Path) -> list[Path]:
        """Also write `model.npz`, in the layout of `chainer.serializers.save_npz`."""
        return [chainer_npz.save(folder / "model.npz", self)]
