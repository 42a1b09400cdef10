"""The data of an `AutoMLConfig`: stored in the workspace with a generated `get_data()` script that labrun runs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from labrun._io import atomic_write
from labrun.azureml import folder
from labrun.azureml.notices import notify_once
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.models import MOST_CATEGORIES

SCRIPT = '''"""Written by labrun: the data of an AutoMLConfig."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def get_data():
    parts = json.loads((HERE / "parts.json").read_text(encoding="utf-8"))
    return {name: read(file, columns) for name, (file, columns) in parts.items()}


def read(name, columns):
    with np.load(HERE / f"{name}.npz", allow_pickle=False) as content:
        if "indptr" in content:
            from scipy.sparse import csr_matrix

            return csr_matrix((content["data"], content["indices"], content["indptr"]), content["shape"])
        if columns is None:
            return content["values"]
        import pandas as pd

        found = {}
        for place, column in enumerate(columns):
            values = content[f"c{place}"]
            if values.dtype.kind == "U":
                values = pd.Series(values.astype(object)).where(values != "", None)
            found[column] = values
        return pd.DataFrame(found)
'''
NAMES = {
    "X": ("X", "x", "X_train"),
    "y": ("y", "Y", "y_train"),
    "X_valid": ("X_valid",),
    "y_valid": ("y_valid",),
    "X_test": ("X_test",),
    "y_test": ("y_test",),
}
LAYOUT = 2
"""Version of the file layout. It is part of the digest."""


class Data:
    """Samples and targets, and their files.

    Args:
        parts: `X` and `y`, and optionally the same with `_valid` and `_test`: arrays or data frames.
        is_regression: y holds quantities, not classes.

    Raises:
        UserErrorException: X or y is missing, their lengths differ, or no sample has a target.
    """

    def __init__(self, parts: Mapping[str, Any], is_regression: bool) -> None:
        values = {key: _value(parts, names) for key, names in NAMES.items()}
        if values["X"] is None or values["y"] is None:
            raise UserErrorException(
                "AutoMLConfig: give training_data= and label_column_name=, or X= and y=, or data_script=; given: "
                f"{', '.join(key for key, value in values.items() if value is not None) or 'none of them'}"
            )
        for x, y in (("X", "y"), ("X_valid", "y_valid"), ("X_test", "y_test")):
            values[x], values[y] = _with_labels(values[x], values[y])
        self.parts = {key: _plain(value, key) for key, value in values.items() if value is not None}
        rows, targets = self.parts["X"].shape[0], len(self.parts["y"])
        if rows != targets:
            raise UserErrorException(f"AutoMLConfig: X has {rows} rows, but y has {targets}")
        _notify_of_text_columns(self.parts["X"])
        labels = self.parts["y"]
        self.labels = [] if is_regression else [label.item() for label in np.unique(labels)]
        """The original class labels, for the predictions of a fitted model."""

    def keep(self, workspace: Path) -> Path:
        """Write the data into the workspace under their digest and return the path of the `get_data()` script."""
        texts = {name: _columns(value) for name, value in self.parts.items()}
        digest = hashlib.sha256(json.dumps([LAYOUT, texts]).encode())
        arrays = {name: _arrays(value) for name, value in self.parts.items()}
        for name in sorted(arrays):
            for key, array in arrays[name].items():
                digest.update(f"{name} {key} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        data_folder = folder.table_path(workspace, "automl").with_suffix("") / digest.hexdigest()[:16]
        script = data_folder / "get_data.py"
        if not script.exists():
            data_folder.mkdir(parents=True, exist_ok=True)
            for name, arrays_of_part in arrays.items():
                with atomic_write(data_folder / f"{name}.npz") as file:
                    np.savez_compressed(file, **arrays_of_part)
            listed = {name: (name, columns) for name, columns in texts.items()}
            if "X_valid" in self.parts or "X_test" in self.parts:
                listed |= {"X_train": listed.pop("X"), "y_train": listed.pop("y")}
            if "X_test" not in self.parts and "X_valid" in self.parts:  # labrun needs a test set; the SDK does not
                listed |= {"X_test": listed["X_valid"], "y_test": listed["y_valid"]}
            (data_folder / "parts.json").write_text(json.dumps(listed), encoding="utf-8")
            with atomic_write(script) as file:  # last: its existence marks the data as complete
                file.write(SCRIPT.encode())
        return script


def _value(parts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((parts[name] for name in names if parts.get(name) is not None), None)


def _with_labels(x: Any, y: Any) -> tuple[Any, Any]:
    """Drop the samples without a target, as the SDK does, and print a notice.

    Raises:
        UserErrorException: no sample has a target.
    """
    if x is None or y is None:
        return x, y
    import pandas

    x, y = (one.to_pandas_dataframe() if hasattr(one, "to_pandas_dataframe") else one for one in (x, y))
    y = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y).ravel()
    known = ~pandas.isna(y)
    rows = x.shape[0] if _is_sparse(x) else len(x)
    if known.all() or rows != len(y):
        return x, y
    if not known.any():
        raise UserErrorException(
            f"AutoMLConfig: none of the {rows} samples has a target; give data whose label column has values"
        )
    notify_once(f"AutoMLConfig: {int((~known).sum())} samples have no target and are left out")
    return (x[known] if hasattr(x, "columns") or _is_sparse(x) else np.asarray(x)[known]), y[known]


def _notify_of_text_columns(x: Any) -> None:
    """Print a notice of text columns whose values are mostly distinct and too many for a column each.

    The SDK would make features of their words.
    """
    if not hasattr(x, "columns"):
        return
    for name in x.columns:
        if x[name].dtype.kind in "biufM":
            continue
        levels = x[name].dropna().astype(str).nunique()
        if levels > MOST_CATEGORIES and 2 * levels > len(x):
            notify_once(
                f"AutoMLConfig: column {name} has {levels} different texts in {len(x)} samples. labrun treats each as "
                "one value and makes no features of its words: leave the column out, or convert it to numbers"
            )


def _is_sparse(value: Any) -> bool:
    return hasattr(value, "tocsr")


def _plain(value: Any, key: str) -> Any:
    """Convert data sets of the SDK, lists and series to an array, a sparse matrix or a data frame."""
    if hasattr(value, "to_pandas_dataframe"):
        value = value.to_pandas_dataframe()
    if key.startswith("y"):
        array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
        array = array.ravel()
        return array.astype(str) if array.dtype.kind == "O" else array
    if _is_sparse(value):
        return value.tocsr()
    if hasattr(value, "columns"):
        return value
    array = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value)
    if array.dtype.kind == "O":
        import pandas

        return pandas.DataFrame(array, columns=[f"column{number}" for number in range(array.shape[1])])
    return array


def _columns(value: Any) -> list[str] | None:
    return [str(name) for name in value.columns] if hasattr(value, "columns") else None


def _arrays(value: Any) -> dict[str, Any]:
    """Return the arrays for an `.npz` file without pickles: numbers unchanged, everything else as text."""
    if _is_sparse(value):
        parts = {name: getattr(value, name) for name in ("data", "indices", "indptr")}
        return {**parts, "shape": np.asarray(value.shape)}
    if not hasattr(value, "columns"):
        return {"values": value}
    columns = {}
    for number, name in enumerate(value.columns):
        column = value[name]
        if column.dtype.kind in "biuf":
            columns[f"c{number}"] = column.to_numpy()
        else:
            columns[f"c{number}"] = np.asarray(
                ["" if one is None or one != one else str(one) for one in column], dtype=str
            )
    return columns


def of_table(table: Any, label: str, what: str, without: Sequence[str] = ()) -> tuple[Any, Any]:
    """Split a table into samples and targets.

    Args:
        table: a data frame or a tabular data set of the SDK.
        label: the target column.
        what: the table's name, for messages.
        without: columns to leave out of the samples.

    Raises:
        UserErrorException: there is no such target column.
    """
    frame = table.to_pandas_dataframe() if hasattr(table, "to_pandas_dataframe") else table
    if label not in frame.columns:
        raise UserErrorException(
            f"AutoMLConfig: {what} has no column {label!r} (label_column_name); it has: "
            f"{', '.join(map(str, frame.columns))}"
        )
    return frame.drop(columns=[label, *(name for name in without if name in frame.columns)]), frame[label]


def of_script(script: Path, path: Path) -> dict[str, Any]:
    """Run a script's `get_data()` and return its result. As in the SDK, it runs in the project's folder.

    Raises:
        UserErrorException: there is no such script, or it has no `get_data()` that returns a dictionary.
    """
    found = next((one for one in (script, path / script, path / script.name) if one.is_file()), None)
    if found is None:
        raise UserErrorException(f"AutoMLConfig: there is no data_script {script} (working folder: {Path.cwd()})")
    found = found.resolve()
    specification = importlib.util.spec_from_file_location("labrun_get_data", found)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    with _at(found.parent):
        specification.loader.exec_module(module)
        get_data = getattr(module, "get_data", None)
        arrays = get_data() if callable(get_data) else None
    if not isinstance(arrays, Mapping):
        raise UserErrorException(f'{found} must have a function get_data() that returns {{"X": ..., "y": ...}}')
    return dict(arrays)


@contextmanager
def _at(working_folder: Path) -> Any:
    """Change to another working folder, and make its modules importable, inside the context."""
    before = os.getcwd()
    os.chdir(working_folder)
    sys.path.insert(0, str(working_folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(working_folder))
