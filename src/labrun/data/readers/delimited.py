"""A table in a text file as cells of text: its encoding, its separator and its first line found out, or asked for."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labrun.errors import ConfigError, CorruptDataError, DataError

SEPARATORS = ("\t", ";", "|", ",")
"""The likelier first: a comma also stands in numbers and in text."""
SPACES = " "
SAMPLE_CHARACTERS = 2**16
ALIKE = 0.9
"""So large a share of a sample's lines has as many values as the first, where a separator is the right one."""
NAMED_SEPARATORS = {
    r"\t": "\t", "tab": "\t", r"\s+": SPACES, "blanks": SPACES, "comma": ",", "semicolon": ";", "pipe": "|",
}  # fmt: skip
"""Words for what a command line has to quote."""
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read(
    path: Path, separator: str | None = None, encoding: str | None = None, header: bool | None = None
) -> tuple[Any, list[str]]:
    """The cells of a file, blanks around them left out.

    Args:
        path: the file; one that ends in `.gz` is unpacked.
        separator: between the columns; None: found out. Also `\\t`, `\\s+`, and a word for it.
        encoding: of the text; None: what a byte order mark says, UTF-8, or else cp1252, which is told.
        header: whether the first line names the columns; None: it does, unless it looks like the others: then it is
            asked.

    Returns:
        A pandas.DataFrame of text, empty where a cell is, its separator in `attrs`; what a person should be told.

    Raises:
        CorruptDataError, DataError: it is no such text; its lines differ in length.
        ConfigError: `separator` or `encoding` is none.
    """
    text, notes = _text(path, encoding)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own hint
        separator, text = separator or first.strip()[4], rest
    sign = _given(separator) if separator else _found(text)
    rows = _rows(text, sign, path)
    if not rows:
        raise CorruptDataError(f"{path} is no readable CSV file: it is empty")
    if any(not name.replace("\n", " ").isprintable() for name in rows[0]):
        raise CorruptDataError(f"{path} is no text: its first line holds control characters")
    _check_widths(rows, path, sign)
    cells = rows
    if header is None and len(cells) > 1 and _looks_like_data(cells):
        raise DataError(
            f"{path}: the first line ({', '.join(cells[0][:5])}) looks like the lines below it. Say "
            "dataset.header=false if it holds data, or dataset.header=true if it names the columns"
        )
    names = [str(place) for place in range(len(cells[0]))] if header is False else _names(cells.pop(0), path)
    full = [row for row in cells if any(row)]
    if len(full) < len(cells):
        notes.append(f"left out: {len(cells) - len(full)} lines without any value")
    if not full:
        raise DataError(f"{path} has a first line with names, and no rows below it")
    import pandas as pd

    columns = zip(names, zip(*full, strict=True), strict=True)
    table = pd.DataFrame({name: pd.Series(list(column), dtype=object) for name, column in columns})
    table.attrs["separator"] = sign
    return table, notes


