"""Interprets the scores of a plain network that was trained on a data module's batches, according to its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.runs.cards import PROBABILITIES, Card, TargetKind
from labrun.tasks import scoring

OF_PROBABILITIES = ("BCELoss", "binary_cross_entropy")
"""Losses of networks that end in a sigmoid, whose outputs are probabilities."""


def described(kind: TargetKind, classes_last: bool, loss: str) -> dict[str, Any]:
    """Return a card's entries on the target.

    Args:
        kind: the kind of target.
        classes_last: whether scores are (N, ..., classes) rather than (N, classes, ...).
        loss: the name of the loss.
    """
    about: dict[str, Any] = {"learns": kind.value}
    if kind is TargetKind.CLASSES:
        about["classes_last"] = classes_last
    if kind is TargetKind.LABELS and loss in OF_PROBABILITIES:
        about["gives"] = PROBABILITIES
    return about


def has_probabilities(card: Card) -> bool:
    """Return whether the scores of a card's model belong to classes or labels."""
    return card.learns in (TargetKind.CLASSES, TargetKind.LABELS)


def probabilities(scores: npt.NDArray[Any], card: Card) -> npt.NDArray[np.float64]:
    """Return the probability of each class or label.

    Shapes:
        scores: (N, ..., classes) or (N, classes, ...), according to the card; (N, labels), or (N,).
        returns: (N, ..., classes); (N, labels).
    """
    if card.learns is TargetKind.CLASSES:
        last = np.moveaxis(scores, 1 if not _classes_last(scores, card) else -1, -1)
        return scoring.softmax(last.reshape(-1, last.shape[-1])).reshape(last.shape)
    raised = scores.astype(np.float64)
    return raised if card.gives == PROBABILITIES else 1 / (1 + np.exp(-raised))


def predicted(scores: npt.NDArray[Any], card: Card) -> npt.NDArray[Any]:
    """Return the class of each sample or each position in a sequence or image, 0 or 1 per label, or the quantity.

    Shapes:
        scores: see `probabilities`.
        returns: (N, ...), class names if the card has them; (N, labels); quantities in the network's shape.
    """
    if not has_probabilities(card):
        return scores.reshape(-1) if scores.size == len(scores) else scores
    likely = probabilities(scores, card)
    if card.learns is TargetKind.LABELS:
        return (likely > 0.5).astype(np.int64)
    names, found = card.class_names, likely.argmax(axis=-1)
    return np.asarray(np.array(names)[found] if len(names) == likely.shape[-1] else found)


def _classes_last(scores: npt.NDArray[Any], card: Card) -> bool:
    """Return `classes_last` of a card; without it, as in older versions, assume sequences are (N, places, classes)."""
    return scores.ndim <= 3 if card.classes_last is None else card.classes_last


WIDEST = 100
"""Maximum values per sample that become separate columns; more become one cell with a list."""


def columns(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a batch's outputs by column: one per value of a sample, or one whose cells are lists."""
    values = plain(value)
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] <= WIDEST:
        if values.shape[1] == 1:
            yield name, values[:, 0]
        else:
            yield from ((f"{name}_{place}", values[:, place]) for place in range(values.shape[1]))
    elif isinstance(values, np.ndarray) and values.ndim > 1:
        yield name, [one.tolist() for one in values]
    else:
        yield name, values if isinstance(values, np.ndarray) else [cell(one) for one in values]


def plain(value: Any) -> Any:
    """Convert an output to an array or a list."""
    value = _array(value)
    if isinstance(value, np.ndarray):
        return value.reshape(1) if value.ndim == 0 else value
    return list(value) if isinstance(value, list | tuple) else [value]


def cell(value: Any) -> Any:
    """Convert one sample's output to plain values; it may contain tensors and arrays."""
    value = _array(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): cell(one) for key, one in value.items()}
    return [cell(one) for one in value] if isinstance(value, list | tuple) else value


def _array(value: Any) -> Any:
    """Convert a tensor to an array, with low-precision floats as float32, since NumPy has no bfloat16."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
