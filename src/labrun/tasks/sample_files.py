"""Reads samples for a saved model from users' files: tables, arrays, images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.data.readers import archive, columnar, contents, delimited, user_arrays
from labrun.data.readers.columns import GAPS, ID_NAME, IGNORED_ID, LOOKS_LIKE_ID
from labrun.data.readers.table_form import TableForm
from labrun.data.wording import few
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError, UnfitError
from labrun.messages import shape_text
from labrun.tasks.saved import BATCH, Saved, are_positions

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
ARRAYS = ("X", "x", "data", "images", "X_test", "x_test", "test_images", "test_data")
"""Names that the samples may have in an `.npz`, the most likely first."""
LEAST_COUNTED = 3
"""Fewest columns for which a first line of 0, 1, 2, ..., which pandas writes for a frame without names, is a header."""
SAMPLES = ("x", "x_train", "x_valid", "x_test")
"""The keys of `user_arrays.NAMES` that stand for samples."""


@dataclass(frozen=True)
class Samples:
    """Samples, and further information on them.

    Args:
        samples: the samples in the form that the model takes.
        names: the image file of each sample; empty for other samples.
        inputs: the table from the file, one row per sample, with all cells as text.
        notes: remarks for the user.
    """

    samples: Any
    names: Sequence[str] = ()
    inputs: Any = None
    notes: Sequence[str] = ()

    def identifiers(self, saved: Saved) -> list[str]:
        """Return the table's ID columns, which identify its rows and are not inputs of the model."""
        if self.inputs is None:
            return []
        left_out = saved.table.left_out if saved.table is not None else {}
        taken = saved.table.names if saved.table is not None else list(saved.columns or ())
        return [
            name
            for name in self.inputs.columns
            if name not in taken and (left_out.get(name) in (LOOKS_LIKE_ID, IGNORED_ID) or ID_NAME.search(str(name)))
        ]


def read(path: Path, saved: Saved, form: TableForm | None = None) -> Samples:
    """Read the samples of a file or a folder of images.

    Args:
        path: a table (see `delimited.read`), an `.npz` or `.npy` file, an image, or a folder of images.
        saved: the model for the samples.
        form: what the user says about a table; not `header`, which the model's columns decide.

    Raises:
        DataError: the file does not exist, cannot be read, or holds nothing that the model takes.
        ConfigError: `form` does not apply to the file.
    """
    form = form or TableForm()
    given = form.given()
    if given and not (path.is_file() and contents.is_table(path)):
        raise ConfigError(f"{path} is not a table, and only tables have a {' and a '.join(given)}")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
        if not files:
            raise MissingDataError(f"{path} holds no image (looked for {', '.join(sorted(IMAGES))})")
        return Samples(
            _images(files, saved), [file.relative_to(path).as_posix() for file in files], notes=_scaling_notes(saved)
        )
    if not path.is_file():
        raise MissingDataError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return Samples(_images([path], saved), [path.name], notes=_scaling_notes(saved))
    if suffix in (".npz", ".npy"):
        return _array(path)
    if contents.is_table(path):
        return _table(path, saved, form)
    raise DataError(
        f"{path}: labrun predicts for .csv, .tsv, .txt, .parquet and .xlsx (also compressed: .gz, .zip), .npz, .npy, "
        "images and folders of images"
    )


def blocks(path: Path, saved: Saved) -> Iterator[Samples]:
    """Yield the samples of a Parquet or `.npz` file in blocks, without loading the whole file; see `read`.

    Raises:
        DataError: see `read`.
    """
    if columnar.is_parquet(path):
        file = columnar.Parquet(path)
        for cells in file.texts(file.columns):
            yield _of_cells(cells, [], path, saved, has_header=True)
        return
    if contents.is_table(path):
        raise DataError(
            f"dataset.in_memory=false: {path} is read as a whole: leave the key out, or write the table as Parquet"
        )
    found = archive.arrays(path, ARRAYS)
    stored = {name: one for name, one in found.items() if isinstance(one, archive.Stored)}
    name = next((one for one in ARRAYS if one in stored), None)
    if name is None:
        raise DataError(f"{path} has the arrays {', '.join(found)}: name that of the samples X")
    for block in stored[name].rows().blocks(BATCH):
        yield Samples(block, notes=_others(name, found))


def _others(taken: str, names: Iterable[str]) -> list[str]:
    """Return a note on the other arrays of samples in an archive, which are not predicted."""
    left = [name for name in names if name != taken and any(name in user_arrays.NAMES[part] for part in SAMPLES)]
    return [f"predicted only for {taken}, not for {', '.join(left)}"] if left else []


def _array(path: Path) -> Samples:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return Samples(content)
        with content:
            name = next((one for one in ARRAYS if one in content.files), None)
            if name is None and len(content.files) == 1:
                name = content.files[0]
            if name is None:
                raise DataError(f"{path} has the arrays {', '.join(content.files)}: name that of the samples X")
            return Samples(np.asarray(content[name]), notes=_others(name, content.files))
    except DataError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise CorruptDataError(f"{path} cannot be read as arrays of numbers: {error}") from error


