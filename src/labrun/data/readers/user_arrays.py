"""User-supplied arrays: an `.npz` file, or a Python script that returns them."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labrun.data.arrays import AnyArray, Part, RawData
from labrun.data.numeric import not_numbers, too_close
from labrun.data.reader import Reader
from labrun.data.readers import archive
from labrun.data.readers.checks import is_absolute
from labrun.data.readers.columns import TableSchema, of_frame
from labrun.data.readers.delimited import is_number
from labrun.data.wording import FILLED, QUANTITY, few
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError

NAMES = {
    "x": ("X", "x", "data", "images"),
    "y": ("y", "Y", "labels", "target"),
    "x_train": ("X_train", "x_train", "train_images", "train_data"),
    "y_train": ("y_train", "Y_train", "train_labels"),
    "x_test": ("X_test", "x_test", "test_images", "test_data"),
    "y_test": ("y_test", "Y_test", "test_labels"),
    "x_valid": ("X_valid", "x_valid", "X_val", "x_val"),
    "y_valid": ("y_valid", "Y_valid", "Y_val", "y_val"),
}
"""Accepted names of the arrays."""
AS_IT_IS, GREY, CHANNELS_LAST = "as it is", "grey", "channels last"
"""Layouts of samples in an array."""


class Npz(Reader):
    """An `.npz` file with X and y, or with X_train, y_train, X_test and y_test; X_valid and y_valid for validation.

    X is (N, F) numbers, (N, H, W) greyscale or (N, H, W, C) colour images; y is (N,) class numbers or names. Nothing
    is unpickled.

    Args:
        path: the file, below the datastore or absolute (at submission also relative to the working folder).
        regression: whether y is a quantity instead of a class.
    """

    may_be_held = True

    def __init__(self, path: str, regression: bool = False) -> None:
        self.path, self.regression = path, regression

    def candidates(self) -> Sequence[str] | None:
        return None if is_absolute(self.path) else (self.path,)

    def find(self, root: Path) -> bool:
        return place_of(root, self.path).is_file()

    def files(self, root: Path) -> Sequence[Path]:
        return (must_exist(place_of(root, self.path), "dataset.path"),)

    def needed(self, root: Path) -> int | None:
        return archive.needed(self.files(root)[0])

    def stream(self, root: Path) -> RawData:
        (path,) = self.files(root)
        names = [name for key, given in NAMES.items() if key.startswith("x") for name in given]
        return from_arrays(archive.arrays(path, names), str(path), (path,), self.regression)

    def read(self, root: Path) -> RawData:
        (path,) = self.files(root)
        if not zipfile.is_zipfile(path):
            raise CorruptDataError(f"{path} is not a readable .npz file")
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            archive.headers(path)  # refuses Python objects, with a message that says so
            raise CorruptDataError(f"{path} is not a readable .npz file: {error}") from error
        return from_arrays(arrays, str(path), (path,), self.regression)


class GetData(Reader):
    """A Python script with a function `get_data()` that returns the arrays by name, as in Azure ML's AutoML.

    It returns `{"X": ..., "y": ...}`, or train and test data (`X_train`, `y_train`, `X_test`, `y_test`), optionally
    with validation data (`X_valid`, `y_valid`). It runs in the folder where the command was started. The record holds
    two digests: of the script, and of the returned data.

    Args:
        script: the file; a relative path is resolved against the run's import path, which is the frozen code.
        regression: whether y is a quantity instead of a class.
    """

    def __init__(self, script: str, regression: bool = False) -> None:
        self.script, self.regression = script, regression

    @property
    def is_own_code(self) -> bool:
        return True

    def candidates(self) -> Sequence[str] | None:
        return None

    def find(self, root: Path) -> bool:
        return self._script().is_file()

    def files(self, root: Path) -> Sequence[Path]:
        return (must_exist(self._script(), "dataset.script"),)

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
        return from_arrays(
            {str(name): value for name, value in arrays.items()}, f"get_data() in {path}", (path,), self.regression
        )

    def _script(self) -> Path:
        given = Path(self.script).expanduser()
        if given.is_absolute():
            return given
        interpreters = {str(path) for path in sysconfig.get_paths().values()}  # so that a user's statistics.py wins
        own = [entry for entry in sys.path if entry not in interpreters and "lib-dynload" not in entry]
        return next((Path(p, given) for p in [*own, "."] if Path(p, given).is_file()), given)


def from_arrays(
    arrays: Mapping[str, Any],
    origin: str,
    files: tuple[Path, ...],
    regression: bool = False,
    refusal: str | None = None,
) -> RawData:
    """Validate named arrays and build a data set from them.

    Args:
        arrays: X and y, or X_train etc., under any of the accepted names.
        origin: origin of the arrays, for messages.
        files: the files that were read.
        regression: whether y is a quantity.
        refusal: why models that accept only numbers cannot use these samples, if known.

    Raises:
        DataError: an array is missing or of the wrong shape or type, or there are fewer than two classes.
    """
    labels = _quantities if regression else _labels
    parts: dict[str, tuple[Any, Any]] = {}
    notes: list[str] = []
    for kind, (samples, target) in _find_parts(arrays, origin).items():
        x, more, why = _samples(samples.values, f"{origin}: {samples.name}")
        refusal = refusal or why
        if kind == "train":
            notes += more
            if not x.shape[0]:
                raise DataError(f"{origin}: {samples.name} has no samples")
        parts[kind] = x, labels(target.values, x.shape[0], f"{origin}: {target.name}")
    parts, table, more = _aligned(parts, origin, may_be_text=refusal is not None)
    classes: tuple[str, ...] = ()
    if not regression:
        classes, parts = _coded(parts, origin)
    made = {kind: Part(*part) for kind, part in parts.items()}
    return RawData(
        made["train"],
        made.get("test"),
        classes,
        files,
        validation=made.get("valid"),
        notes=(*notes, *more),
        refusal=refusal,
        table=table,
    )


class _Named(NamedTuple):
    """An array, and its name in messages."""

    name: str
    values: Any


def _find_parts(arrays: Mapping[str, Any], origin: str) -> dict[str, tuple[_Named, _Named]]:
    """Find the samples and the target of each split: `train`, and `test` and `valid` where they are given.

    Raises:
        DataError: one of them is missing.
    """
    found = {key: next((arrays[n] for n in names if n in arrays), None) for key, names in NAMES.items()}
    is_whole = found["x"] is not None and found["x_train"] is None
    keys = ("x", "y") if is_whole else ("x_train", "y_train")
    for key in keys:
        if found[key] is None:
            raise DataError(
                f"{origin} has no {' or '.join(NAMES[key][:2])}. It has: {few(arrays) or 'nothing'}. "
                "Expected: X and y, or X_train, y_train, X_test and y_test"
            )
    x, y = (_Named(NAMES[key][0], found[key]) for key in keys)
    parts = {"train": (x, y)}
    for kind in ("test", "valid"):
        x, y = (_Named(f"{one}_{kind}", found[f"{one.lower()}_{kind}"]) for one in ("X", "y"))
        if (x.values is None) != (y.values is None):
            raise DataError(f"{origin} has only one of {x.name} and {y.name}")
        if x.values is not None:
            parts[kind] = x, y
    return parts


def _aligned(
    parts: dict[str, tuple[Any, Any]], origin: str, may_be_text: bool
) -> tuple[dict[str, tuple[Any, Any]], TableSchema | None, list[str]]:
    """Give all splits the columns of the training split.

    Args:
        parts: samples and target by split.
        origin: origin of the arrays, for messages.
        may_be_text: whether some samples are not numbers; all splits are then tables.

    Returns:
        The splits; the schema of a table, or None; notes on it.

    Raises:
        DataError: the samples of two splits have different shapes.
    """
    if may_be_text and not all(hasattr(x, "iloc") for x, _ in parts.values()):
        parts = {kind: (_as_table(x), y) for kind, (x, y) in parts.items()}
    train = parts["train"][0]
    for kind, (x, _) in parts.items():
        if x.shape[1:] != train.shape[1:]:
            raise DataError(f"{origin}: a sample of X_{kind} is {x.shape[1:]}, one of X_train {train.shape[1:]}")
    if not hasattr(train, "iloc"):
        return parts, None, []
    schema = of_frame(train)
    names = {kind: origin if kind == "train" else f"{origin}: X_{kind}" for kind in parts}
    parts = {kind: (schema.apply(x, names[kind]), y) for kind, (x, y) in parts.items()}
    return parts, schema, [schema.line(), *schema.notes]


def _coded(parts: dict[str, tuple[Any, Any]], origin: str) -> tuple[tuple[str, ...], dict[str, tuple[Any, Any]]]:
    """Return the classes of the training split, and the splits with class numbers in place of labels.

    Raises:
        DataError: a split has a class that the training split lacks, or there are fewer than two classes.
    """
    labels = parts["train"][1]
    known = set(labels.tolist())
    for kind, (_, target) in parts.items():
        strange = sorted(set(target.tolist()) - known, key=str)
        if strange:
            raise DataError(f"{origin}: y_{kind} has classes that y_train lacks: {few(strange)}")
    classes, codes = in_order(labels)
    check_classes(classes, len(labels), origin)
    place = {label: number for number, label in enumerate(classes)}
    coded = {
        kind: (x, codes if kind == "train" else np.array([place[label] for label in y.tolist()], np.int64))
        for kind, (x, y) in parts.items()
    }
    return tuple(map(str, classes)), coded


def check_classes(classes: Sequence[Any], count: int, origin: str) -> None:
    """Check that the values of a target are classes.

    Args:
        classes: the distinct values, in order.
        count: number of labels.
        origin: origin of the labels, for messages.

    Raises:
        DataError: they are not.
    """
    if len(classes) < 2:
        raise DataError(
            f"{origin}: all {count} samples are of one class, {str(classes[0])!r}; a classifier needs at least two"
        )
    if len(classes) > 2 and 2 * len(classes) > count:
        raise DataError(
            f"{origin}: {len(classes)} different values in {count} labels, from {str(classes[0])!r} to "
            f"{str(classes[-1])!r}: that is a quantity or an identifier, not a class. {QUANTITY}"
        )


def in_order(y: AnyArray) -> tuple[list[Any], AnyArray]:
    """Return the sorted classes of labels, numerically if all are numbers, and the class index of each label.

    Shapes:
        y: (N,) numbers or text.
        returns: the classes; (N,) int64.
    """
    found, inverse = np.unique(y, return_inverse=True)
    classes = found.tolist()
    if y.dtype.kind == "U" and all(is_number(label) for label in classes):
        classes.sort(key=lambda label: (float(label.replace(",", ".")), label))
    rank = {label: number for number, label in enumerate(classes)}
    return classes, np.array([rank[label] for label in found.tolist()], np.int64)[inverse]


def _samples(value: Any, what: str) -> tuple[AnyArray, list[str], str | None]:
    """Convert samples to labrun's format: (N, F) float32, or images (N, C, H, W); sparse matrices stay sparse.

    Returns:
        The samples, notes for the user, and why models that accept only numbers cannot use them.
    """
    if isinstance(value, archive.Stored):
        return _streamed(value, what)
    if hasattr(value, "toarray") and hasattr(value, "tocsr"):
        return _sparse(value, what), [], None
    if hasattr(value, "iloc") and getattr(value, "ndim", 0) == 2:
        value = value.set_axis([str(name) for name in value.columns], axis=1).infer_objects()
        twice = value.columns[value.columns.duplicated()]
        if len(twice):
            raise DataError(f"{what} has more than one column named {few(map(repr, twice))}")
        refusal = not_numbers(value, list(value.columns), what)
        if refusal is not None:
            return value.reset_index(drop=True), [], refusal
        value = value.to_numpy(np.float64)
    x = _array(value, what)
    if x.dtype.kind in "OUS" and x.ndim == 2 and x.size:
        table = _as_table(x)
        return table, [], not_numbers(table, list(table.columns), what) or f"{what} holds {x.dtype}, not numbers"
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what} holds {x.dtype}, not numbers")
    if x.ndim < 2 or not len(x) or 0 in x.shape:
        raise DataError(f"{what} has the shape {x.shape}; expected (N, F), or images (N, H, W) or (N, H, W, C)")
    if x.dtype.kind == "f":
        wrong = ~np.isfinite(x.reshape(len(x), -1))
        if wrong.any():
            problem = _not_finite(what, int(wrong.sum()), np.flatnonzero(wrong.any(axis=0)).tolist())
            if x.ndim > 2 or np.isinf(x).any():
                raise DataError(problem)
            return _as_table(x), [], f"{problem}. {FILLED}"
    layout, notes = _layout(x.shape, what)
    if layout == GREY:
        x = x[:, None]
    elif layout == CHANNELS_LAST:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if x.ndim == 2 and (coarse := too_close(x, [str(place) for place in range(x.shape[1])])):
        notes.append(f"{what}: {coarse}")
    return (x if x.dtype == np.uint8 else x.astype(np.float32)), notes, None


def _streamed(value: archive.Stored, what: str) -> tuple[Any, list[str], str | None]:
    """Like `_samples`, for an array that stays on disk."""
    scan = value.scan
    if scan.wrong:
        problem = _not_finite(what, scan.wrong, scan.columns)
        raise DataError(problem if value.ndim > 2 or scan.has_infinity else f"{problem}. {FILLED}")
    layout, notes = _layout(value.shape, what)
    if scan.closeness is not None and (coarse := scan.closeness.warning([str(p) for p in range(value.shape[1])])):
        notes.append(f"{what}: {coarse}")
    return value.rows(channels_last=layout == CHANNELS_LAST), notes, None


def _not_finite(what: str, count: int, columns: list[int]) -> str:
    return f"{what} holds NaN or infinity: {count} values, in columns {few(columns)}"


def _layout(shape: tuple[int, ...], what: str) -> tuple[str, list[str]]:
    """Determine the layout of samples from the array's shape, with notes for the user.

    Raises:
        DataError: the samples are neither rows nor images.
    """
    if len(shape) == 3:
        return GREY, [f"{what}: read as grey images of {shape[1]}x{shape[2]}"]
    if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        return CHANNELS_LAST, [f"{what}: read as images of {shape[1]}x{shape[2]} with {shape[3]} channels"]
    if len(shape) > 4 or (len(shape) == 4 and shape[1] not in (1, 3)):
        raise DataError(f"{what} has the shape {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3")
    return AS_IT_IS, []


def samples_of(value: Any, what: str) -> tuple[AnyArray, str | None]:
    """Convert samples, and return why models that accept only numbers cannot use them, or None; see `_samples`."""
    x, _, refusal = _samples(value, what)
    return x, refusal


def _array(value: Any, what: str) -> AnyArray:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{what} is not an array: {' '.join(str(error).split())}") from error


def _sparse(value: Any, what: str) -> Any:
    rows = value.tocsr()
    if rows.dtype.kind not in "biuf" or rows.ndim != 2 or 0 in rows.shape:
        raise DataError(f"{what} is a sparse matrix of {rows.dtype}, {rows.shape}; expected numbers, (N, F)")
    if not np.isfinite(rows.data).all():
        raise DataError(f"{what} holds NaN or infinity, {int((~np.isfinite(rows.data)).sum())} times")
    return rows.astype(np.float32)


def _as_table(x: Any) -> Any:
    """Convert an array to a table with columns named by position, numeric where all their values are."""
    import pandas as pd

    if hasattr(x, "toarray"):
        x = x.toarray()
    table = x if hasattr(x, "iloc") else pd.DataFrame(x, columns=[str(place) for place in range(x.shape[1])])
    table = table.replace({"": None}).infer_objects()
    for name in table.columns:
        if table[name].dtype.kind not in "biuf":
            as_numbers = pd.to_numeric(table[name], errors="coerce")
            if as_numbers.notna().sum() == table[name].notna().sum():
                table[name] = as_numbers
    return table.reset_index(drop=True)


def _quantities(value: Any, count: int, what: str) -> AnyArray:
    """Return the regression target: (N,) float64."""
    y = _column(value, count, what, "number")
    if y.dtype.kind not in "biuf":
        raise DataError(f"{what} holds {y.dtype}; with dataset.regression=true it must hold numbers")
    if not np.isfinite(y).all():
        raise DataError(f"{what} holds NaN or infinity, {int((~np.isfinite(y)).sum())} times")
    return y.astype(np.float64)


def _column(value: Any, count: int, what: str, noun: str) -> AnyArray:
    """Return one value per sample, also from a table with one column."""
    y = _array(value, what)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (count,):
        raise DataError(f"{what} has the shape {y.shape}; expected ({count},), one {noun} for each sample")
    return y


def _labels(value: Any, count: int, what: str) -> AnyArray:
    y = _column(value, count, what, "label")
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8")
    if y.dtype.kind == "O" and all(isinstance(label, bool | np.bool_) for label in y.tolist()):
        y = y.astype(bool)
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise DataError(
                f"{what} holds NaN or infinity, {int((~np.isfinite(y)).sum())} times: every sample needs a class"
            )
        if (y != np.round(y)).any():
            raise DataError(
                f"{what} holds fractions such as {y[y != np.round(y)][0]:g}: that is a quantity, not a class. "
                f"{QUANTITY}"
            )
        y = y.astype(np.int64)
    if y.dtype.kind == "O":
        if all(isinstance(label, int | np.integer) for label in y.tolist()):
            return y.astype(np.int64)
        kinds = {type(label).__name__ for label in y.tolist()}
        if kinds != {"str"}:
            raise DataError(f"{what} mixes {', '.join(sorted(kinds))}: labels must be all numbers or all text")
        y = y.astype(str)
    if y.dtype.kind not in "biuUS":
        raise DataError(f"{what} holds {y.dtype}; labels must be integers or text")
    return y


def place_of(root: Path, path: str) -> Path:
    """Return the path of a data set's file: below the root, or absolute."""
    return (root / Path(path).expanduser()).resolve()


def must_exist(path: Path, key: str) -> Path:
    """Return the path if the file exists; `key` is the config key that sets it.

    Raises:
        MissingDataError: the file does not exist.
    """
    if not path.is_file():
        raise MissingDataError(f"{path} does not exist: set the file's path with {key} (and datastore.root)")
    return path
