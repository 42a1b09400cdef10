"""Streaming of Parquet tables: numeric columns only, interpreted as in `columns`.

A file is read twice, block by block: first to find out what its columns hold, then to write its numbers row by row
to a file that can be read in any order. Text and dates cannot be told apart block by block, so the user must exclude
both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.data.numeric import Closeness
from labrun.data.readers import sheets
from labrun.data.readers.columns import (
    EMPTY,
    FEWEST,
    GAPS,
    ID_NAME,
    IGNORED,
    IGNORED_ID,
    LOOKS_LIKE_ID,
    NUMBER,
    Column,
    ColumnSettings,
    TableSchema,
)
from labrun.data.streamed import Records, Rows, SharedFile, spool
from labrun.data.wording import FILLED, few, option
from labrun.errors import CorruptDataError, DataError

MAGIC = b"PAR1"
BLOCK_ROWS = 2**15
CELL_BYTES = 120
"""Bytes per cell while a table is read into memory: cells are text before they become numbers."""


def is_parquet(path: Path) -> bool:
    """Return whether a file is a Parquet file, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Numbers:
    """Properties of a numeric column, collected block by block.

    Args:
        name: name of the column.
        is_whole: whether its values are integers.
    """

    def __init__(self, name: str, is_whole: bool) -> None:
        self.name, self.count, self.gaps, self.infinite = name, 0, 0, 0
        self.closeness = Closeness()
        self._first: float | None = None
        self.is_same = True
        self.counts_on, self._last = is_whole, np.zeros(0)

    def add(self, values: npt.NDArray[np.float64], is_training: bool) -> None:
        """Take in further values, NaN where missing; the training split must come first."""
        if not len(values):
            return
        absent = np.isnan(values)
        self.gaps += int(absent.sum())
        self.infinite += int(np.isinf(values).sum())
        self._first = float(values[0]) if self._first is None else self._first
        self.is_same = self.is_same and bool((values == self._first).all())
        if is_training:
            self.closeness.add(values[~absent][:, None])
            self._count_on(values)
        self.count += len(values)

    def _count_on(self, values: npt.NDArray[np.float64]) -> None:
        """Update whether the values count up by one from 0 or 1."""
        if self.counts_on:
            begins = self.count > 0 or values[0] in (0, 1)
            steps = np.diff(np.concatenate([self._last, values]))
            self.counts_on, self._last = begins and bool((steps == 1).all()), values[-1:]


