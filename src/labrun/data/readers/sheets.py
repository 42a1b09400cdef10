"""Reads Parquet and Excel tables into cells of text, to be interpreted like those of a text file.

Numbers become the shortest text that parses to the same number, dates ISO 8601, and missing values empty cells.
"""

from __future__ import annotations

import datetime
import decimal
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

from labrun.data.readers import contents
from labrun.data.readers.table_form import TableForm
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingExtraError
from labrun.messages import counted, suggest

EXTRA = "tables"
PACKAGES = {contents.PARQUET: "pyarrow", contents.EXCEL: "openpyxl"}
Cells = tuple[list[list[str]], list[str]]


def parquet(content: bytes, path: Path) -> Cells:
    """Return the rows of a Parquet file, starting with the column names; and notes for the user.

    Raises:
        MissingExtraError: pyarrow is not installed.
        CorruptDataError: the file cannot be read.
        DataError: it has no usable column.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing(contents.PARQUET, path) from error
    try:
        table = arrow.parquet.read_table(io.BytesIO(content))
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise CorruptDataError(
            f"{path} is not a readable Parquet file: {' '.join(str(error).split())[:300]}"
        ) from error
    names, columns, left_out = [], [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
        if arrow.types.is_nested(kind) or arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind):
            left_out.append(f"{name} ({kind})")
        elif re.fullmatch(r"__index_level_\d+__", name):
            left_out.append(f"{name} (the index of pandas)")
        else:
            names.append(name)
            columns.append([text(value) for value in column.to_pylist()])
    if not columns:
        raise DataError(f"{path} has no column of numbers, text or dates: {', '.join(left_out[:5]) or 'it is empty'}")
    rows = [names, *map(list, zip(*columns, strict=True))]
    return rows, [f"left out, as not table values: {', '.join(left_out[:10])}"] if left_out else []


def excel(content: bytes, path: Path, form: TableForm) -> Cells:
    """Return the rows of a sheet of an Excel file, padded to the widest row; and notes for the user.

    Args:
        content: content of the file.
        path: path of the file, for messages.
        form: what the user says about the file; without a sheet, it is the only one with values.

    Raises:
        MissingExtraError: openpyxl is not installed.
        CorruptDataError: the file cannot be read.
        ConfigError: there is no such sheet.
        DataError: several sheets have values, none has, or a formula has no stored value.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise _missing(contents.EXCEL, path) from error
    try:
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        seen = {one.title: one for one in book.worksheets}
        wanted = _named(form, list(seen), path)
        shown = [wanted] if wanted else [name for name, one in seen.items() if one.sheet_state == "visible"]
        found = {name: rows for name in shown if any(map(any, (rows := _rows(seen[name]))))}
    except (ConfigError, DataError):
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())[:300]
        raise CorruptDataError(f"{path} is not a readable Excel file: {type(error).__name__}: {reason}") from error
    if len(found) > 1:
        listed = ", ".join(map(repr, found))
        raise DataError(
            f"{path} has several sheets with values ({listed}): set {form.key('sheet')}='{next(iter(found))}'"
        )
    if not found:
        raise DataError(f"{path} has no sheet with values" if wanted is None else f"{path}: {wanted!r} has no values")
    ((name, rows),) = found.items()
    _check_formulas(content, path, name, rows)
    errors = sum(cell is ERROR for row in rows for cell in row)
    width = max(map(len, rows))
    notes = [f"sheet {name!r}"] if len(seen) > 1 else []
    notes += [f"Excel errors, such as #N/A, count as missing: {counted(errors, 'cell')}"] if errors else []
    return [["" if cell is ERROR else cell for cell in row] + [""] * (width - len(row)) for row in rows], notes


def check_package(path: Path) -> None:
    """Check, without importing it, that the package for a file's format is installed, judging by the first bytes.

    Raises:
        MissingExtraError: it is not.
    """
    with open(path, "rb") as file:
        begin = file.read(4)
    kind = contents.PARQUET if begin == b"PAR1" else contents.EXCEL if begin == contents.ZIP else None
    if kind == contents.EXCEL and not path.suffix.lower().startswith(".xls"):
        return  # most likely compressed text
    if kind is not None and not _is_installed(PACKAGES[kind]):
        raise _missing(kind, path)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # an import blocker has replaced the module
        return False


def _missing(kind: str, path: Path) -> MissingExtraError:
    return MissingExtraError(PACKAGES[kind], EXTRA, f"reading {path.name} (a file of the kind {kind})")


class _Error(str):
    """Text of a cell with an Excel error."""


ERROR = _Error("#ERROR")


def _named(form: TableForm, names: list[str], path: Path) -> str | None:
    sheet = form.sheet
    if sheet is None or sheet in names:
        return None if sheet is None else str(sheet)
    if isinstance(sheet, int) and 1 <= sheet <= len(names):
        return names[sheet - 1]
    raise ConfigError(
        f"{form.key('sheet')}={sheet!r}: {path} has no such sheet.{suggest(str(sheet), names)} "
        f"It has: {', '.join(names)}"
    )


def _rows(sheet: Any) -> list[list[str]]:
    rows = [[ERROR if cell.data_type == "e" else text(cell.value) for cell in row] for row in sheet.iter_rows()]
    while rows and not any(rows[-1]):
        rows.pop()
    return rows


def _check_formulas(content: bytes, path: Path, name: str, rows: list[list[str]]) -> None:
    """Check that each formula has a stored value: programs that write Excel files often omit it.

    Raises:
        DataError: a value is missing.
    """
    if all(all(row) for row in rows):
        return
    import openpyxl

    sheet = openpyxl.load_workbook(io.BytesIO(content), read_only=True)[name]
    for row, cells in zip(rows, sheet.iter_rows(), strict=False):
        for text, cell in zip(row, cells, strict=False):
            if not text and cell.data_type == "f":
                raise DataError(
                    f"{path}: the cell {cell.coordinate} holds a formula that was never calculated ({cell.value}): "
                    "open the file in Excel or LibreOffice and save it, or save it as .csv"
                )


def text(value: Any) -> str:
    """Return a cell's value as text, empty if it is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.datetime):
        is_day = value.time() == datetime.time() and not getattr(value, "nanosecond", 0)
        return value.date().isoformat() if is_day and value.tzinfo is None else value.isoformat(" ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return repr(value.total_seconds())
    return str(value).strip()