def _text(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise CorruptDataError(f"{path} is no readable CSV file: {error}") from error
    if encoding is not None:
        try:
            return content.decode("utf-8-sig" if encoding.lower() in ("utf8", "utf-8") else encoding), []
        except LookupError:
            raise ConfigError(
                f"dataset.encoding={encoding!r}: there is no such encoding; utf-8, cp1252, utf-16 are"
            ) from None
        except UnicodeDecodeError as error:
            raise CorruptDataError(f"{path} is no text in dataset.encoding={encoding}: {error}") from error
    mark = next((name for mark, name in BOMS if content.startswith(mark)), None)
    if mark is None and b"\0" in content:
        raise CorruptDataError(f"{path} is no text: it holds bytes of value 0")
    try:
        return content.decode(mark or "utf-8"), []
    except UnicodeDecodeError as error:
        if mark is not None:
            raise CorruptDataError(f"{path} is no text in {mark}, as its first bytes say: {error}") from error
    try:
        return content.decode("cp1252"), ["not UTF-8, read as cp1252 (Windows); dataset.encoding says another"]
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{path} is neither UTF-8 nor cp1252: say which with dataset.encoding") from error


def _given(separator: str) -> str:
    sign = NAMED_SEPARATORS.get(separator, separator)
    if len(sign) != 1 or sign in '"\r\n':
        raise ConfigError(rf"dataset.separator={separator!r}: one character, or tab, comma, semicolon, pipe, blanks")
    return sign


def _found(text: str) -> str:
    """The separator with which a file's first lines have equally many values, and more than one."""
    sample = text[:SAMPLE_CHARACTERS]
    if len(text) > len(sample):
        sample = sample.rpartition("\n")[0] or sample
    best, best_share = ",", 0.0
    for sign in (*SEPARATORS, SPACES):
        if sign == SPACES and best_share:
            break
        widths = [len(row) for row in _parsed(sample, sign) if any(row)]
        if not widths or widths[0] < 2:
            continue
        share = sum(width == widths[0] for width in widths) / len(widths)
        if len(set(widths[1:])) == 1 and widths[1] == widths[0] + 1:  # each line ends in one, or has a name of its own
            share = 1.0
        if share > best_share and (share >= ALIKE or sign != SPACES):
            best, best_share = sign, share
    return best


def _parsed(text: str, sign: str) -> Iterator[list[str]]:
    for row in _reader(text, sign):
        yield [cell.strip() for cell in row]


def _reader(text: str, sign: str) -> Any:
    """The csv module's, which counts lines."""
    lines: Any = io.StringIO(text, newline="")
    if sign == SPACES:
        lines = (" ".join(line.split()) for line in lines)
    return csv.reader(lines, delimiter=sign, skipinitialspace=True)


def _rows(text: str, sign: str, path: Path) -> list[list[str]]:
    """The cells of each line that is not empty."""
    reader = _reader(text, sign)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise CorruptDataError(f"{path} is no readable CSV file: line {reader.line_num}: {error}") from error
    if not text.isascii() or any(blank in text for blank in " \t\v\f\x1c\x1d\x1e\x1f"):
        return [[cell.strip() for cell in row] for row in rows]
    return rows


def _check_widths(rows: list[list[str]], path: Path, sign: str) -> None:
    """Whether all lines have as many values; a separator at the end of each is no further column."""
    width, below = len(rows[0]), Counter(map(len, rows[1:]))
    if set(below) <= {width}:
        return
    if set(below) == {width + 1}:
        if not any(row[-1] for row in rows[1:]):
            for row in rows[1:]:
                row.pop()
            return
        raise CorruptDataError(
            f"{path} is no readable CSV file: its first line names {width} columns, and each line below has "
            f"{width + 1} values: name the first column, or leave it out (in R: row.names=FALSE)"
        )
    place, wrong = next(((n, row) for n, row in enumerate(rows) if len(row) != width and any(row)), (0, rows[0]))
    if place:
        count = sum(number for size, number in below.items() if size != width)
        raise CorruptDataError(
            f"{path} is no readable CSV file: row {place} below the first line has {len(wrong)} values, and the first "
            f"line has {width} ({count} such rows; the first one: {sign.join(wrong)[:80]!r}). The separator was taken "
            f"to be {sign!r}: dataset.separator says another"
        )
    for row in rows[1:]:
        row += [""] * (width - len(row))


def _names(first: Sequence[str], path: Path) -> list[str]:
    names = [" ".join(name.split()) or f"Unnamed: {place}" for place, name in enumerate(first)]
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} has more than one column of the name {', '.join(twice[:5])}")
    return names


def _looks_like_data(rows: Sequence[Sequence[str]]) -> bool:
    """Whether at least half of the columns begin with a number and go on with numbers."""
    first, below = rows[0], rows[1:101]
    numbers = [place for place, cell in enumerate(first) if is_number(cell)]
    if not numbers or 2 * len(numbers) < len(first):
        return False
    values = [first[place] for place in numbers]
    start = int(values[0]) if values[0].isdigit() else -1
    if start in (0, 1) and values == [str(start + place) for place in range(len(values))]:
        return False  # columns that are called by their places
    return all(sum(is_number(row[place]) or not row[place] for row in below) >= ALIKE * len(below) for place in numbers)


def is_number(text: str) -> bool:
    """Whether a text is a plain number."""
    return NUMBER.fullmatch(text) is not None or NUMBER.fullmatch(text.replace(",", ".", 1)) is not None
