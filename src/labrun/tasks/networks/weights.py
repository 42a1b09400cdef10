"""Loads the saved weights of networks with PyTorch alone: to import Lightning takes twice as long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from labrun.errors import DataError


def load_weights(network: nn.Module, path: Path) -> None:
    """Load saved weights into a network, unpickling only tensors and plain values.

    Raises:
        DataError: the file is damaged, or its weights do not fit the network.
    """
    try:
        network.load_state_dict(read_tensors(path))
    except (RuntimeError, TypeError, KeyError) as error:
        raise DataError(f"{path} does not fit the network: {' '.join(str(error).split())}") from error


def read_tensors(path: Path) -> dict[str, Any]:
    """Load a file saved by torch, unpickling only tensors and plain values.

    Raises:
        DataError: the file is missing, damaged, or contains other objects.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path} cannot be read: it is missing, damaged, or not a file of plain tensors") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a network's weights")
    return content
