"""Optional base class of networks, with hooks beyond computing scores. A plain `torch.nn.Module` works too."""

from __future__ import annotations

from pathlib import Path

from torch import nn


class Network(nn.Module):
    """A network that can check its input and export itself in further formats."""

    @staticmethod
    def check(input_shape: tuple[int, ...], num_classes: int) -> str | None:
        """Return why the network cannot handle such data, or None if it can."""
        return None

    def export(self, folder: Path) -> list[Path]:
        """Write the model to a folder in further formats; return the files written."""
        return []
