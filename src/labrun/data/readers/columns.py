"""Detection of column types in a table: numbers, categories, dates, row identifiers.

Only unambiguous columns are inferred. Ambiguous ones raise an error that states which config key decides. The result
is stored in the record and in the model's card, so that later tables are read in the same way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.data.readers.dates import ISO, ISO_DAY, MAY_BE_DATE, form_of, times_of
from labrun.data.readers.number_parsing import (
    EITHER,
    EITHER_POINT,
    PLAIN,
    POINT_OR_THOUSANDS,
    SURELY_COMMA,
    SURELY_POINT,
    WITH_COMMA,
    WITH_POINT,
    bare_of,
    number,
    unit_of,
)
from labrun.data.wording import few, option
from labrun.errors import ConfigError, DataError, DoubtfulDecimalError

NUMBER, CATEGORY, DATE = "number", "category", "date"
GAPS = frozenset(
    {
        "",
        "na",
        "n/a",
        "#n/a",
        "<na>",
        "n.a.",
        "nan",
        "-nan",
        "null",
        "#null!",
        "none",
        "nil",
        "?",
        "-",
        "--",
        ".",
        "missing",
        "unknown",
        "#div/0!",
        "#value!",
        "#ref!",
        "#num!",
        "#name?",
        "#nv",
        "#n/d",
        "#wert!",
        "#bezug!",
        "#zahl!",
        "k.a.",
    }
)
"""Markers of missing values in columns of numbers or dates, in lower case."""
TRUTH = {"true": 1.0, "false": 0.0}
MOSTLY, HALF = 0.8, 0.5
"""Shares of a text column's values that parse as numbers. Above the first, the column may be meant as numbers, and the
user is asked. Above the second, the column counts for detecting the decimal separator."""
FEWEST = 10
"""Minimum number of rows for a column to be taken for an identifier."""
MAX_LISTED = 8
IGNORED, LOOKS_LIKE_ID, EMPTY = "ignored", "looks like an id", "without any value"
"""Reasons why a column is not used."""
IGNORED_ID = "ignored, an id"
"""Reason for a column that the user excluded and that looks like an id; it is still written next to predictions."""
ID_NAME = re.compile(
    r"(?i:(?:^|[\s_.-])(?:id|uid|uuid|guid|pk|idx|index|rowid|row[ _]?(?:number|num|no|nr)|unnamed: ?\d+)$)"
    r"|[a-z](?:Id|ID)$"
)
TIME = re.compile(r"\d{1,3}:\d\d(?::\d\d)?(?:\.\d+)?(?: ?[aApP]\.?[mM]\.?)?")
UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
Uniques = dict[str, list[str]]
"""The distinct texts of each column."""
Plain = dict[str, npt.NDArray[np.float64] | None]
"""The values of each column whose texts, apart from gaps, are plain numbers; None for the others."""


@dataclass(frozen=True)
class ColumnSettings:
    """The user's settings for a table's columns.

    Args:
        ignore: columns to exclude.
        numbers: columns of numbers; values that are not numbers count as missing.
        categories: columns of categories, whatever their values.
        dates: date format of each date column, as for `strptime`.
        decimal: the decimal separator, `.` or `,`; None: detect it.
    """

    ignore: Sequence[str] = ()
    numbers: Sequence[str] = ()
    categories: Sequence[str] = ()
    dates: Mapping[str, str] = field(default_factory=dict)
    decimal: str | None = None


@dataclass(frozen=True)
class Column:
    """How one column is read.

    Args:
        name: name of the column.
        kind: `number`, `category` or `date`.
        lenient: treat values that are not numbers as missing, because the user declared the column numeric.
        form: for dates: `ISO8601`, or a `strptime` format.
        start: for dates: the day from which days are counted.
        levels: for categories: number of distinct values.
    """

    name: str
    kind: str
    lenient: bool = False
    form: str | None = None
    start: str | None = None
    levels: int | None = None


@dataclass
class TableSchema:
    """How a table is read: the columns used, in order, and why the others are not."""

    columns: list[Column]
    left_out: dict[str, str]
    decimal: str = "."
    marks_thousands: bool = False
    """Whether the other separator marks thousands: it does in the table, or the user set the decimal separator."""
    notes: list[str] = field(default_factory=list)
    looked_at: Any = field(default=None, repr=False, compare=False)
    """The analysed table; `numbers` holds its plain numeric columns, so that they need not be parsed twice."""
    numbers: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)
    target: str | None = None
    """The column with the class or the quantity; None if it was not in the table."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TableSchema:
        """Build it from the content of a card or record.

        Raises:
            DataError: the content is damaged.
        """
        try:
            columns = [Column(**column) for column in content["columns"]]
            decimal = str(content.get("decimal") or ".")
            target = None if content.get("target") is None else str(content["target"])
            marks = content.get("marks_thousands") is True
            return cls(columns, dict(content.get("left_out") or {}), decimal, marks, target=target)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the stored description of the table's columns is damaged: {error}") from error

    def content(self) -> dict[str, Any]:
        """Return the content for a card or record; see `of`."""
        columns = [{key: value for key, value in asdict(one).items() if value} for one in self.columns]
        marks = {"marks_thousands": True} if self.marks_thousands else {}
        target = {} if self.target is None else {"target": self.target}
        return {"columns": columns, "left_out": self.left_out, "decimal": self.decimal, **marks, **target}

    def of_target(self, target: str) -> TableSchema:
        """Return the schema of the whole table, without the analysed one, which it would keep in memory."""
        return replace(self, looked_at=None, numbers={}, target=target)

    @property
    def names(self) -> list[str]:
        """Names of the columns that are used."""
        return [column.name for column in self.columns]

    def line(self) -> str:
        """Return a one-line summary."""
        parts = []
        for kind, noun in ((NUMBER, "numbers"), (CATEGORY, "categories"), (DATE, "dates")):
            names = [_described(column) for column in self.columns if column.kind == kind]
            if names:
                parts.append(f"{noun}: {few(names, MAX_LISTED)}")
        for why in dict.fromkeys(self.left_out.values()):
            names = [name for name, reason in self.left_out.items() if reason == why]
            how = (
                f", left out (set {option('ignore', names)} to confirm it, {option('categories', names[:1])} or "
                "dataset.numbers to keep it)"
            )
            how = how if why == LOOKS_LIKE_ID else ""
            parts.append(f"{why}: {few(names, MAX_LISTED)}{how}")
        if self.decimal != ".":
            parts.append("decimal commas")
        return "; ".join(parts)

    def apply(self, table: Any, where: object) -> Any:
        """Read a table in this way: columns of float64, and of text with None where missing.

        Args:
            table: a pandas.DataFrame of text, or one with typed columns.
            where: origin of the table, for messages.

        Raises:
            DataError: the table lacks a column, or a column holds unexpected values; the message lists them.
        """
        import pandas as pd

        missing = [column.name for column in self.columns if column.name not in table.columns]
        if missing:
            raise DataError(f"{where} has no column {few(map(repr, missing))}; it has {few(table.columns, 20)}")
        made = {}
        known = self.numbers if table is self.looked_at and self.decimal == "." else {}
        for column in self.columns:
            values = table[column.name]
            if column.kind == NUMBER and column.name in known:
                made[column.name] = pd.Series(known[column.name], index=values.index)
            elif column.kind == CATEGORY:
                made[column.name] = _words(values)
            elif column.kind == DATE:
                made[column.name] = _days(values, column, where)
            else:
                made[column.name] = _floats(values, column, self.decimal, where)
        return pd.DataFrame(made, index=table.index)


