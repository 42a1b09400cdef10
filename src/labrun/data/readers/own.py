"""A person's own data as arrays: an `.npz` file, a table in CSV, or a Python file that makes them."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labrun.checking import suggest
from labrun.data.arrays import AnyArray, Part, RawData
from labrun.data.reader import Reader
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError

NAMES = {
    "x": ("X", "x", "data", "images"),
    "y": ("y", "Y", "labels", "target"),
    "x_train": ("X_train", "x_train", "train_images", "train_data"),
    "y_train": ("y_train", "Y_train", "train_labels"),
    "x_test": ("X_test", "x_test", "test_images", "test_data"),
    "y_test": ("y_test", "Y_test", "test_labels"),
}
"""What the arrays may be called."""
SHOWN = 5


class Npz(Reader):
    """An `.npz` file with X and y, or with X_train, y_train, X_test and y_test.

    X is (N, F) numbers, (N, H, W) grey or (N, H, W, C) colour images; y (N,) class numbers or names. Nothing is
    unpickled.

    Args:
        path: the file, below the datastore or absolute.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def find(self, root: Path) -> bool:
        return _place(root, self.path).is_file()

    def files(self, root: Path) -> Sequence[Path]:
        return (_must_exist(_place(root, self.path), "dataset.path"),)

    def read(self, root: Path) -> RawData:
        (path,) = self.files(root)
        if not zipfile.is_zipfile(path):
            raise CorruptDataError(f"{path} is no readable .npz file")
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            if "allow_pickle" in str(error):
                raise CorruptDataError(
                    f"{path} holds Python objects, and loading those runs code: save arrays of numbers or text"
                ) from error
            raise CorruptDataError(f"{path} is no readable .npz file: {error}") from error
        return from_arrays(arrays, str(path), (path,))


