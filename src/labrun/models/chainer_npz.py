"""Reading and writing Chainer's npz layout (`l1/W`, `l1/b`, ...) without Chainer.

Source: `chainer.serializers.save_npz` of Chainer 7: one array per parameter, under its path in the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from labrun.errors import DataError

NAMES = {"weight": "W", "bias": "b"}
PREFIXES = ("", "predictor/", "updater/model:main/predictor/", "updater/model:main/")
"""A bare model, one inside `L.Classifier`, and both inside a trainer's snapshot."""


def save(path: Path, model: nn.Module) -> Path:
    """Write a model's parameters in Chainer's layout.

    Args:
        path: the file, ending in `.npz`.
        model: layers with `weight` and `bias`.
    """
    arrays = {chainer_name(name): value.detach().cpu().numpy() for name, value in model.named_parameters()}
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def load(path: Path | str, model: nn.Module) -> nn.Module:
    """Load parameters written by Chainer or `save` into a model of the same shape. Never unpickles anything.

    Args:
        path: the file of a bare model, an `L.Classifier` or a trainer's snapshot.
        model: the model that receives the values.

    Returns:
        The same model.

    Raises:
        DataError: arrays are missing or have the wrong shape.
    """
    arrays = read(path)
    wanted = {name: chainer_name(name) for name, _ in model.named_parameters()}
    prefix = next((p for p in PREFIXES if all(p + short in arrays for short in wanted.values())), None)
    if prefix is None:
        raise DataError(f"{path} holds {sorted(arrays)}; the model needs {sorted(wanted.values())}")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.from_numpy(np.ascontiguousarray(arrays[prefix + wanted[name]]))
            if value.shape != parameter.shape:
                raise DataError(
                    f"{path}: {prefix + wanted[name]} has the shape {tuple(value.shape)}, but the model's is "
                    f"{tuple(parameter.shape)}"
                )
            parameter.copy_(value)
    return model


def read(path: Path | str) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of such a file by name.

    Raises:
        DataError: the file is not an npz file.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files if content[name].dtype != object}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an npz file: {error}") from error


def chainer_name(name: str) -> str:
    """Convert a parameter name: `l1.weight` becomes `l1/W`."""
    *path, last = name.split(".")
    return "/".join([*path, NAMES.get(last, last)])
