"""Reading of table files into one data frame with pandas, but without pandas' own type guessing.

A table definition, which is valid JSON, describes how they are read:

    format         delimited, parquet or json; None: by each file's name
    separator, encoding, header (none, first, combine, same), infer, empty_as_string
    types          the requested column types
    include_path   add a column `Path`
    partition      columns extracted from the files' paths; see `partitions.py`
    steps          operations on the rows after reading; see `steps.py`
"""

from __future__ import annotations

import datetime
import json
import os
import re
from typing import Any

from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import columns, partitions, steps
from labrun.compat.azureml.training.table_types import delimited

SUFFIXES = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".tab": "delimited",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
}
ENCODINGS = {
    "utf8": "utf-8-sig",
    "utf-8": "utf-8-sig",
    "utf8bom": "utf-8-sig",
    "iso88591": "iso-8859-1",
    "windows1252": "cp1252",
}
"""Python's names for the SDK's encodings. All UTF-8 variants skip a byte order mark."""
PATH = "Path"
WHOLE_FLOAT = r"^([+-]?\d+)\.0$"
"""The text of a float that is an integer."""

ANY = {**delimited(), "format": None}
"""The table definition for files without one."""


def is_table(path: str) -> bool:
    """Return whether a file is a table, judging by its name."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def read(files: Any, definition: Any, on_error: str = "null", out_of_range: str = "null") -> Any:
    """Read all files and return their rows as one data frame.

    Args:
        files: for each file, its local path and the name for the column `Path`.
        definition: the table definition; see the module.
        on_error: the handling of values that do not have the requested type: `null` (empty them) or `fail`.
        out_of_range: the same for dates that pandas' `datetime64[ns]` cannot represent.

    Raises:
        UserErrorException: there are no files, a file cannot be read, or the files' columns differ.
    """
    for name, value in (("on_error", on_error), ("out_of_range_datetime", out_of_range)):
        if value not in ("null", "fail"):
            raise UserErrorException(f"to_pandas_dataframe({name}={value!r}): choose 'null' or 'fail'")
    if not files:
        raise UserErrorException("the data set has no files")
    definition = {**definition, "on_error": on_error, "out_of_range": out_of_range}
    first = definition["format"] or SUFFIXES.get(os.path.splitext(files[0][0])[1].lower(), "delimited")
    frame = {"delimited": _texts, "parquet": _parquet, "json": _json}[first](files, definition)
    return steps.applied(frame, definition["steps"])


def _texts(files: Any, definition: Any) -> Any:
    header = definition["header"]
    frames = []
    for number, (path, _) in enumerate(files):
        has_names = header in ("same", "combine") or (header == "first" and number == 0)
        frames.append(_cells(path, definition, has_names))
    if header == "none":
        for frame in frames:
            frame.columns = [f"Column{place + 1}" for place in range(len(frame.columns))]
    elif header == "first":
        for (path, _), frame in zip(files[1:], frames[1:]):  # noqa: B905
            _check_width(path, frame, frames[0])
            frame.columns = frames[0].columns
    frame = _joined(frames, files, definition, free=header in ("combine", "none"))
    found, empty, made = {}, definition["empty_as_string"], _made(definition)
    for name in frame.columns:
        wanted = definition["types"].get(str(name))
        if name in made and not wanted:
            found[name] = frame[name]
            continue
        column = (frame[name].astype(str) if name in made else frame[name]).fillna("")
        if wanted:
            found[name] = columns.typed(
                column, str(name), wanted, empty, on_error=definition["on_error"], **_range(definition)
            )
        elif definition["infer"] and name != PATH:
            found[name] = columns.inferred(column, str(name), empty, **_range(definition))
        else:
            found[name] = columns.as_text(column, definition["empty_as_string"])
    _check_types(frame, definition)
    return type(frame)(found, index=frame.index, columns=frame.columns)


def _cells(path: str, definition: Any, has_names: bool) -> Any:
    """Read a file's cells as text; an empty cell is an empty string."""
    import pandas

    separator = definition["separator"]
    if definition["format"] is None and path.lower().endswith((".tsv", ".tab")):
        separator = "\t"
    encoding = definition["encoding"]
    try:
        frame = pandas.read_csv(
            path,
            sep=separator
            if len(separator) == 1
            else re.escape(separator),  # pandas reads a longer one as a regular expression
            engine="c" if len(separator) == 1 else "python",
            encoding=ENCODINGS.get(encoding.lower(), encoding),
            header=0 if has_names else None,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
        )
    except pandas.errors.EmptyDataError:
        return pandas.DataFrame()
    except (pandas.errors.ParserError, UnicodeError, LookupError, OSError, ValueError) as error:
        raise UserErrorException(f"{path}: not a readable table: {_first_line(error)}") from error
    if not isinstance(frame.index, pandas.RangeIndex):
        raise UserErrorException(f"{path}: its lines have more values than the first line has names")
    unnamed = {}
    for place, name in enumerate(frame.columns):
        if name == f"Unnamed: {place}":
            unnamed[name] = f"Column{place + 1}"
            while unnamed[name] in frame.columns:  # another column has this name in the file
                unnamed[name] += "_"
    return frame.rename(columns=unnamed)


def _parquet(files: Any, definition: Any) -> Any:
    import pandas

    frames = []
    for path, _ in files:
        try:
            frames.append(_exact(pandas.read_parquet(path), path))
        except ImportError:
            raise
        except Exception as error:
            raise UserErrorException(f"{path}: not a Parquet file: {_first_line(error)}") from error
    return _plain(_joined(frames, files, definition), definition)