@dataclass(frozen=True)
class KnownTable:
    """The training table of a model, for which a later table is read in the same way."""

    schema: TableSchema
    classes: tuple[str, ...]
    """Empty for a quantity."""


def _described(column: Column) -> str:
    if column.kind == CATEGORY:
        return f"{column.name} ({column.levels} levels)" if column.levels else column.name
    return f"{column.name} (as days since {column.start})" if column.kind == DATE else column.name


def infer_schema(
    table: Any, settings: ColumnSettings, where: object, first: int | None = None, quantity: Any = None
) -> TableSchema:
    """Determine what each column of a table of text holds.

    Args:
        table: a pandas.DataFrame of stripped text, without the target.
        settings: the user's settings.
        where: origin of the table, for messages.
        first: number of rows of the training split, which alone decides whether a column identifies rows.
        quantity: the target column if it is numeric; it shares the table's decimal separator.

    Raises:
        ConfigError: a key refers to an unknown column, or two keys to the same one.
        DataError: a column is ambiguous; the message states the keys that decide.
    """
    check_keys(table, settings, where)
    uniques: Uniques = {}
    plain: Plain = {}
    for name in table.columns:
        if name not in settings.ignore:
            uniques[name], plain[name] = _values(table[name])
    free = [name for name in uniques if name not in (*settings.numbers, *settings.categories, *settings.dates)]
    written, bare = dict(uniques), dict(plain)
    if quantity is not None:
        written[quantity.name], bare[quantity.name] = _values(quantity)
    found, asked = _decimal(written, bare, settings, where, table.attrs.get("separator"))
    decimal = found or "."
    train = table if first is None else table.iloc[:first]
    columns: list[Column] = []
    left_out: dict[str, str] = {
        name: IGNORED_ID if _tells_rows_apart(name, train[name], _values(table[name])[1]) else IGNORED
        for name in settings.ignore
        if name in table.columns
    }
    notes: list[str] = []
    problems: list[str] = [] if asked is None else [str(DoubtfulDecimalError(asked))]
    for name, values in uniques.items():
        numbers = plain[name]
        kept = values if numbers is not None and len(numbers) == len(values) else _present(values)
        if name in settings.categories:
            columns.append(Column(name, CATEGORY, levels=len(set(values) - {""})))
        elif name in settings.numbers:
            columns.append(Column(name, NUMBER, lenient=True))
            notes += _not_numbers(name, kept, table[name], decimal)
        elif name in settings.dates:
            columns.append(_date_column(name, kept, settings.dates[name], where))
        elif not kept and len([value for value in values if value]) < 2:
            left_out[name] = EMPTY
        elif name in free and _tells_rows_apart(name, train[name], plain[name]):
            left_out[name] = LOOKS_LIKE_ID
        else:
            columns += _guessed(name, kept, values, table[name], plain[name], decimal, problems, notes, where)
    if problems:
        raise DataError(problems[0] if len(problems) == 1 else "\n  ".join(problems))
    if not columns and any(why == LOOKS_LIKE_ID for why in left_out.values()):
        # No other features are left, so keep the columns that look like ids.
        for name in [name for name, why in left_out.items() if why == LOOKS_LIKE_ID]:
            del left_out[name]
            kept = _present(uniques[name])
            columns += _guessed(name, kept, uniques[name], table[name], plain[name], decimal, [], notes, where)
    notes = [*_missing_values(columns, uniques, plain, table), *notes, *_constant_columns(columns, uniques)]
    whole = {name: found for name, found in plain.items() if found is not None and len(found) == len(table)}
    marks = settings.decimal is not None or _marks_thousands(columns, uniques, plain, decimal)
    return TableSchema(columns, left_out, decimal, marks, notes, table, whole)


