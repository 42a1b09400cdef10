"""What a network of labrun's own may do beside computing scores. A plain `torch.nn.Module` serves as well."""

from __future__ import annotations

from pathlib import Path

from torch import nn


class Network(nn.Module):
    """A network that knows what it can be used with, and in which other forms it can be saved."""

    @staticmethod
    def check(input_shape: tuple[int, ...], num_classes: int) -> str | None:
        """Why the network cannot work with such data, or None if it can."""
        return None

    def export(self, folder: Path) -> list[Path]:
        """Write the model in further forms into a folder; returns the files written."""
        return []