def _exact(frame: Any, path: str) -> Any:
    """Restore the integers of a Parquet file that became floats because of gaps, where a float cannot hold them."""
    import pandas

    for name in frame.columns:
        column = frame[name]
        if str(column.dtype) != "float64" or not column.abs().max() > columns.EXACT:
            continue
        try:
            whole = pandas.read_parquet(path, columns=[name], dtype_backend="numpy_nullable")[name]
        except (TypeError, ValueError):  # pandas before 2.0
            continue
        if str(whole.dtype).lower().startswith(("int", "uint")):
            frame[name] = whole.astype(object).where(whole.notna(), None)
    return frame


def _json(files: Any, definition: Any) -> Any:
    import pandas

    frames = []
    for path, _ in files:
        rows = _json_rows(path, definition)
        names = list(dict.fromkeys(name for row in rows for name in row))
        frames.append(
            pandas.DataFrame([[row.get(name) for name in names] for row in rows], columns=names, dtype=object)
        )
    frame = _joined(frames, files, definition, free=True)
    # Only now: pandas makes an integer column with gaps one of floats, so that large integers would change.
    for name in frame.columns:
        if str(frame[name].dtype) == "object" and str(name) not in definition["types"]:
            frame[name] = _inferred_objects(frame[name])
    return _plain(frame, definition)


def _json_rows(path: str, definition: Any) -> list[dict[str, Any]]:
    """Return the rows of a file with one JSON object per line."""
    encoding = definition.get("encoding") or "utf8"
    rows = []
    try:
        with open(path, encoding=ENCODINGS.get(encoding.lower(), encoding)) as file:
            lines = list(file)
    except (UnicodeError, LookupError, OSError) as error:
        raise UserErrorException(f"{path}: not a readable table: {_first_line(error)}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            if definition.get("invalid_lines") == "drop":
                continue
            message = "{}, line {}: {}; invalid_lines='drop' skips such lines"
            raise UserErrorException(message.format(path, number, error)) from None
        rows.append(row)
    return rows


def _inferred_objects(column: Any) -> Any:
    """Return a column of objects with the type of its values; integers that a float cannot hold stay objects."""
    import pandas

    found = pandas.Series(column.tolist(), index=column.index)
    if str(found.dtype) == "float64" and any(type(one) is int and abs(one) > columns.EXACT for one in column):
        return column.where(column.notna(), None)
    return found


def _plain(frame: Any, definition: Any) -> Any:
    """Convert columns to the requested types, and other text columns to objects, whatever pandas' string type."""
    _check_types(frame, definition)
    for name in frame.columns:
        wanted = definition["types"].get(str(name))
        if wanted:
            texts = frame[name].astype(object).where(frame[name].notna(), "").astype(str)
            if wanted["type"] in ("long", "bool"):
                texts = texts.str.replace(WHOLE_FLOAT, r"\1", regex=True)
            frame[name] = columns.typed(texts, str(name), wanted, on_error=definition["on_error"], **_range(definition))
        elif str(frame[name].dtype) in ("str", "string"):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
        elif str(frame[name].dtype) == "object" and _are_dates(frame[name]):
            frame[name] = columns.as_dates(
                frame[name].where(frame[name].notna(), "").astype(str), str(name), **_range(definition)
            )
    return frame


def _are_dates(column: Any) -> bool:
    """Return whether all values are dates without a time, as pandas reads those of Parquet."""
    values = column.dropna()
    return bool(len(values)) and all(type(one) is datetime.date for one in values)


def _joined(frames: Any, files: Any, definition: Any, free: bool = False) -> Any:
    """Concatenate the frames, which must have the same columns unless `free` is True."""
    import pandas

    partition = definition.get("partition")
    values_of_files = partitions.of_files(partition, files) if partition else [{}] * len(frames)
    for (_, shown), frame, own in zip(files, frames, values_of_files):  # noqa: B905
        if len(frame.columns):
            partitions.add(frame, own)
        if definition["include_path"]:
            if PATH in frame.columns:
                raise UserErrorException(f"include_path: the files already have a column {PATH}")
            frame.insert(0, PATH, shown)
    # An empty file has no columns to compare.
    kept = [(path, frame) for (path, _), frame in zip(files, frames) if len(frame.columns)]  # noqa: B905
    for path, frame in kept[1:]:
        if not free and set(frame.columns) != set(kept[0][1].columns):
            first, there = kept[0][0], _few(kept[0][1].columns)
            raise UserErrorException(
                f"{path} has the columns {_few(frame.columns)}, but {first} has {there}: give files with the "
                "same columns, or header=PromoteHeadersBehavior.COMBINE_ALL_FILES_HEADERS"
            )
    if not kept:
        return pandas.DataFrame()
    return kept[0][1] if len(kept) == 1 else pandas.concat([frame for _, frame in kept], ignore_index=True)


def _check_width(path: str, frame: Any, first: Any) -> None:
    if len(frame.columns) != len(first.columns):
        message = "{} has {} columns, but the first file has {}"
        raise UserErrorException(message.format(path, len(frame.columns), len(first.columns)))


def _check_types(frame: Any, definition: Any) -> None:
    unknown = [name for name in definition["types"] if name not in {str(one) for one in frame.columns}]
    if unknown and len(frame.columns):
        raise UserErrorException(
            "set_column_types: there is no column {}; the columns are: {}".format(
                ", ".join(unknown), _few(frame.columns)
            )
        )


def _made(definition: Any) -> Any:
    """Return the names of the columns extracted from paths."""
    return partitions.keys(definition["partition"]["format"]) if definition.get("partition") else []


def _range(definition: Any) -> Any:
    return {"out_of_range": definition["out_of_range"]}


def _few(names: Any) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "")


def _first_line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
