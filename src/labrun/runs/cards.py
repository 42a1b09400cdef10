"""A model's card, `outputs/model.json`: what a saved model is, how to load it, and what input it takes.

A card travels with its run, so other users may have written it: `Card.of` checks the type of every value, and only
`labrun.config.trust` builds the objects that a card refers to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from labrun._io import file_sha256
from labrun.config import checking
from labrun.errors import CorruptDataError, DataError
from labrun.runs import context

NAME = "model.json"
LARGEST = 2**26
"""Maximum size, bytes. A card with thousands of classes has a few hundred thousand."""
TYPES: Mapping[str, type] = {
    "name": str,
    "target": str,
    "arguments": dict,
    "columns": dict,
    "class_names": list,
    "also": list,
    "dataset": dict,
    "scaling": dict,
    "seal": dict,
    "offered": dict,
    "format": int,
    "table": dict,
    "classes_last": bool,
}
"""Types of the optional keys."""
LISTS = ("also", "class_names", "input_shape", "class_weights")


class CardKind(StrEnum):
    """How to read a model's file: `labrun.tasks.model_files.load`."""

    ESTIMATOR = "estimator"
    """An estimator or a pipeline, saved by skops."""
    NETWORK = "network"
    """The weights of the network that the card describes."""
    CHAINER = "chainer"
    """The weights of Chainer's MNIST example in an `.npz`."""
    PICKLE = "pickle"
    TENSORS = "tensors"
    """Weights of an unknown network."""
    FILE = "file"
    """Any other file, which labrun only stores."""
    FOLDER = "folder"
    """The same, a folder."""


class TargetKind(StrEnum):
    """What a network learns from a target."""

    CLASSES = "classes"
    """One of several classes, for each sample or each position."""
    LABELS = "labels"
    """0 or 1 for each of several labels."""
    QUANTITY = "quantity"
    OTHER = "other"
    """Only the config's loss knows."""


LOADERS = "loaders"
"""`feed` of a model that takes the batches of a data module."""
PROBABILITIES = "probabilities"
"""`gives` of a network that returns probabilities."""
WORDS: Mapping[str, Sequence[str]] = {
    "kind": list(CardKind),
    "feed": [LOADERS],
    "learns": list(TargetKind),
    "gives": [PROBABILITIES],
}
"""Keys that hold one of a set of words. Another word would change how the model is read or scored, so it is refused."""


