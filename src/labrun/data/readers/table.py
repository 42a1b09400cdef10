"""A table file as a data set: one column is the target, a class or a quantity."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from labrun.data.arrays import AnyArray, Part, RawData
from labrun.data.numeric import not_numbers, too_close
from labrun.data.reader import Reader
from labrun.data.readers import columnar, delimited, sheets
from labrun.data.readers.apply_schema import NAMES, apply_schema
from labrun.data.readers.checks import is_absolute
from labrun.data.readers.columns import (
    GAPS,
    ColumnSettings,
    KnownTable,
    TableSchema,
    check_keys,
    infer_schema,
    sign_of,
)
from labrun.data.readers.number_parsing import DECIMALS, number
from labrun.data.readers.table_form import TableForm
from labrun.data.readers.user_arrays import check_classes, from_arrays, in_order, must_exist, place_of
from labrun.data.wording import QUANTITY, few
from labrun.errors import ConfigError, DataError
from labrun.messages import counted, suggest

TOTALS = frozenset({"total", "totals", "sum", "grand total", "summe", "gesamt", "gesamtsumme", "somme", "totale"})
"""Labels of a total row below a table."""
SEVERAL = 3
"""In a table of at least this many feature columns, rows without any feature are dropped."""
MANY = 20
"""If there are more classes than this and all are numbers, the target may be a quantity."""


class Csv(Reader):
    """A table: one column is the class, the others are numbers, categories or dates.

    Labels are the stripped text in the file: `NA`, `None`, `01` and `1.0` are ordinary labels. Column types are
    detected and reported (see `labrun.data.readers.columns`).

    Args:
        path: the file, below the datastore or absolute (at submission also relative to the working folder).
        target: the column with the class; null: the last one.
        separator: column separator; null: detect it.
        test_path: a second file with the test data.
        ignore: columns to exclude (identifiers, dates).
        regression: whether the target is a quantity instead of a class.
        numbers, categories, dates, decimal: column types, see `columns.ColumnSettings`.
        encoding, header, sheet, skip_rows: see `TableForm`.
    """

    may_be_held = True

    def __init__(
        self,
        path: str,
        target: str | None = None,
        separator: str | None = None,
        test_path: str | None = None,
        ignore: Sequence[str] = (),
        regression: bool = False,
        numbers: Sequence[str] = (),
        categories: Sequence[str] = (),
        dates: Mapping[str, str] | None = None,
        decimal: str | None = None,
        encoding: str | None = None,
        header: bool | None = None,
        sheet: str | int | None = None,
        skip_rows: int | None = None,
    ) -> None:
        self.regression = regression
        self.path, self.target, self.test_path = path, target, test_path
        decimal = DECIMALS.get(str(decimal), decimal)
        self.settings = ColumnSettings(list(ignore), list(numbers), list(categories), dict(dates or {}), decimal)
        self._form = TableForm(separator, encoding, header, sheet, skip_rows)
        self.known: KnownTable | None = None

    @staticmethod
    def warm() -> None:
        import pandas  # noqa: F401

    def candidates(self) -> Sequence[str] | None:
        if is_absolute(self.path):
            return None
        if self.test_path is None or is_absolute(self.test_path):
            return (self.path,)
        return (os.path.commonpath([os.path.dirname(self.path), os.path.dirname(self.test_path)]) or ".",)

    def find(self, root: Path) -> bool:
        return place_of(root, self.path).is_file()

    def check_packages(self, root: Path) -> None:
        for path in self.files(root):
            sheets.check_package(path)

    def files(self, root: Path) -> Sequence[Path]:
        paths = [must_exist(place_of(root, self.path), "dataset.path")]
        if self.test_path is not None:
            paths.append(must_exist(place_of(root, self.test_path), "dataset.test_path"))
        return paths

    def needed(self, root: Path) -> int | None:
        paths = self.files(root)
        return sum(map(columnar.needed, paths)) if all(map(columnar.is_parquet, paths)) else None

    def stream(self, root: Path) -> RawData:
        paths = self.files(root)
        self._check_streams(paths)
        parts = [columnar.Parquet(path) for path in paths]
        tables = [SimpleNamespace(columns=one.columns) for one in parts]
        target = self._target(tables, paths)
        check_keys(SimpleNamespace(columns=[n for n in parts[0].columns if n != target]), self.settings, paths[0])
        known = None if self.known is None else self.known.schema
        known, targets, notes = columnar.infer_schema(parts, target, self.regression, self.settings, known)
        if not known.columns:
            raise DataError(f"{paths[0]} has no column to learn from except the target ({known.line()})")
        for one, found in zip(parts, targets, strict=True):
            notes += [f"left out, as not table values: {', '.join(one.left_out[:10])}"] if one.left_out else []
            lost = f"left out: {counted(found.lost, 'row')} without a value of {target}, the target"
            notes += [f"{lost}{f' ({one.path.name})' if len(parts) > 1 else ''}"] if found.lost else []
        y, classes = self._coded(targets, target, paths)
        if classes:
            notes += _doubts(Counter(targets[0].counts), target)
        made = [
            Part(cast(Any, columnar.rows(one, known.names, target, self.regression)), labels)
            for one, labels in zip(parts, y, strict=True)
        ]
        test = made[1] if len(made) > 1 else None
        return RawData(made[0], test, classes, tuple(paths), notes=tuple(notes), table=known.of_target(target))

    def _check_streams(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not columnar.is_parquet(path):
                raise DataError(
                    f"dataset.in_memory=false: {path} is not a Parquet file, and any other table is read as a whole, "
                    "to find out what its columns hold: leave it out, or write the table as Parquet "
                    "(docs/howto/larger-than-memory.md)"
                )
            if given := self._form.given():
                raise ConfigError(f"dataset.{given[0]}: {path} is a Parquet file, which has none: leave it out")

    def _coded(
        self, targets: Sequence[columnar.Target], target: str, paths: Sequence[Path]
    ) -> tuple[list[AnyArray], tuple[str, ...]]:
        """Return the target of each split, and the class names; see `from_arrays`.

        Raises:
            DataError: the target does not suit `regression`, has only one class, or has unknown classes.
        """
        for found, path in zip(targets, paths, strict=True):
            if not len(found):
                raise DataError(f"{path}: the target column {target!r} has no value in any row")
        if self.regression:
            return [
                found.quantities
                if found.quantities is not None
                else self._labels(_Named(target, found.texts), path, ".")[found.codes]
                for found, path in zip(targets, paths, strict=True)
            ], ()
        labels = [self._labels(_Named(target, found.texts), p, ".") for found, p in zip(targets, paths, strict=True)]
        if self.known is not None and self.known.classes:
            classes = list(self.known.classes)
        else:
            classes, _ = in_order(labels[0])
            check_classes(classes, len(targets[0]), str(paths[0]))
        place = {label: number for number, label in enumerate(classes)}
        strange = sorted({label for part in labels for label in part.tolist()} - set(place))
        if strange:
            raise DataError(
                f"{paths[-1]}: {few(map(repr, strange))} are not classes of the training split: {few(classes)}"
            )
        ranks = [np.array([place[label] for label in part.tolist()], np.int64) for part in labels]
        return [one[found.codes] for one, found in zip(ranks, targets, strict=True)], tuple(map(str, classes))

    def read(self, root: Path) -> RawData:
        paths = self.files(root)
        found = [delimited.read(path, self._form) for path in paths]
        tables, notes = [table for table, _ in found], [note for _, own_notes in found for note in own_notes]
        target = self._target(tables, paths)
        for place, path in enumerate(paths):
            tables[place], left_out = self._with_target(tables[place], target, path)
            notes += [f"{left_out}{f' ({path.name})' if len(paths) > 1 else ''}"] if left_out else []
        features = [table.drop(columns=[target]) for table in tables]
        differing = self._differing_signs(features, paths)
        notes += [] if differing is None else [differing]
        if self.known is not None:
            known = self.known.schema
        else:
            quantity = tables[0][target] if self.regression else None
            whole = features[:1] if differing else features
            known = self._inferred(whole, quantity, tables[0].attrs, paths[0])
        if not known.columns:
            raise DataError(
                f"{paths[0]} has no column{' to learn from' if features[0].shape[1] else ''} except the target: is "
                f"dataset.separator={self._form.separator!r} right?{f' ({known.line()})' if known.left_out else ''}"
            )
        arrays: dict[str, Any] = {}
        refusal = None
        for part, table, values, path in zip(("train", "test"), tables, features, paths, strict=False):
            sign = None if differing and part == "test" else known.decimal
            if self.known is not None:
                sign = self.settings.decimal
            samples, decimal, own_notes = apply_schema(known, values, path, sign)
            y = self._labels(table[target], path, decimal)
            notes += [] if differing else own_notes
            refusal = refusal or not_numbers(samples, known.names, path)
            empty = samples.isna().all(axis=1).to_numpy()
            if len(known.columns) >= SEVERAL and empty.any() and not empty.all():
                notes.append(_without_features(values[empty], path))
                samples, y = samples[~empty], y[~empty]
            elif total := next((cell for cell in values.iloc[-1] if cell.lower() in TOTALS), None):
                notes.append(f"the last row may be a total ({total!r}): delete it if it is one ({path.name})")
            arrays[f"X_{part}"], arrays[f"y_{part}"] = samples, y
        coarse = None
        if refusal is None:
            coarse = too_close(arrays["X_train"].to_numpy(np.float64), known.names)
            arrays |= {name: value.to_numpy(np.float64) for name, value in arrays.items() if name.startswith("X_")}
        doubts = [] if self.regression else _doubts(Counter(arrays["y_train"].tolist()), target)
        notes = [known.line(), *known.notes, *([coarse] if coarse else []), *notes, *doubts]
        if self.known is not None and self.known.classes and not self.regression:
            raw = _of_known_classes(arrays, self.known.classes, tuple(paths), refusal, paths[0])
        else:
            raw = from_arrays(arrays, str(paths[0]), tuple(paths), self.regression, refusal)
        return replace(raw, notes=tuple(notes), table=known.of_target(target))

    def _differing_signs(self, features: Sequence[Any], paths: Sequence[Path]) -> str | None:
        """Return a note if the splits have different decimal separators, and so must be read one by one."""
        if self.known is not None or len(features) < 2:
            return None
        signs = [sign_of(table, self.settings, path) for table, path in zip(features, paths, strict=True)]
        if None in signs or len(set(signs)) == 1:
            return None
        first, second = (f"{NAMES[str(sign)]} in {path.name}" for sign, path in zip(signs, paths, strict=True))
        return f"decimal {second}, {first}"

    def _inferred(self, features: Sequence[Any], quantity: Any, attrs: Mapping[Any, Any], where: Path) -> TableSchema:
        """Return the schema of the splits together, the training split first; see `infer_schema`."""
        import pandas as pd

        whole = pd.concat(features, ignore_index=True) if len(features) > 1 else features[0]
        whole.attrs = dict(attrs)
        return infer_schema(whole, self.settings, where, len(features[0]), quantity)

    def _target(self, tables: Sequence[Any], paths: Sequence[Path]) -> str:
        columns = list(tables[0].columns)
        own = None if self.known is None else self.known.schema.target
        usual = own if own is not None and own in columns else str(columns[-1])
        target = usual if self.target is None else str(self.target)
        for path, table in zip(paths, tables, strict=True):
            if set(table.columns) != set(columns):
                raise DataError(f"{path} has different columns from {paths[0]}: {few(table.columns)}")
        for key, names in (("target", [target]), ("ignore", self.settings.ignore)):
            for name in names:
                if name not in columns:
                    raise ConfigError(
                        f"dataset.{key}={name!r}: {paths[0]} has no such column.{suggest(str(name), columns)} "
                        f"It has: {few(columns, 20)}"
                    )
        return target

    def _with_target(self, table: Any, target: str, path: Path) -> tuple[Any, str | None]:
        """Return the rows that have a target value, and a note on how many have none.

        Raises:
            DataError: no row has one.
        """
        texts = table[target].tolist()
        kept = [bool(text) and not (self.regression and text.lower() in GAPS) for text in texts]
        if all(kept):
            return table, None
        if not any(kept):
            raise DataError(
                f"{path}: the target column {target!r} has no value in any row: set another with dataset.target"
            )
        made = table[np.array(kept)].reset_index(drop=True)
        made.attrs = dict(table.attrs)
        return made, f"left out: {counted(kept.count(False), 'row')} without a value of {target}, the target"

    def _labels(self, column: Any, path: Path, decimal: str) -> AnyArray:
        """Return the target: (N,) text, or float64 quantities.

        Raises:
            DataError: its values do not suit `regression`.
        """
        name, texts = column.name, column.tolist()
        if self.regression:
            values = [number(text, decimal) for text in texts]
            bad = [text for text, value in zip(texts, values, strict=True) if value is None]
            if bad:
                raise DataError(
                    f"{path}: the column {name!r} must be numeric (dataset.regression=true), but {len(bad)} "
                    f"values are not numbers, such as {bad[0]!r}"
                )
            return np.array(values, np.float64)
        different = set(texts)
        fractions = [text for text in different if (value := number(text, decimal)) is not None and value % 1]
        if fractions and all(number(text, decimal) is not None for text in different):
            raise DataError(
                f"{path}: the column {name!r} holds fractions such as {fractions[0]}: that is a quantity, not a class. "
                f"{QUANTITY}; dataset.target sets another target column"
            )
        return np.array(texts, dtype=str)


def _without_features(rows: Any, path: Path) -> str:
    """Return the note on rows without features, such as a total below the table."""
    cell = next(((value, name) for name, value in rows.iloc[0].items() if value), None)
    such = "" if cell is None else f", such as that with {cell[0]!r} in {cell[1]!r}"
    return f"left out: {counted(len(rows), 'row')} without a value in any column to learn from{such} ({path.name})"


@dataclass(frozen=True)
class _Named:
    """Values with a column name."""

    name: str
    values: list[str]

    def tolist(self) -> list[str]:
        return self.values


def _doubts(counts: Counter[str], target: str) -> list[str]:
    """Return notes on suspicious labels of a classifier."""
    notes = []
    gaps = [label for label in counts if label.lower() in GAPS]
    if gaps:
        listed = few([f"{label!r} ({counts[label]} rows)" for label in gaps])
        notes.append(f"{target}: {listed}: treated as an ordinary class")
    numbers = {label: number(label, ".") for label in counts}
    alike: dict[object, list[str]] = {}
    for label, value in numbers.items():
        alike.setdefault(label.lower() if value is None else value, []).append(label)
    for same in alike.values():
        if len(same) > 1:
            notes.append(f"{target}: {' and '.join(map(repr, sorted(same)))} are different classes: labels are text")
    if len(counts) > MANY and None not in numbers.values():
        notes.append(f"{target}: {len(counts)} different numbers are treated as classes. {QUANTITY}")
    return notes


def _of_known_classes(
    arrays: Mapping[str, Any], classes: Sequence[str], files: tuple[Path, ...], refusal: str | None, where: object
) -> RawData:
    """Build a data set with the classes of a model's card; some of them may be absent.

    Raises:
        DataError: the data have other classes.
    """
    from labrun.data.readers.user_arrays import samples_of

    place = {label: number for number, label in enumerate(classes)}
    parts: dict[str, Part] = {}
    for name in ("train", "test"):
        if f"y_{name}" not in arrays:
            continue
        labels = arrays[f"y_{name}"].tolist()
        strange = sorted(set(labels) - set(place))
        if strange:
            raise DataError(
                f"{where}: the model knows the classes {few(classes, 10)}, but not {few(map(repr, strange))}"
            )
        x, why = samples_of(arrays[f"X_{name}"], f"{where}: X_{name}")
        refusal = refusal or why
        parts[name] = Part(x, np.array([place[label] for label in labels], np.int64))
    return RawData(parts["train"], parts.get("test"), tuple(classes), files, refusal=refusal)