def _images(files: Sequence[Path], saved: Saved) -> npt.NDArray[np.uint8]:
    shape = saved.input_shape
    if shape is None or len(shape) != 3 or shape[0] not in (1, 3):
        wanted = "samples of an unknown shape" if shape is None else shape_text(shape)
        raise UnfitError(f"{saved.title} takes {wanted}, not images")
    found = np.empty((len(files), *shape), np.uint8)
    for place, file in enumerate(files):
        found[place] = _pixels(file, shape, saved.title)
    highest = _highest(saved)
    return found if highest is None else (found * (highest / 255.0)).astype(np.float32)


def _highest(saved: Saved) -> float | None:
    """Return the value of white in the model's data (16 for the digits), or None if it is the usual 1 or 255."""
    scaling = saved.card.scaling
    return None if scaling is None or scaling.scale in (1.0, 255.0) else scaling.scale


def _scaling_notes(saved: Saved) -> list[str]:
    highest = _highest(saved)
    return (
        []
        if highest is None
        else [f"pixels of 0 to 255 were scaled to 0 to {highest:g}, the range of the model's data"]
    )


def _pixels(file: Path, shape: tuple[int, ...], title: str) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            size = (opened.height, opened.width)
            pixels = np.asarray(opened.convert("L" if shape[0] == 1 else "RGB"), np.uint8)
    except Exception as error:  # a damaged image can raise anything
        raise CorruptDataError(f"{file} cannot be read as an image: {error}") from error
    if size != shape[1:]:
        raise UnfitError(f"{file} is {size[0]} high and {size[1]} wide, but {title} takes {shape_text(shape)}")
    return pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)


def _table(path: Path, saved: Saved, form: TableForm) -> Samples:
    known = list(saved.table.names if saved.table is not None else saved.columns or ())
    first, is_named = delimited.first_row(path, form)
    names = [" ".join(cell.split()) for cell in first]
    counts = are_positions(names)
    if counts or are_positions(known):  # such names are numbers, as values are
        looks_named = counts and len(names) >= LEAST_COUNTED
    else:
        looks_named = bool(set(names) & set(known)) if known else not all(map(delimited.is_number, names))
    has_header = is_named or looks_named
    cells, notes = delimited.read(path, replace(form, header=has_header))
    if not has_header:
        notes.append(f"the first line ({few(names)}) is read as values")
    elif counts:
        then = f", which are read as {few(known)}" if known and not are_positions(known) else ""
        notes.append(f"the first line only counts the columns{then}")
    return _of_cells(cells, notes, path, saved, has_header)


def _of_cells(cells: Any, notes: list[str], path: Path, saved: Saved, has_header: bool) -> Samples:
    known = list(saved.table.names if saved.table is not None else saved.columns or ())
    if saved.table is not None:
        samples, own_notes = (cells, []) if has_header else _features(cells, saved, has_header)
        if not has_header:
            samples = samples.set_axis(known, axis=1)
        return Samples(samples, inputs=cells if has_header else None, notes=[*notes, *own_notes])
    # The model is from before labrun stored how its table was read, or was not trained on a table.
    typed = _typed(cells)
    inputs = cells if has_header else None
    if saved.columns is not None and has_header:
        return Samples(typed, inputs=inputs, notes=notes)
    samples, own_notes = _features(typed, saved, has_header)
    if saved.columns is None:
        words = [name for name in samples.columns if samples[name].dtype.kind not in "biuf"]
        if words:
            raise UnfitError(f"{path}: the columns {', '.join(words[:5])} hold text, but {saved.title} takes numbers")
        return Samples(samples.to_numpy(np.float64), inputs=inputs, notes=[*notes, *own_notes])
    return Samples(samples.set_axis(list(saved.columns), axis=1), inputs=inputs, notes=[*notes, *own_notes])


def _typed(cells: Any) -> Any:
    """Convert columns that hold only numbers to numbers; missing values become NaN or None."""
    import pandas as pd

    made = {}
    for name in cells.columns:
        kept = cells[name].where(~cells[name].str.lower().isin(GAPS))
        numbers = pd.to_numeric(kept, errors="coerce")
        made[name] = (
            numbers if numbers.notna().sum() == kept.notna().sum() else cells[name].where(cells[name] != "", None)
        )
    return pd.DataFrame(made)


def _features(table: Any, saved: Saved, has_header: bool) -> tuple[Any, list[str]]:
    """Return the columns that the model takes, without the target.

    Columns without names must be in the order of the model's training table: all its columns, or only the inputs.
    """
    if saved.columns is not None:
        wanted: int | None = len(saved.columns)
    elif saved.input_shape is not None:
        wanted = int(np.prod(saved.input_shape))
    else:
        wanted = getattr(saved.model, "n_features_in_", None)
    about = saved.card.dataset
    notes: list[str] = []
    if has_header:
        table = table.drop(columns=[name for name in about.get("ignore") or [] if name in table.columns])
    if wanted is None or table.shape[1] == wanted:
        return table, notes
    if table.shape[1] == wanted + 1:
        target = about.get("target")
        named = has_header and target in table.columns
        column = target if named else table.columns[-1]
        place = list(table.columns).index(column) + 1
        notes.append(f"column {place}{f' ({column})' if has_header else ''} was left out: it is the target")
        return table.drop(columns=[column]), notes
    raise UnfitError(
        f"the table has {table.shape[1]} columns, but {saved.title} takes {wanted} (or {wanted + 1}, with the target)"
    )