def _not_numbers(name: str, kept: list[str], cells: Any, decimal: str) -> list[str]:
    """Return the note on values that are not numbers in a column declared numeric, if there are any."""
    lost = [value for value in kept if number(value, decimal) is None]
    if not lost:
        return []
    count = int(cells.isin(lost).sum())
    return [f"{name}: {count} values are not numbers, such as {lost[0]!r}, and count as missing"]


def _missing_values(columns: Sequence[Column], uniques: Uniques, plain: Plain, table: Any) -> list[str]:
    """Return the note on missing values, if there are any."""
    counts = {one.name: _gaps(one, uniques[one.name], plain[one.name], table[one.name]) for one in columns}
    missing = [f"{name} ({count})" for name, count in counts.items() if count]
    return [f"missing values: {few(missing, MAX_LISTED)}"] if missing else []


def _constant_columns(columns: Sequence[Column], uniques: Uniques) -> list[str]:
    """Return the note on columns with one value in every row, if there are any."""
    same = [one.name for one in columns if all(value == uniques[one.name][0] for value in uniques[one.name])]
    return [f"the same in every row: {few(same)}"] if same else []


def _marks_thousands(columns: Sequence[Column], uniques: Uniques, plain: Plain, decimal: str) -> bool:
    """Return whether a number contains the separator that is not the decimal one."""
    other = "," if decimal == "." else "."
    return any(
        other in value and number(value, decimal) is not None
        for one in columns
        if one.kind == NUMBER and plain[one.name] is None
        for value in uniques[one.name]
    )


def _gaps(column: Column, values: list[str], plain: npt.NDArray[np.float64] | None, cells: Any) -> int:
    """Return the number of missing values of a column."""
    if plain is not None and len(plain) == len(values):
        return 0  # every value is a number
    absent = [text for text in values if (text.lower() in GAPS if column.kind != CATEGORY else not text)]
    return int(cells.isin(absent).sum()) if absent else 0