class GetData(Reader):
    """A Python file with a function `get_data()` that returns the arrays by name, as Azure ML's AutoML had it.

    It returns `{"X": ..., "y": ...}`, or train and test parts (`X_train`, `y_train`, `X_test`, `y_test`). It runs in
    the folder where the command was started. The record's data digest is that of the file.

    Args:
        script: the file; a relative path is looked for where the run imports from, so in the frozen code.
    """

    def __init__(self, script: str) -> None:
        self.script = script

    def find(self, root: Path) -> bool:
        return self._script().is_file()

    def files(self, root: Path) -> Sequence[Path]:
        return (_must_exist(self._script(), "dataset.script"),)

    def read(self, root: Path) -> RawData:
        (path,) = self.files(root)
        specification = importlib.util.spec_from_file_location(f"labrun_data_{path.stem}", path)
        if specification is None or specification.loader is None:
            raise ConfigError(f"dataset.script={self.script}: not a Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[specification.name] = module
        specification.loader.exec_module(module)
        get_data = getattr(module, "get_data", None)
        if not callable(get_data):
            raise ConfigError(f"{path} has no function get_data()")
        arrays = get_data()
        if not isinstance(arrays, Mapping):
            raise DataError(
                f"get_data() in {path} returned a {type(arrays).__name__}; it must return a dict: "
                '{"X": ..., "y": ...}, or with X_train, y_train, X_test, y_test'
            )
        return from_arrays({str(name): value for name, value in arrays.items()}, f"get_data() in {path}", (path,))

    def _script(self) -> Path:
        given = Path(self.script).expanduser()
        if given.is_absolute():
            return given
        return next((Path(p, given) for p in [*sys.path, "."] if Path(p, given).is_file()), given)


class Csv(Reader):
    """A table: one column is the class, the others are numbers. The first line names the columns.

    Args:
        path: the file, below the datastore or absolute.
        target: the column with the class; null: the last one.
        separator: between the columns; null: found out.
        test_path: a second file with the test part.
        ignore: columns to leave out (identifiers, dates).
    """

    def __init__(
        self,
        path: str,
        target: str | None = None,
        separator: str | None = None,
        test_path: str | None = None,
        ignore: Sequence[str] = (),
    ) -> None:
        self.path, self.target, self.separator, self.test_path = path, target, separator, test_path
        self.ignore = list(ignore)

    @staticmethod
    def warm() -> None:
        import pandas  # noqa: F401

    def find(self, root: Path) -> bool:
        return _place(root, self.path).is_file()

    def files(self, root: Path) -> Sequence[Path]:
        paths = [_must_exist(_place(root, self.path), "dataset.path")]
        if self.test_path is not None:
            paths.append(_must_exist(_place(root, self.test_path), "dataset.test_path"))
        return paths

    def read(self, root: Path) -> RawData:
        paths = self.files(root)
        tables = [self._table(path) for path in paths]
        columns = list(tables[0].columns)
        target = columns[-1] if self.target is None else self.target
        for path, table in zip(paths, tables, strict=True):
            if list(table.columns) != columns:
                raise DataError(f"{path} has other columns than {paths[0]}: {_few(table.columns)}")
        for name in [target, *self.ignore]:
            if name not in columns:
                key = "target" if name == target else "ignore"
                raise ConfigError(
                    f"dataset.{key}={name!r}: {paths[0]} has no such column.{suggest(str(name), columns)} "
                    f"It has: {_few(columns, 20)}"
                )
        features = [name for name in columns if name != target and name not in self.ignore]
        if not features:
            raise DataError(f"{paths[0]} has no column but the class: is dataset.separator={self.separator!r} right?")
        arrays: dict[str, Any] = {}
        for part, path, table in zip(("train", "test"), paths, tables, strict=False):
            _check_numbers(table, features, target, path)
            arrays[f"X_{part}"] = table[features].to_numpy(np.float64)
            arrays[f"y_{part}"] = table[target].to_numpy()
        return from_arrays(arrays, str(paths[0]), tuple(paths))

    def _table(self, path: Path) -> Any:
        import pandas as pd

        try:
            table = pd.read_csv(
                path, sep=self.separator, engine="python" if self.separator is None else "c", skipinitialspace=True
            )
        except (ValueError, OSError, pd.errors.ParserError) as error:
            raise CorruptDataError(f"{path} is no readable CSV file: {error}") from error
        table.columns = [str(name) for name in table.columns]
        return table


def from_arrays(arrays: Mapping[str, Any], origin: str, files: tuple[Path, ...]) -> RawData:
    """Check arrays by name, and make a data set of them.

    Args:
        arrays: X and y, or X_train and so on, by any of the usual names.
        origin: where they come from, for messages.
        files: what was read.

    Raises:
        DataError: an array is missing, of the wrong shape or kind, holds NaN, or leaves fewer than two classes.
    """
    found = {key: next((arrays[n] for n in names if n in arrays), None) for key, names in NAMES.items()}
    whole = found["x"] is not None and found["x_train"] is None
    keys = ("x", "y") if whole else ("x_train", "y_train")
    for key in keys:
        if found[key] is None:
            raise DataError(
                f"{origin} has no {' or '.join(NAMES[key][:2])}. It has: {_few(arrays) or 'nothing'}. "
                "Wanted: X and y, or X_train, y_train, X_test and y_test"
            )
    if (found["x_test"] is None) != (found["y_test"] is None):
        raise DataError(f"{origin} has only one of X_test and y_test")
    x, notes = _samples(found[keys[0]], f"{origin}: {NAMES[keys[0]][0]}")
    y = _labels(found[keys[1]], len(x), f"{origin}: {NAMES[keys[1]][0]}")
    x_test = y_test = None
    if found["x_test"] is not None:
        x_test, _ = _samples(found["x_test"], f"{origin}: X_test")
        y_test = _labels(found["y_test"], len(x_test), f"{origin}: y_test")
        if x_test.shape[1:] != x.shape[1:]:
            raise DataError(f"{origin}: a sample of X_test is {x_test.shape[1:]}, one of X_train {x.shape[1:]}")
        strange = sorted(set(y_test.tolist()) - set(y.tolist()), key=str)
        if strange:
            raise DataError(f"{origin}: y_test has classes that y_train has not: {_few(strange)}")
    classes = np.unique(y)
    if len(classes) < 2:
        raise DataError(f"{origin}: all {len(y)} samples are of one class, {classes[0]!r}; a classifier needs two")
    if len(classes) > 2 and 2 * len(classes) > len(y):
        raise DataError(
            f"{origin}: {len(classes)} different values in {len(y)} labels, from {classes[0]!r} to {classes[-1]!r}: "
            "that is a quantity or an identifier, not a class"
        )
    test = None if x_test is None or y_test is None else Part(x_test, np.searchsorted(classes, y_test).astype(np.int64))
    train = Part(x, np.searchsorted(classes, y).astype(np.int64))
    return RawData(train, test, tuple(str(name) for name in classes.tolist()), files, notes=tuple(notes))


def _samples(value: Any, what: str) -> tuple[AnyArray, list[str]]:
    """Samples as labrun holds them: (N, F) float32, or images (N, C, H, W)."""
    if hasattr(value, "toarray"):
        value = value.toarray()
    x = np.asarray(value)
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} holds {x.dtype} and not numbers")
    if x.ndim < 2 or not len(x) or 0 in x.shape:
        raise DataError(f"{what} has the shape {x.shape}; wanted are (N, F), or images (N, H, W) or (N, H, W, C)")
    if x.dtype.kind == "f":
        wrong = ~np.isfinite(x.reshape(len(x), -1))
        if wrong.any():
            columns = np.flatnonzero(wrong.any(axis=0))
            raise DataError(
                f"{what} holds NaN or infinity: {int(wrong.sum())} values, in columns {_few(columns.tolist())}"
            )
    notes = []
    if x.ndim == 3:
        x = x[:, None]
        notes.append(f"{what}: read as grey images of {x.shape[2]}x{x.shape[3]}")
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        notes.append(f"{what}: read as images of {x.shape[2]}x{x.shape[3]} with {x.shape[1]} channels")
    elif x.ndim > 4 or (x.ndim == 4 and x.shape[1] not in (1, 3)):
        raise DataError(f"{what} has the shape {x.shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    return (x if x.dtype == np.uint8 else x.astype(np.float32)), notes


def _labels(value: Any, count: int, what: str) -> AnyArray:
    y = np.asarray(value)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (count,):
        raise DataError(f"{what} has the shape {y.shape}; wanted is ({count},), one label for each of the samples")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise DataError(
                f"{what} holds NaN or infinity, {int((~np.isfinite(y)).sum())} times: every sample needs a class"
            )
        if (y != np.round(y)).any():
            raise DataError(
                f"{what} holds fractions such as {y[y != np.round(y)][0]:g}: that is a quantity, not a class"
            )
        y = y.astype(np.int64)
    if y.dtype.kind == "O":
        kinds = {type(label).__name__ for label in y.tolist()}
        if kinds != {"str"}:
            raise DataError(f"{what} mixes {', '.join(sorted(kinds))}: labels are all numbers or all text")
        y = y.astype(str)
    if y.dtype.kind not in "biuUS":
        raise DataError(f"{what} holds {y.dtype}; labels are whole numbers or text")
    return y


def _check_numbers(table: Any, features: Sequence[str], target: str, path: Path) -> None:
    """Columns of numbers without gaps, or their names."""
    text = [name for name in features if table[name].dtype.kind not in "biuf"]
    if text:
        example = next(iter(table[text[0]].dropna().astype(str)), "")
        raise DataError(
            f"{path}: the columns {_few(text)} hold text (such as {example!r} in {text[0]!r}); a model needs numbers. "
            f"Leave them out with dataset.ignore=[{','.join(text[:SHOWN])}], or make numbers of them"
        )
    gaps = {name: int(table[name].isna().sum()) for name in [*features, target] if table[name].isna().any()}
    if gaps:
        listed = _few([f"{name} ({count})" for name, count in gaps.items()])
        raise DataError(f"{path}: values are missing in the columns {listed}: fill them, or leave the columns out")


def _few(values: Any, count: int = SHOWN) -> str:
    listed = [str(value) for value in values]
    return ", ".join(listed[:count]) + (f", ... ({len(listed)} in all)" if len(listed) > count else "")


def _place(root: Path, path: str) -> Path:
    return (root / Path(path).expanduser()).resolve()


def _must_exist(path: Path, key: str) -> Path:
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist: say where the file is with {key} (and datastore.root)")
    return path
