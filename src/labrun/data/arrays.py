"""A data set in memory: its splits, and the metadata that a model needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from labrun.data.memory import Reading
from labrun.errors import DataError

if TYPE_CHECKING:
    from labrun.data.readers.columns import TableSchema

AnyArray = npt.NDArray[Any]
BLOCK = 4096
"""Samples hashed per block."""


@dataclass(frozen=True)
class Part:
    """Samples and their labels.

    Shapes:
        x: (N, C, H, W) uint8 for images, (N, F) float32 for tables. Models that accept more than numbers may also get
            a pandas.DataFrame of F columns or a sparse matrix. Streamed samples are `labrun.data.streamed.Rows`.
        y: (N,) int64 class indices, starting at 0; float64 for regression.
    """

    x: AnyArray
    y: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: AnyArray) -> Part:
        """Return the samples at the given positions."""
        return Part(rows_at(self.x, index), self.y[index])


@dataclass(frozen=True)
class RawData:
    """Output of a reader, before labrun splits it."""

    train: Part
    test: Part | None
    """None if the data come without a test split."""
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    """Every file that was read; the digest in the run's record covers them."""
    validation: Part | None = None
    notes: tuple[str, ...] = ()
    """Notes for the user: conversions made, checks that could not be done."""
    refusal: str | None = None
    """Why models that accept only numbers cannot use these samples: text columns, missing values."""
    table: TableSchema | None = None
    """For a table: how its columns were read, and which one is the target."""

    def digest(self) -> str:
        """Return the SHA-256 over all samples and labels as they are in memory."""
        total = hashlib.sha256(repr(self.class_names).encode())
        for part in (self.train, self.validation, self.test):
            for values in () if part is None else (part.x, part.y):
                for piece in _pieces(values):
                    total.update(f"{piece.dtype.str} {piece.shape}".encode())
                    # In blocks: copying everything would double the memory.
                    for start in range(0, len(piece) if piece.size else 0, BLOCK):
                        total.update(np.ascontiguousarray(piece[start : start + BLOCK]).data.cast("B"))
            total.update(b"|")
        return total.hexdigest()


@dataclass(frozen=True)
class Scaling:
    """Normalisation of stored values: `(x / scale - mean) / std`, with mean and std per channel or for all channels."""

    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class Arrays:
    """A data set, read and split."""

    name: str
    train: Part
    validation: Part | None
    test: Part
    class_names: tuple[str, ...]
    scaling: Scaling
    files: tuple[Path, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    table: TableSchema | None = None
    """See `RawData.table`."""
    is_split: bool = False
    """Whether labrun held out the test split, because the data came without one."""
    reading: Reading | None = None
    """Whether the samples are in memory, and why; None if they could only be in memory."""
    content: str | None = None
    """`RawData.digest` if the user's own code produces the data: its files alone do not determine the data."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) or (F,)."""
        return tuple(int(size) for size in self.train.x.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.class_names)

    @property
    def are_images(self) -> bool:
        """Whether the samples are greyscale or colour images."""
        return len(self.input_shape) == 3 and self.input_shape[0] in (1, 3)

    @property
    def are_streamed(self) -> bool:
        """Whether the samples stay on the disk."""
        return hasattr(self.train.x, "pick")

    @property
    def is_table(self) -> bool:
        """Whether the samples are a pandas.DataFrame, with text and missing values left as they are."""
        return hasattr(self.train.x, "iloc")


def _pieces(values: Any) -> Iterator[AnyArray]:
    """Yield the numeric arrays that make up an array, a sparse matrix or a pandas.DataFrame."""
    if hasattr(values, "iloc"):
        from pandas.util import hash_pandas_object

        yield np.frombuffer(repr([*map(str, values.columns)]).encode(), np.uint8)
        try:
            yield hash_pandas_object(values, index=False).to_numpy()
        except TypeError:  # unhashable cells, such as lists
            yield hash_pandas_object(values.astype(str), index=False).to_numpy()
    elif hasattr(values, "tocsr"):
        rows = values.tocsr().copy()
        rows.sum_duplicates()
        yield from (np.array(rows.shape), rows.indptr, rows.indices, rows.data)
    else:
        yield np.asarray(values)


def rows_at(x: Any, index: Any) -> Any:
    """Select rows of an array, sparse matrix or pandas.DataFrame by position; streamed samples are not read."""
    if hasattr(x, "pick"):
        return x.pick(index)
    return x.iloc[index] if hasattr(x, "iloc") else x[index]


def float_rows(x: AnyArray, scaling: Scaling) -> npt.NDArray[np.float32]:
    """Flatten and scale all samples to float32 rows, the layout that scikit-learn expects.

    Shapes:
        x: (N, ...) of any number type.
        returns: (N, product of the rest).
    """
    if hasattr(x, "iloc") or hasattr(x, "toarray"):  # tables and sparse matrices are passed through
        return x
    values = x.astype(np.float32)
    values /= np.float32(scaling.scale)
    if any(scaling.mean) or any(s != 1 for s in scaling.std):
        shape = (1, -1, *([1] * (x.ndim - 2)))
        values -= np.asarray(scaling.mean, np.float32).reshape(shape)
        values /= np.asarray(scaling.std, np.float32).reshape(shape)
    return values.reshape(len(x), -1)


def stratified_split(y: npt.NDArray[np.int64], size: float, seed: int) -> tuple[AnyArray, AnyArray]:
    """Split positions into kept and held-out samples, stratified by class.

    Args:
        y: (N,) class numbers.
        size: below 1, the fraction to hold out; from 1 up, the number of samples.
        seed: seed of the random selection.

    Returns:
        Two sorted arrays of positions: kept, held out.

    Raises:
        DataError: one side would be empty.
    """
    total = len(y)
    wanted = round(size * total) if size < 1 else int(size)
    if not 0 < wanted < total:
        raise DataError(f"cannot hold out {size:g} of {total} samples: at least one must be left on each side")
    rng = np.random.default_rng(seed)
    order = rng.permutation(total)
    labels = y[order]
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (wanted / total)
    quota = np.floor(exact).astype(int)
    for place in np.argsort(quota - exact, kind="stable")[: wanted - quota.sum()]:
        quota[place] += 1
    held = np.concatenate([order[labels == label][:count] for label, count in zip(classes, quota, strict=True)])
    kept = np.setdiff1d(np.arange(total), held)
    return kept, np.sort(held)
