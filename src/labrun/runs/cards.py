"""A model's card, `outputs/model.json`: what a saved model is, how to load it, and what input it takes.

    file, sha256             the model's file, next to the card, and its digest
    kind                     how to read the file: `estimator`, `network`, `chainer`, `pickle`, `tensors`, `file`
    target, arguments        of a network: its class and its constructor's arguments
    input_shape, class_names, scaling, columns   the input that it takes
    feed, offered            `loaders` if the model takes a data module's batches, and the arguments from the module
    learns                   of a plain network with such batches or a custom loss: `classes`, `labels`, `quantity`
    class_weights            of such a network: the classes' weights in its loss, unless all are equal
    seal                     proof of who trained it, see `seals`

A card travels with its run, so other users may have written it: this module checks the type of every value, and only
`labrun.config.trust` builds the objects that a card refers to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labrun._io import file_sha256
from labrun.config import checking
from labrun.errors import CorruptDataError, DataError
from labrun.runs import context

NAME = "model.json"
LARGEST = 2**26
"""Maximum size, bytes. A card with thousands of classes has a few hundred thousand."""


def read(folder: Path, title: str) -> dict[str, Any]:
    """Read the card in a folder.

    Args:
        folder: a run's `outputs/`, or the folder of a registered version.
        title: name of the model in messages.

    Raises:
        DataError: the card is missing or damaged.
    """
    path = folder / NAME
    try:
        found = json.loads(context.content(path, LARGEST))
        return check(found)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{title} holds no model that can be loaded: {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)[:300]


def check(card: Any) -> dict[str, Any]:
    """Check that a card's values have the types that readers rely on, and return the card.

    Raises:
        ValueError: a value has the wrong type; the message says which.
    """
    if not isinstance(card, dict):
        raise ValueError(f"it holds a {type(card).__name__}, and a card is a JSON object")
    file, sha256 = card.get("file"), card.get("sha256")
    if not checking.is_file_name(file):
        raise ValueError(f"file is {file!r:.100}, and must be the name of a file beside the card")
    if not checking.is_sha256(sha256):
        raise ValueError(f"sha256 is {sha256!r:.100}, and must be 64 hexadecimal digits")
    for key, kind in (
        ("name", str),
        ("kind", str),
        ("target", str),
        ("arguments", dict),
        ("columns", dict),
        ("class_names", list),
        ("also", list),
        ("dataset", dict),
        ("scaling", dict),
        ("seal", dict),
        ("feed", str),
        ("learns", str),
        ("offered", dict),
        ("format", int),
        ("table", dict),
        ("classes_last", bool),
        ("gives", str),
    ):
        if card.get(key) is not None and not isinstance(card[key], kind):
            raise ValueError(f"{key} is {card[key]!r:.100}")
    shape = card.get("input_shape")
    if shape is not None and not (isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)):
        raise ValueError(f"input_shape is {shape!r:.100}, and must be a list of whole numbers")
    if not all(isinstance(name, str) for name in [*(card.get("class_names") or []), *(card.get("also") or [])]):
        raise ValueError("class_names and also must hold only text")
    _check_scaling(card.get("scaling"))
    weights = card.get("class_weights")
    if weights is not None and not (isinstance(weights, list) and all(map(_is_number, weights))):
        raise ValueError(f"class_weights is {weights!r:.100}, and must be a list of numbers")
    return card


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_scaling(scaling: Any) -> None:
    if scaling is None:
        return
    lists = [scaling.get("mean"), scaling.get("std")]
    if not all(isinstance(one, list) and one for one in lists) or not all(
        _is_number(n) for n in [scaling.get("scale"), *lists[0], *lists[1]]
    ):
        raise ValueError(f"scaling is {scaling!r:.100}, and must have a scale, a mean and a std in numbers")


def target(card: Mapping[str, Any]) -> str:
    """Return the class of a network from its card.

    Raises:
        DataError: the card has no class.
    """
    found = card.get("target")
    if not isinstance(found, str):
        raise DataError("the model's card does not name the model's class")
    return found


def file(folder: Path, card: Mapping[str, Any], title: str) -> Path:
    """Return the path of a card's model file, after checking its digest and that no link leads out of the folder.

    Raises:
        CorruptDataError: the file is missing, is not a plain file, or has changed since it was saved.
    """
    path = folder / str(card["file"])
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptDataError(f"{title}: {path} is gone, or is not a plain file. Nothing of it was loaded")
    found = file_sha256(path)
    if found != card["sha256"]:
        raise CorruptDataError(
            f"{title}: {path} was changed since it was saved: expected SHA-256 {card['sha256']}, found {found}. "
            "Nothing of it was loaded"
        )
    return path