def of_frame(frame: Any) -> TableSchema:
    """Return how a typed table is read: each column by its type, dates as days since 1970."""
    columns, notes = [], []
    for name in frame.columns:
        values = frame[name]
        if values.dtype.kind in "biuf":
            columns.append(Column(name, NUMBER))
        elif values.dtype.kind == "M":
            columns.append(Column(name, DATE, form=ISO, start="1970-01-01"))
        else:
            columns.append(Column(name, CATEGORY, levels=int(values.nunique())))
            if len(values) >= FEWEST and values.nunique() == len(values):
                notes.append(f"{name}: every row has its own value; if it only identifies rows, leave it out")
    return TableSchema(columns, {}, notes=notes)


def check_keys(table: Any, settings: ColumnSettings, where: object) -> None:
    """Check that the user's settings refer to existing columns, each under one key only.

    Raises:
        ConfigError: they do not.
    """
    from labrun.messages import suggest

    columns = list(table.columns)
    named = [(key, name) for key in ("ignore", "numbers", "categories", "dates") for name in getattr(settings, key)]
    for key, name in named:
        if name not in columns:
            raise ConfigError(
                f"dataset.{key}={name!r}: {where} has no such column to learn from.{suggest(str(name), columns)} "
                f"It has: {few(columns, 20)}"
            )
    seen: dict[str, str] = {}
    for key, name in named:
        if seen.setdefault(name, key) != key:
            raise ConfigError(f"dataset.{seen[name]} and dataset.{key} both list {name!r}: it can only be in one")


def _values(column: Any) -> tuple[list[str], npt.NDArray[np.float64] | None]:
    """Return a column's texts (all, or the distinct ones), and the present values as numbers if all are plain."""
    texts = column.tolist()
    numbers = _plain(texts)
    if numbers is None:  # otherwise deduplicating would gain nothing
        texts = column.unique().tolist()
        numbers = _plain(_present(texts))
    return texts, numbers


def _present(texts: list[str]) -> list[str]:
    return [text for text in texts if text.lower() not in GAPS]


def _plain(kept: list[str]) -> npt.NDArray[np.float64] | None:
    """Parse texts as numbers if all are plain, with no separator other than a decimal point; otherwise None."""
    if not kept or not all(map(PLAIN.fullmatch, kept[:10])):
        return None
    return _at_once(kept)


def _at_once(texts: list[Any]) -> npt.NDArray[np.float64] | None:
    """Parse texts with Python's `float` if that accepts all of them and all are finite; otherwise None."""
    try:
        found = np.fromiter(map(float, texts), np.float64, len(texts))
        is_plain = bool(np.isfinite(found).all()) and "_" not in "".join(texts)  # Python parses 1_0 as 10
    except (ValueError, TypeError):
        return None
    return found if is_plain else None


def _guessed(
    name: str,
    kept: list[str],
    values: list[str],
    column: Any,
    plain: npt.NDArray[np.float64] | None,
    decimal: str,
    problems: list[str],
    notes: list[str],
    where: object,
) -> Iterator[Column]:
    """Yield the inferred column if it is unambiguous; otherwise add a problem."""
    if all(value.lower() in TRUTH for value in kept):
        yield Column(name, NUMBER)
        return
    is_fraction = plain is not None and bool((plain % 1 != 0).any())
    if not is_fraction and any(map(CODE.fullmatch, kept)) and all(value.isdigit() for value in kept):
        yield Column(name, CATEGORY, levels=len(set(values) - {""}))  # leading zeros mark codes: 007 is not 7
        return
    form = form_of(name, kept, problems, where)
    if form is not None:
        yield _date_column(name, kept, form, where)
        return
    if plain is not None and (decimal == "." or not is_fraction):
        numbers, units = kept, set[str]()
    else:
        numbers = [value for value in kept if number(value, decimal) is not None]
        units = {unit_of(value) for value in numbers} - {""}
    problem = _doubt(name, kept, numbers, units, column, decimal)
    if problem is not None:
        problems.append(f"{where}: {problem}")
        return
    if len(numbers) == len(kept) and len(units) < 2:
        yield Column(name, NUMBER)
        odd = [] if len(values) == len(kept) else sorted({v for v in values if v and v.lower() in GAPS})
        if odd:
            count = int(column.isin(odd).sum())
            notes.append(f"{name}: {', '.join(map(repr, odd[:3]))} ({count} times) counts as missing")
        return
    levels = len(set(values) - {""})
    if levels > 50 and 2 * levels > len(column):
        notes.append(
            f"{name}: {levels:,} different texts in {len(column):,} rows; {option('ignore', [name])} leaves it out"
        )
    yield Column(name, CATEGORY, levels=levels)


