"""The small convolutional network of PyTorch's CIFAR-10 tutorial."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from labrun.messages import shape_text
from labrun.models.network import Network


class Cifar10CNN(Network):
    """Two convolutions with pooling, then three fully connected layers, ReLU throughout.

    Shapes:
        input: (N, C, H, W), at least 16x16 with the default kernel.
        output: (N, num_classes) scores.

    Source: pytorch.org, "Training a Classifier" (CIFAR-10 tutorial).

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: number of classes.
        conv1_channels, conv2_channels: filters of the two convolutions.
        kernel_size: kernel size of both convolutions.
        fc1_units, fc2_units: widths of the two hidden fully connected layers.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        conv1_channels: int = 6,
        conv2_channels: int = 16,
        kernel_size: int = 5,
        fc1_units: int = 120,
        fc2_units: int = 84,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        rest = [_pooled(_pooled(size, kernel_size), kernel_size) for size in (height, width)]
        self.conv1 = nn.Conv2d(channels, conv1_channels, kernel_size)
        self.conv2 = nn.Conv2d(conv1_channels, conv2_channels, kernel_size)
        self.fc1 = nn.Linear(conv2_channels * rest[0] * rest[1], fc1_units)
        self.fc2 = nn.Linear(fc1_units, fc2_units)
        self.fc3 = nn.Linear(fc2_units, num_classes)

    @staticmethod
    def check(input_shape: tuple[int, ...], num_classes: int, kernel_size: int = 5) -> str | None:
        """Return why the input does not fit: it must be images large enough for two convolutions and poolings."""
        smallest = next(s for s in range(1, 10_000) if _pooled(_pooled(s, kernel_size), kernel_size) >= 1)
        if len(input_shape) == 3 and min(input_shape[1:]) >= smallest:
            return None
        return (
            f"it takes images of at least {smallest}x{smallest} pixels (two convolutions of {kernel_size}x{kernel_size}"
            f", each with pooling), but a sample of this data set is {shape_text(input_shape)}"
        )

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        scores: Tensor = self.fc3(x)
        return scores


def _pooled(size: int, kernel_size: int) -> int:
    return max(0, size - kernel_size + 1) // 2