@dataclass(frozen=True)
class InputScaling:
    """How a model's input was scaled in training: `(x / scale - mean) / std`, per channel or for all channels."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> InputScaling:
        """Build it from a card's `scaling`.

        Raises:
            ValueError: the content is damaged.
        """
        scale: Any = content.get("scale")
        mean, std = content.get("mean"), content.get("std")
        are_lists = isinstance(mean, list) and isinstance(std, list)
        if not (are_lists and mean and std and all(map(checking.is_number, [scale, *mean, *std]))):
            raise ValueError(f"scaling is {content!r:.100}, but must have a scale, a mean and a std in numbers")
        return cls(float(scale), tuple(map(float, mean)), tuple(map(float, std)))


@dataclass(frozen=True)
class Card:
    """A card, checked. Its fields have the names of the file's keys; a key that is missing or null has the default."""

    content: Mapping[str, Any] = field(repr=False)
    """The file's content, with the keys that this version does not know: a seal covers them, too."""
    file: str
    """Name of the model's file, or of its folder, next to the card."""
    sha256: str
    """Its digest."""
    kind: CardKind
    format: int = 1
    """From 2 on, `arguments` are encoded with `labrun.config.exact`."""
    name: str | None = None
    """The model's name in messages."""
    also: tuple[str, ...] = ()
    """Names of files with the same model in other formats."""
    target: str | None = None
    """The model's class."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor, encoded."""
    input_shape: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    scaling: InputScaling | None = None
    columns: Mapping[str, bool] = field(default_factory=dict)
    """Of a pipeline that takes a table: maps each column to whether it is numeric."""
    table: Mapping[str, Any] | None = None
    """How the training table was read, see `labrun.data.readers.columns.TableSchema`; None without a table."""
    feed: str | None = None
    """`LOADERS`, or None for a model that takes arrays or tables."""
    offered: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of such a model's constructor that came from the data module."""
    learns: TargetKind | None = None
    """Of a plain network with such batches or a loss of its own."""
    classes_last: bool | None = None
    """Whether the scores of one that learns classes are (N, ..., classes), not (N, classes, ...); None in old cards."""
    gives: str | None = None
    """Of such a network: `PROBABILITIES`, or None for raw scores."""
    class_weights: tuple[float, ...] = ()
    """The classes' weights in such a network's loss; empty if all are equal."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """Of a registered model: `target` and `ignore` in the config of its run's data set."""
    seal: Mapping[str, Any] | None = None
    """Proof of who trained the model, see `labrun.runs.seals`."""

    @classmethod
    def of(cls, content: Any) -> Card:
        """Build it from the content of the file.

        Raises:
            ValueError: the content is not a card, or a value has the wrong type; the message says which.
        """
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, but a card is a JSON object")
        _check(content)
        given = {key: content[key] for key in ("file", "sha256", *TYPES, *LISTS) if content.get(key) is not None}
        given |= {key: tuple(given[key]) for key in LISTS if key in given}
        given |= {key: content[key] for key in WORDS if content.get(key)}
        given["kind"] = CardKind(given["kind"])
        if "learns" in given:
            given["learns"] = TargetKind(given["learns"])
        if "scaling" in given:
            given["scaling"] = InputScaling.of(given["scaling"])
        if "columns" in given:
            given["columns"] = {name: bool(is_number) for name, is_number in given["columns"].items()}
        return cls(content, **given)

    @property
    def takes_batches(self) -> bool:
        """Whether the model takes a data module's batches, not arrays or tables."""
        return self.feed is not None

    def verified_file(self, folder: Path, title: str) -> Path:
        """Return the path of the model's file, after checking its digest and that no link leads out of the folder.

        Args:
            folder: the folder with the card.
            title: name of the model in messages.

        Raises:
            CorruptDataError: the file is missing, is not a plain file, or has changed since it was saved.
        """
        path = folder / self.file
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise CorruptDataError(f"{title}: {path} is gone, or is not a plain file. It was not loaded")
        found = file_sha256(path)
        if found != self.sha256:
            raise CorruptDataError(
                f"{title}: {path} was changed since it was saved: expected SHA-256 {self.sha256}, found {found}. "
                "It was not loaded"
            )
        return path


def read(folder: Path, title: str) -> Card:
    """Read the card in a folder.

    Args:
        folder: a run's `outputs/`, or the folder of a registered version.
        title: name of the model in messages.

    Raises:
        DataError: the card is missing or damaged.
    """
    path = folder / NAME
    try:
        return Card.of(json.loads(context.content(path, LARGEST)))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{title} holds no model that can be loaded: {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)[:300]


def _check(content: Mapping[str, Any]) -> None:
    file, sha256 = content.get("file"), content.get("sha256")
    if not checking.is_file_name(file):
        raise ValueError(f"file is {file!r:.100}, but must be the name of a file beside the card")
    if not checking.is_sha256(sha256):
        raise ValueError(f"sha256 is {sha256!r:.100}, but must be 64 hexadecimal digits")
    for key, words in WORDS.items():
        word = content.get(key)
        is_missing = word in (None, "") and key != "kind"  # old cards hold "" for a target that no batch has shown
        if word not in words and not is_missing:
            raise ValueError(f"{key} is {word!r:.100}, but must be one of {', '.join(words)}")
    for key, of_type in TYPES.items():
        if content.get(key) is not None and not isinstance(content[key], of_type):
            raise ValueError(f"{key} is {content[key]!r:.100}")
    shape = content.get("input_shape")
    if shape is not None and not (isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)):
        raise ValueError(f"input_shape is {shape!r:.100}, but must be a list of whole numbers")
    if not all(isinstance(name, str) for name in [*(content.get("class_names") or []), *(content.get("also") or [])]):
        raise ValueError("class_names and also must hold only text")
    weights = content.get("class_weights")
    if weights is not None and not (isinstance(weights, list) and all(map(checking.is_number, weights))):
        raise ValueError(f"class_weights is {weights!r:.100}, but must be a list of numbers")
