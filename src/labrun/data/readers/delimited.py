"""Reads a table file into cells of text. Detects encoding, separator and header, or asks the user if ambiguous."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrun.data.readers import contents, sheets
from labrun.data.readers.table_form import TableForm
from labrun.errors import ConfigError, CorruptDataError, DataError
from labrun.messages import counted

SEPARATORS = ("\t", ";", "|", ",")
"""Likeliest first: commas also occur in numbers and in text."""
SPACES = " "
SAMPLE_CHARACTERS = 2**16
ALIKE = 0.9
"""Minimum share of a sample's lines with as many values as the first, for a separator to be accepted."""
NAMED_SEPARATORS = {
    r"\t": "\t",
    "tab": "\t",
    r"\s+": SPACES,
    "blanks": SPACES,
    "space": SPACES,
    "comma": ",",
    "semicolon": ";",
    "pipe": "|",
}
"""Names for separators that would need quoting on the command line."""
WORDS = {"\t": "tabs", SPACES: "blanks", ",": "commas", ";": "semicolons", "|": "|"}
EXCELS_HINT = re.compile(r'"?sep=(.)"?[ ;,]*(?:\r\n|\r|\n)', re.I)
"""Excel's separator hint in the first line; text after it was added by programs that took the hint for a row."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read(path: Path, form: TableForm) -> tuple[Any, list[str]]:
    """Read the stripped cells of a file.

    Without a given encoding, it is that of the byte order mark, else UTF-8, UTF-16, else cp1252 with a note. Without
    `header`, the first line holds the column names, but if it looks like the lines below it, the user is asked.

    Args:
        path: the file: text (possibly compressed), Parquet or Excel.
        form: what the user says about it.

    Returns:
        A pandas.DataFrame of text, empty for empty cells, with the separator in `attrs`; notes for the user.

    Raises:
        CorruptDataError, DataError: the file is not a table; its lines differ in length.
        ConfigError: a setting of `form` is invalid or does not apply to this file.
        MissingExtraError: the package that reads it is not installed.
    """
    found, header = _found_cells(path, form), form.header
    cells, notes = found.rows, found.notes
    if found.kind == contents.PARQUET:
        if header is False:
            raise ConfigError(f"dataset.header=false: {path} is a Parquet file, which names its columns: leave it out")
        header = True
    if header is None and len(cells) > 1 and _looks_like_data(cells):
        raise DataError(
            f"{path}: the first line ({', '.join(cells[0][:5])}) looks like the lines below it. Set "
            "dataset.header=false if it holds data, or dataset.header=true if it names the columns"
        )
    given = [str(place) for place in range(len(cells[0]))] if header is False else cells.pop(0)
    full = [row for row in cells if any(row)]
    if len(full) < len(cells):
        notes.append(f"left out: {counted(len(cells) - len(full), 'line')} without any value")
    if not full:
        raise DataError(f"{path} has a first line with names, but no rows below it")
    import pandas as pd

    columns = list(zip(*full, strict=True))
    kept = [place for place, name in enumerate(given) if name or any(columns[place])]
    if len(kept) < len(given):
        notes.append(f"left out: {counted(len(given) - len(kept), 'column')} without a name or a value")
    names = _names([given[place] for place in kept], path, form, is_sure=header is not None)
    table = pd.DataFrame(
        {name: pd.Series(list(columns[place]), dtype=object) for name, place in zip(names, kept, strict=True)}
    )
    table.attrs["separator"] = found.sign
    return table, notes


def first_row(path: Path, form: TableForm) -> tuple[list[str], bool]:
    """Return the cells of a file's first row, names or values; and whether they are surely names, as in Parquet.

    Raises:
        As `read`.
    """
    found = _found_cells(path, form)
    return found.rows[0], found.kind == contents.PARQUET


@dataclass
class _Cells:
    """All rows of a file, starting with the first that has a value.

    Args:
        rows: rows of text, all of the same length.
        kind: file format, see `contents`.
        sign: the separator; None if the format has none.
        notes: notes for the user.
    """

    rows: list[list[str]]
    kind: str
    sign: str | None
    notes: list[str]


def _found_cells(path: Path, form: TableForm) -> _Cells:
    content = contents.unpacked(path)
    kind = contents.kind(content, path) if content else contents.TEXT
    for key, value, is_fit in (
        ("separator", form.separator, kind == contents.TEXT),
        ("encoding", form.encoding, kind == contents.TEXT),
        ("sheet", form.sheet, kind == contents.EXCEL),
    ):
        if value is not None and not is_fit:
            what = "a text file" if kind == contents.TEXT else f"of the kind {kind}"
            raise ConfigError(f"{form.key(key)}={value!r}: {path} is {what}, which has none: leave it out")
    sign: str | None = None
    skip_rows = form.skip_rows or 0
    if kind == contents.TEXT:
        rows, sign, notes = _text_rows(content, path, form)
    else:
        rows, notes = sheets.parquet(content, path) if kind == contents.PARQUET else sheets.excel(content, path, form)
        notes = ["; ".join([f"read as {kind}", *notes[:1]]), *notes[1:]]
        if skip_rows and kind == contents.PARQUET:
            raise ConfigError(
                f"{form.key('skip_rows')}={skip_rows}: {path} is a Parquet file, which has nothing above its rows"
            )
        rows = rows[skip_rows:]
    while rows and not any(rows[0]):
        rows.pop(0)
    if not rows:
        below = f" below the first {counted(skip_rows, 'line')} ({form.key('skip_rows')})" if skip_rows else ""
        raise CorruptDataError(f"{path} is not a readable CSV file: it is empty{below}")
    if any(not name.replace("\n", " ").isprintable() for name in rows[0]):
        raise CorruptDataError(f"{path} is not text: its first line holds control characters")
    if sign is not None:
        _check_widths(rows, path, sign, form)
    return _Cells(rows, kind, sign, notes)


def _text_rows(content: bytes, path: Path, form: TableForm) -> tuple[list[list[str]], str, list[str]]:
    text, note = contents.decoded(content, path, form)
    separator = form.separator
    hint = EXCELS_HINT.match(text)
    if hint:
        text = text[hint.end() :]
    if form.skip_rows:
        ends = itertools.islice(re.finditer(r"\r\n|\r|\n", text), form.skip_rows - 1, None)
        text = text[end.end() :] if (end := next(ends, None)) else ""
    found = hint[1] if hint and not separator and _share(text[:SAMPLE_CHARACTERS], hint[1]) else None
    sign = _given(separator, form) if separator else found or _found(text, path, form)
    notes = [] if note is None else [note]
    if not separator and sign != ",":
        notes.append(f"columns are separated by {WORDS.get(sign, sign)}{', as its first line says' if found else ''}")
    return _rows(text, sign, path), sign, notes


def _given(separator: str, form: TableForm) -> str:
    sign = NAMED_SEPARATORS.get(separator, separator)
    if len(sign) != 1 or sign in '"\r\n':
        raise ConfigError(
            f"{form.key('separator')}={separator!r}: one character, or tab, comma, semicolon, pipe, blanks"
        )
    return sign


def _found(text: str, path: Path, form: TableForm) -> str:
    """Find the separator that splits a file's first lines into equally many values, more than one.

    Raises:
        DataError: two separators do, and neither gives more numbers than the other.
    """
    sample = text[:SAMPLE_CHARACTERS]
    if len(text) > len(sample):
        sample = sample.rpartition("\n")[0] or sample
    shares = {sign: found for sign in SEPARATORS if (found := _share(sample, sign))}
    if not shares:
        if _share(sample, SPACES) >= ALIKE:
            return SPACES
        _check_above(sample, path, form)
        return ","
    sure = [sign for sign, share in shares.items() if share >= ALIKE]
    if len(sure) < 2 or "\t" in sure:
        return max(shares, key=lambda sign: shares[sign])
    numbers = {sign: _numbers(sample, sign) for sign in sure}
    best = sorted(sure, key=lambda sign: -numbers[sign])
    if numbers[best[0]] == numbers[best[1]]:
        first, second = (next(word for word, sign in NAMED_SEPARATORS.items() if sign == one) for one in best[:2])
        raise DataError(
            f"{path}: its columns may be separated by {WORDS[best[0]]} or by {WORDS[best[1]]}: set "
            f"{form.key('separator')}={first} or {form.key('separator')}={second}"
        )
    return best[0]


def _check_above(sample: str, path: Path, form: TableForm) -> None:
    """Check that the table starts in the first line.

    Raises:
        DataError: only the lines after the first ones have equally many values, more than one.
    """
    for sign in SEPARATORS:
        rows, reader, line = list[tuple[int, list[str]]](), _reader(sample, sign), 0
        for row in reader:
            cells = [cell.strip() for cell in row]
            rows += [(line, cells)] if any(cells) else []
            line = reader.line_num
        width = Counter(len(row) for _, row in rows).most_common(1)[0][0] if rows else 0
        above, line = next(((n, place) for n, (place, row) in enumerate(rows) if len(row) == width), (0, 0))
        table = rows[above:]
        if width > 1 and above and sum(len(row) == width for _, row in table) >= ALIKE * len(table) > 1:
            raise DataError(
                f"{path}: {counted(line, 'line')} above the table, such as {sign.join(rows[0][1])[:80]!r}: set "
                f"{form.key('skip_rows')}={line}, or delete them"
            )


def _share(sample: str, sign: str) -> float:
    """Return the share of non-empty lines with as many values as the first; 0 if the first has only one."""
    widths = [len(row) for row in _parsed(sample, sign) if any(row)]
    if not widths or widths[0] < 2:
        return 0.0
    if len(set(widths[1:])) == 1 and widths[1] == widths[0] + 1:  # trailing separators, or row names
        return 1.0
    return sum(width == widths[0] for width in widths) / len(widths)


def _numbers(sample: str, sign: str) -> float:
    """Return the share of values below the first line that are numbers."""
    cells = [cell for row in list(_parsed(sample, sign))[1:] for cell in row]
    return sum(map(is_number, cells)) / max(1, len(cells))


def _parsed(text: str, sign: str) -> Iterator[list[str]]:
    for row in _reader(text, sign):
        yield [cell.strip() for cell in row]


def _reader(text: str, sign: str) -> Any:
    """Return a csv reader, whose `line_num` counts lines."""
    lines: Any = io.StringIO(text, newline="")
    if sign == SPACES:
        lines = (" ".join(line.split()) for line in lines)
    return csv.reader(lines, delimiter=sign, skipinitialspace=True)


def _rows(text: str, sign: str, path: Path) -> list[list[str]]:
    """Return the cells of each non-empty line."""
    reader = _reader(text, sign)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise CorruptDataError(f"{path} is not a readable CSV file: line {reader.line_num}: {error}") from error
    if not text.isascii() or any(blank in text for blank in " \t\v\f\x1c\x1d\x1e\x1f"):
        return [[cell.strip() for cell in row] for row in rows]
    return rows


def _check_widths(rows: list[list[str]], path: Path, sign: str, form: TableForm) -> None:
    """Check that all lines have equally many values; drop the empty column made by trailing separators."""
    width, below = len(rows[0]), Counter(map(len, rows[1:]))
    if set(below) <= {width}:
        return
    if set(below) == {width + 1}:
        if not any(row[-1] for row in rows[1:]):
            for row in rows[1:]:
                row.pop()
            return
        raise CorruptDataError(
            f"{path} is not a readable CSV file: its first line names {width} columns, but each line below has "
            f"{width + 1} values: name the first column, or leave it out (in R: row.names=FALSE)"
        )
    place, wrong = next(((n, row) for n, row in enumerate(rows) if len(row) != width and any(row)), (0, rows[0]))
    if place:
        count = sum(number for size, number in below.items() if size != width)
        raise CorruptDataError(
            f"{path} is not a readable CSV file: row {place} below the first line has {len(wrong)} values, but the "
            f"first line has {width} ({count} such rows; the first one: {sign.join(wrong)[:80]!r}). The separator was "
            f"assumed to be {sign!r}: {form.key('separator')} sets another"
        )
    for row in rows[1:]:
        row += [""] * (width - len(row))


def _names(first: Sequence[str], path: Path, form: TableForm, is_sure: bool) -> list[str]:
    unnamed = sum(not name.strip() for name in first)
    if not is_sure and unnamed > 1 and 2 * unnamed >= len(first):
        raise DataError(
            f"{path}: the first line names {len(first) - unnamed} of {len(first)} columns "
            f"({', '.join(filter(None, first))[:80]}): set {form.key('skip_rows')}=N if there are N lines above the "
            "names, name the columns, or set dataset.header=true to use it unchanged"
        )
    names = [" ".join(name.split()) or f"Unnamed: {place}" for place, name in enumerate(first)]
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} has more than one column named {', '.join(twice[:5])}")
    return names


def _looks_like_data(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether at least half of the columns hold numbers in the first line and below it."""
    first, below = rows[0], rows[1:101]
    numbers = [place for place, cell in enumerate(first) if is_number(cell)]
    if not numbers or 2 * len(numbers) < len(first):
        return False
    values = [first[place] for place in numbers]
    start = int(values[0]) if values[0].isdigit() else -1
    if start in (0, 1) and values == [str(start + place) for place in range(len(values))]:
        return False  # columns named by their positions
    return all(sum(is_number(row[place]) or not row[place] for row in below) >= ALIKE * len(below) for place in numbers)


def is_number(text: str) -> bool:
    """Return whether a text is a plain number."""
    return NUMBER.fullmatch(text) is not None or NUMBER.fullmatch(text.replace(",", ".", 1)) is not None