def _doubt(name: str, kept: list[str], numbers: list[str], units: set[str], column: Any, decimal: str) -> str | None:
    """Return what is doubtful about a column's values, and the keys that decide; None if nothing is.

    Args:
        name: the column.
        kept: its different values, without gaps.
        numbers: those that are numbers.
        units: the units of these.
        column: all of its cells.
        decimal: the decimal sign.
    """
    if "%" in units and (bare := next((v for v in numbers if not unit_of(v) and number(v, decimal)), None)):
        return (
            f"the column {name!r} holds percentages ({next(v for v in numbers if unit_of(v) == '%')!r}) next to "
            f"{bare!r}, which may mean something else: correct it, or set {option('numbers', [name])} to read both as "
            f"written, {option('categories', [name])} or {option('ignore', [name])}"
        )
    if len(numbers) == len(kept) and len(units) < 2:
        return None
    other = "," if decimal == "." else "."
    if len(numbers) < len(kept) and all(number(value, other) is not None for value in kept):
        return (
            f"{next(v for v in kept if number(v, decimal) is None)!r} in the column {name!r} is a number if "
            f"dataset.decimal={other!r}, but the decimal sign was taken to be {decimal!r}: set dataset.decimal, or "
            f"{option('categories', [name])} if it holds no numbers"
        )
    share = float(column.isin(numbers).sum()) / max(1, int(column.isin(kept).sum()))
    if share > MOSTLY:
        others = [value for value in kept if value not in set(numbers)]
        what = f"such as {others[0]!r} in {name!r}" if others else f"with {' and '.join(sorted(units))}"
        return (
            f"the column {name} holds text ({what}) next to numbers. Set {option('numbers', [name])} to read "
            f"the rest as missing values, {option('categories', [name])} if these are not numbers, or "
            f"{option('ignore', [name])}"
        )
    dates = [value for value in kept if MAY_BE_DATE.fullmatch(value)]
    if dates and len(dates) < len(kept) and column.isin(dates).sum() > MOSTLY * column.isin(kept).sum():
        other_text = next(value for value in kept if not MAY_BE_DATE.fullmatch(value))
        return (
            f"the column {name!r} holds dates such as {dates[0]!r} next to other text such as {other_text!r}: "
            f"correct it or leave the cell empty, or set {option('categories', [name])} or {option('ignore', [name])}"
        )
    return None


CODE = re.compile(r"[+-]?0\d+")


def _tells_rows_apart(name: str, column: Any, plain: npt.NDArray[np.float64] | None) -> bool:
    """Return whether a column identifies rows: it numbers them, or has a unique text for each."""
    count = len(column)
    if count < FEWEST or (plain is not None and (plain % 1 != 0).any()) or not column.is_unique:
        return False
    present = [value for value in column.tolist() if value]
    if len(present) < count:
        return False
    if all(re.fullmatch(r"\d{1,18}", value) for value in present):
        whole = np.array([int(value) for value in present], np.int64)
        steps = np.diff(whole)
        counts_on = bool((steps == 1).all()) and int(whole[0]) in (0, 1)
        return ID_NAME.search(name) is not None or counts_on
    if any(number(value, ".") is not None or number(value, ",") is not None for value in present[:100]):
        return ID_NAME.search(name) is not None and not all(re.fullmatch(r"[+-]?\d*[.,]\d+", one) for one in present)
    if all(re.match(r"[+-]?\d[\d.,]*\s*[A-Za-z%\u00b0]", value) for value in present):
        return ID_NAME.search(name) is not None  # quantities with a unit
    if ID_NAME.search(name) or all(UUID.fullmatch(value) for value in present):
        return True
    if all(map(TIME.fullmatch, present)):
        return False
    return not any(map(MAY_BE_DATE.fullmatch, present[:100]))