class Parquet:
    """A Parquet file, read in blocks of rows.

    Args:
        path: the file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CorruptDataError: the file cannot be read.
        DataError: it has no usable column, or two of the same name.
    """

    def __init__(self, path: Path) -> None:
        sheets.check_package(path)
        import pyarrow as arrow
        import pyarrow.parquet

        self.path, self._arrow = path, arrow
        try:
            self._file = arrow.parquet.ParquetFile(path, pre_buffer=False)  # pre_buffer keeps everything that was read
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise CorruptDataError(f"{path} is not a readable Parquet file: {' '.join(str(error).split())}") from error
        self.rows = int(self._file.metadata.num_rows)
        self.columns: list[str] = []
        """Names of the usable columns, normalised as in `delimited`."""
        self.left_out: list[str] = []
        self._types: dict[str, Any] = {}
        self._own: dict[str, str] = {}
        for one in self._file.schema_arrow:
            kind = one.type.value_type if arrow.types.is_dictionary(one.type) else one.type
            if arrow.types.is_nested(kind) or arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind):
                self.left_out.append(f"{one.name} ({kind})")
            elif re.fullmatch(r"__index_level_\d+__", one.name):
                self.left_out.append(f"{one.name} (the index of pandas)")
            else:
                name = " ".join(one.name.split())
                self.columns.append(name)
                self._types[name], self._own[name] = one.type, one.name
        if len(set(self.columns)) < len(self.columns) or not self.columns:
            raise DataError(f"{path} has no column of numbers, or two of the same name: {few(self.columns)}")

    def is_number(self, name: str) -> bool:
        """Return whether a column is numeric or boolean."""
        types, kind = self._arrow.types, self._types[name]
        return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))

    def is_whole(self, name: str) -> bool:
        """Return whether a column holds integers."""
        return bool(self._arrow.types.is_integer(self._types[name]))

    def has_no_twin(self, name: str) -> bool:
        """Return whether the values of a column are all present and unique; reads the whole column."""
        from pyarrow import compute

        column = self._file.read(columns=[self._own[name]]).column(0)
        return not column.null_count and compute.count_distinct(column).as_py() == len(column)

    def blocks(self, numbers: Sequence[str], target: str | None = None, is_quantity: bool = False) -> Iterator[Any]:
        """Yield blocks of rows as values by column: (N,) float64 with NaN where missing, or lists of text.

        Args:
            numbers: names of numeric columns.
            target: the target column; read as text, unless it is numeric and `is_quantity` is set.
            is_quantity: whether the task is regression.
        """
        as_text = target is not None and not (is_quantity and self.is_number(target))
        for columns in self._columns([*numbers, *([] if target is None or target in numbers else [target])]):
            yield {
                name: _texts(column) if name == target and as_text else self._numbers(column)
                for name, column in columns.items()
            }

    def texts(self, names: Sequence[str]) -> Iterator[Any]:
        """Yield blocks of the given columns as pandas.DataFrames of text, in the format of `delimited`."""
        import pandas as pd

        for columns in self._columns(names):
            yield pd.DataFrame({name: pd.Series(_texts(one), dtype=object) for name, one in columns.items()})

    def _columns(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        try:
            for batch in self._file.iter_batches(BLOCK_ROWS, columns=[self._own[name] for name in names]):
                yield {name: batch.column(batch.schema.names.index(self._own[name])) for name in names}
        except (self._arrow.ArrowException, OSError) as error:
            raise CorruptDataError(
                f"{self.path} is not a readable Parquet file: {' '.join(str(error).split())}"
            ) from error

    def _numbers(self, column: Any) -> Any:
        return column.cast(self._arrow.float64(), safe=False).to_numpy(zero_copy_only=False)


def _texts(column: Any) -> list[str]:
    return [sheets.text(value) for value in column.to_pylist()]


class Target:
    """The target column, collected block by block: a code for each row, and the text of each code.

    Args:
        is_quantity: whether the target is a quantity instead of a class.
    """

    def __init__(self, is_quantity: bool) -> None:
        self._is_quantity = is_quantity
        self._codes: dict[str, int] = {}
        self._parts: list[npt.NDArray[Any]] = []
        self._numbers = False
        self.lost = 0

    def add(self, values: Any) -> npt.NDArray[np.bool_]:
        """Take in further values; return the mask of those present."""
        if self._is_quantity and isinstance(values, np.ndarray):
            there = ~np.isnan(values)
            self._numbers = True
            self._parts.append(values[there])
        else:
            there = np.array([bool(text) and not (self._is_quantity and text.lower() in GAPS) for text in values], bool)
            found = [
                self._codes.setdefault(text, len(self._codes))
                for text, is_one in zip(values, there, strict=True)
                if is_one
            ]
            self._parts.append(np.array(found, np.int32))
        self.lost += int(len(there) - there.sum())
        return there

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows for each text."""
        found = np.bincount(self.codes, minlength=len(self._codes))
        return dict(zip(self._codes, found.tolist(), strict=True))

    @property
    def texts(self) -> list[str]:
        """The text of each code."""
        return list(self._codes)

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """(N,) codes of the rows that have a value."""
        return np.concatenate(self._parts)

    @property
    def quantities(self) -> npt.NDArray[np.float64] | None:
        """(N,) target values; None if the file stores them as text."""
        return np.concatenate(self._parts).astype(np.float64) if self._numbers else None


def needed(path: Path) -> int:
    """Return the peak memory, in bytes, of reading a file into memory."""
    found = Parquet(path)
    return found.rows * len(found.columns) * CELL_BYTES


def infer_schema(
    files: Sequence[Parquet], target: str, is_quantity: bool, settings: ColumnSettings, known: TableSchema | None
) -> tuple[TableSchema, list[Target], list[str]]:
    """Determine how to read the columns of a table's splits; the first split is the training data.

    Args:
        files: the splits.
        target: the target column.
        is_quantity: whether the target is a quantity instead of a class.
        settings: the user's settings.
        known: how the model's training table was read, to read this one in the same way.

    Returns:
        How the table is read; the target of each split; notes for the user.

    Raises:
        DataError: the table has text or date columns, or missing values.
    """
    first = files[0]
    names = known.names if known is not None else [n for n in first.columns if n not in (target, *settings.ignore)]
    _check_numbers(files, names, settings)
    looked = list(dict.fromkeys([*names, *(n for n in settings.ignore if n in first.columns and first.is_number(n))]))
    found = {name: Numbers(name, first.is_whole(name)) for name in looked}
    ids: set[str] = set()
    targets = [Target(is_quantity) for _ in files]
    for place, file in enumerate(files):
        for block in file.blocks(looked, target, is_quantity):
            there = targets[place].add(block[target])
            for name in looked:
                found[name].add(block[name][there], is_training=not place)
        if not place:
            ids = {name for name in looked if found[name].count >= FEWEST and _tells_rows_apart(found[name], file)}
    _check_finite([found[name] for name in names], first.path)
    if known is None:
        known = _schema(first, names, found, ids, settings)
    coarse = Closeness.of(found[name].closeness for name in known.names).warning(known.names)
    return known, targets, [known.line(), *known.notes, *([coarse] if coarse else [])]


def _tells_rows_apart(column: Numbers, file: Parquet) -> bool:
    """Return whether a column identifies rows; see `columns`."""
    return column.counts_on or bool(
        ID_NAME.search(column.name) and file.is_whole(column.name) and file.has_no_twin(column.name)
    )


def _check_numbers(files: Sequence[Parquet], names: Sequence[str], settings: ColumnSettings) -> None:
    for file in files:
        others = [name for name in names if name not in file.columns]
        if others:
            raise DataError(f"{file.path} has no column {few(map(repr, others))}; it has {few(file.columns, 20)}")
        odd = [
            name for name in names if not file.is_number(name) or name in settings.categories or name in settings.dates
        ]
        if odd:
            raise DataError(
                f"{file.path}: the columns {few(odd)} hold text, categories or dates, but a table can only be streamed "
                f"if it is numeric. Leave them out with {option('ignore', odd)}, convert them to numbers, or set "
                "dataset.in_memory=true"
            )


def _check_finite(found: Sequence[Numbers], where: Path) -> None:
    gaps = {one.name: one.gaps for one in found if one.gaps and one.gaps < one.count}
    if gaps:
        listed = few([f"{name} ({count})" for name, count in gaps.items()])
        raise DataError(f"{where}: values are missing in the columns {listed}. {FILLED}")
    infinite = [f"{one.name} ({one.infinite})" for one in found if one.infinite]
    if infinite:
        raise DataError(
            f"{where}: infinity in the columns {few(infinite)}: correct these values, or leave the columns out"
        )


def _schema(
    first: Parquet, names: Sequence[str], found: Mapping[str, Numbers], ids: set[str], settings: ColumnSettings
) -> TableSchema:
    left_out = {
        name: IGNORED_ID if name in ids or (name not in found and ID_NAME.search(name)) else IGNORED
        for name in settings.ignore
        if name in first.columns
    }
    free = [name for name in names if name not in settings.numbers]
    reasons = {
        name: EMPTY if found[name].gaps == found[name].count else LOOKS_LIKE_ID
        for name in free
        if name in ids or found[name].gaps == found[name].count
    }
    if not set(names) - set(reasons):  # no other features are left
        reasons = {name: why for name, why in reasons.items() if why == EMPTY}
    left_out |= reasons
    columns = [Column(name, NUMBER, lenient=name in settings.numbers) for name in names if name not in reasons]
    same = [one.name for one in columns if found[one.name].is_same]
    notes = [f"the same in every row: {few(same)}"] if same else []
    return TableSchema(columns, left_out, ".", settings.decimal is not None, notes)


def rows(file: Parquet, names: Sequence[str], target: str, is_quantity: bool) -> Rows:
    """Write the numbers of all rows that have a target to a temporary file that disappears with the run.

    Raises:
        DataError: there is not enough space.
    """
    seen, count = Target(is_quantity), 0
    # Row order allows random access to samples; a Parquet file is stored by columns.
    with spool(file.rows * len(names) * 4, f"{file.path.name}, unpacked,") as unpacked:
        for block in file.blocks(names, target, is_quantity):
            there = seen.add(block[target])
            values = np.column_stack([block[name][there] for name in names]).astype(np.float32)
            unpacked.write(np.ascontiguousarray(values).data.cast("B"))
            count += len(values)
        unpacked.flush()
        return Rows(Records(SharedFile(unpacked), 0, count, (len(names),), np.float32, name=file.path))