def decimal_of(known: TableSchema, table: Any, where: object) -> tuple[str | None, str | None]:
    """Detect the decimal separator of a table whose column types are known.

    Args:
        known: the column types.
        table: a pandas.DataFrame; columns that are already numeric give no evidence.
        where: origin of the table, for messages.

    Returns:
        The separator, None without evidence; the ambiguity as a sentence, with the decimal point reading first.
    """
    written: dict[str, list[str]] = {}
    plain: dict[str, npt.NDArray[np.float64] | None] = {}
    for column in known.columns:
        if column.kind == NUMBER and column.name in table.columns and _is_text(table[column.name]):
            texts = table[column.name].dropna().astype(str).str.strip()
            if len(texts):
                written[column.name], plain[column.name] = _values(texts)
    separator = table.attrs.get("separator")
    found, doubt = _decimal(written, plain, ColumnSettings(), where, separator)
    if found is not None or doubt is not None or known.decimal == ".":
        return found, doubt
    for name, texts in written.items():
        value = next((one for one in texts if POINT_OR_THOUSANDS.fullmatch(one)), None)
        if value is not None and separator == ",":  # commas separate columns, so not decimals
            return ".", None
        if value is not None:
            return None, f"{where}: {value!r} in the column {name!r} may be {value} or {value.replace('.', '')}"
    return None, None


def sign_of(table: Any, settings: ColumnSettings, where: object) -> str | None:
    """Detect the decimal separator of a table from its content alone; None without clear evidence."""
    found = {name: _values(table[name]) for name in table.columns if name not in settings.ignore}
    written, plain = {name: texts for name, (texts, _) in found.items()}, {name: n for name, (_, n) in found.items()}
    sign, doubt = _decimal(written, plain, replace(settings, decimal=None), where, table.attrs.get("separator"))
    return sign if doubt is None else None


@dataclass
class _Evidence:
    """Values of columns that show a table's decimal separator: of each such column, the first one."""

    comma: dict[str, str] = field(default_factory=dict)
    """Values that have a decimal comma."""
    point: dict[str, str] = field(default_factory=dict)
    """Values that have a decimal point."""
    either: dict[str, str] = field(default_factory=dict)
    """Values that have a comma, which may also mark thousands."""


def _decimal(
    uniques: Uniques, plain: Plain, settings: ColumnSettings, where: object, separator: str | None
) -> tuple[str | None, str | None]:
    """Return the decimal separator, None without evidence; and any ambiguity, the decimal point reading first."""
    if settings.decimal is not None:
        return settings.decimal, None
    free = {name: values for name, values in uniques.items() if name not in {*settings.categories, *settings.dates}}
    seen = _evidence(free, plain, settings)
    if seen.comma and seen.point:
        (one, first), (other, second) = next(iter(seen.comma.items())), next(iter(seen.point.items()))
        return ",", (
            f"{where}: there are decimal points ({second!r} in {other!r}) and commas ({first!r} in {one!r}; if that "
            f"column holds no numbers, {option('categories', [one])})"
        )
    if seen.comma:
        return ",", None
    if seen.point:
        return ".", None
    # If commas separate the columns, a comma within a number marks thousands.
    if seen.either and separator != ",":
        name, value = next(iter(seen.either.items()))
        return ".", (
            f"{where}: {value!r} in the column {name!r} may be {value.replace(',', '')} or {value.replace(',', '.')}"
        )
    if separator == ";":  # typical of files with decimal commas, where a point marks thousands
        for name, values in free.items():
            pointed = next((one for one in values if "." in one), None)
            if plain[name] is not None and pointed and all(map(EITHER_POINT.fullmatch, _present(values))):
                whole = pointed.replace(".", "")
                return ".", f"{where}: {pointed!r} in the column {name!r} may be {pointed} or {whole}"
    return None, None


def _evidence(uniques: Uniques, plain: Plain, settings: ColumnSettings) -> _Evidence:
    """Search the columns that may hold numbers for values that show the decimal separator."""
    seen = _Evidence()
    for name, values in uniques.items():
        kept, forms = values, [(seen.point, SURELY_POINT)]
        numbers = plain[name]
        if numbers is None:
            present = [bare_of(value)[0] for value in _present(values)]
            kept = [one for one in present if WITH_POINT.fullmatch(one) or WITH_COMMA.fullmatch(one)]
            share = 0 if name in settings.numbers else HALF
            if len(kept) <= share * len(present):  # text beside numbers is reported later
                continue
            forms += [(seen.comma, SURELY_COMMA), (seen.either, EITHER)]
        elif not (numbers % 1 != 0).any():
            continue  # plain numbers are evidence only if one has a fraction
        for found, form in forms:
            value = next((one for one in kept if form.fullmatch(one)), None)
            if value is not None:
                found[name] = value
    return seen


def _date_column(name: str, kept: list[str], form: str, where: object) -> Column:
    times = times_of(kept, form)
    if times.isna().any():
        bad = kept[int(np.flatnonzero(times.isna())[0])]
        raise DataError(
            f"{where}: {bad!r} in the column {name!r} is not a date of the form dataset.dates={{{name}: '{form}'}}"
        )
    return Column(name, DATE, form=form, start=times.min().strftime("%Y-%m-%d"))


def _is_text(values: Any) -> bool:
    return values.dtype.kind not in "biufMm"


def _gap(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value)) or (isinstance(value, str) and value.strip().lower() in GAPS)


def _words(values: Any) -> Any:
    """Return a column of categories: text, None where missing."""
    import pandas as pd

    def word(value: Any) -> str | None:
        if pd.isna(value) or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return str(int(value))  # pandas turns 1 into 1.0 if the column has missing values
        text = str(value).strip()
        return text if text.isascii() else unicodedata.normalize("NFC", text)  # equal glyphs compare equal

    known: dict[str, str | None] = {}  # most categories repeat many times
    made = []
    for value in values.tolist():
        if type(value) is not str:
            made.append(word(value))
        elif value in known:
            made.append(known[value])
        else:
            made.append(known.setdefault(value, word(value)))
    return pd.Series(made, index=values.index, dtype=object)


def _floats(values: Any, column: Column, decimal: str, where: object) -> Any:
    """Return a column of numbers: float64, NaN where missing."""
    import pandas as pd

    if not _is_text(values) and values.dtype.kind in "biuf":
        return pd.Series(values.to_numpy(np.float64, na_value=np.nan), index=values.index)
    if decimal == ".":  # fast path for plain numbers
        if (found := _at_once(values.tolist())) is not None:
            return pd.Series(found, index=values.index)
        made = np.array(pd.to_numeric(values, errors="coerce"), np.float64)
        odd = ~np.isfinite(made)
        if not odd.any():
            return pd.Series(made, index=values.index)
        made[odd] = _texts_as_floats(values[odd], column, decimal, where)
        return pd.Series(made, index=values.index)
    return pd.Series(_texts_as_floats(values, column, decimal, where), index=values.index)


def _texts_as_floats(values: Any, column: Column, decimal: str, where: object) -> npt.NDArray[np.float64]:
    import pandas as pd

    codes, uniques = pd.factorize(values, use_na_sentinel=True)
    made = np.full(len(uniques) + 1, np.nan)  # last entry: code -1, missing
    for place, value in enumerate(uniques):
        if _gap(value):
            continue
        text = str(value).strip()
        found = (
            float(value)
            if isinstance(value, int | float | bool | np.number)
            else TRUTH[text.lower()]
            if text.lower() in TRUTH
            else number(text, decimal)
        )
        if found is None and not column.lenient:
            count = int((codes == place).sum())
            raise DataError(
                f"{where}: the column {column.name!r} holds numbers, but {text!r} ({count} times) is not one: correct "
                f"it, or leave the cell empty; {option('numbers', [column.name])} in training treats it as missing"
            )
        made[place] = np.nan if found is None else found
    return np.asarray(made[codes])


def _days(values: Any, column: Column, where: object) -> Any:
    """Return a column of dates as days since `column.start`: float64, NaN where missing."""
    import pandas as pd

    if values.dtype.kind == "M":
        times = pd.to_datetime(values, utc=True)
    else:
        texts = _words(values)
        texts = texts.where(~texts.str.lower().isin(GAPS), None) if texts.notna().any() else texts
        times = pd.to_datetime(texts, format=column.form, errors="coerce", utc=True)
        wrong = texts[times.isna() & texts.notna()]
        if len(wrong) and texts.dropna().str.fullmatch(ISO_DAY).all():  # unambiguous, whatever the form
            times = pd.to_datetime(texts, format=ISO, errors="coerce", utc=True)
            wrong = texts[times.isna() & texts.notna()]
        if len(wrong):
            raise DataError(
                f"{where}: the column {column.name!r} holds dates of the form {column.form}, but "
                f"{wrong.iloc[0]!r} is not one"
            )
    return (times - pd.Timestamp(str(column.start), tz="UTC")) / pd.Timedelta(days=1)
