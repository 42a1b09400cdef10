"""Operations on a data set's rows after reading: steps that are valid JSON, so that they can be passed to a run."""

from __future__ import annotations

import operator
import random
from typing import Any

from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.notice import warn


def applied(frame: Any, steps: Any) -> Any:
    """Apply all steps to a data frame and renumber its rows.

    Raises:
        UserErrorException: a step uses a column that does not exist or that cannot be compared with the value.
    """
    for name, *rest in steps:
        frame = STEPS[name](frame, *rest)
    return frame.reset_index(drop=True) if steps else frame


def in_part(count: int, percentage: float, seed: int, first: bool) -> Any:
    """Return for each of `count` items whether it is in the first (or second) part of a random split."""
    draw = random.Random(seed).random
    return [(draw() < percentage) == first for _ in range(count)]


def _split(frame: Any, percentage: float, seed: int, first: bool) -> Any:
    return frame[in_part(len(frame), percentage, seed, first)]


def _drop(frame: Any, names: Any) -> Any:
    there = [name for name in names if name in frame.columns]
    if len(there) < len(names):
        gone = ", ".join(str(name) for name in names if name not in there)
        warn(f"drop_columns: there is no column {gone}; the columns are: {', '.join(map(str, frame.columns))}")
    return frame.drop(columns=there)


def _keep(frame: Any, names: Any) -> Any:
    check_columns(frame, names)
    return frame[[name for name in frame.columns if name in names]]


def _between(frame: Any, name: str, start: Any, end: Any, inclusive: bool) -> Any:
    check_dates(frame, name)
    column = frame[name]
    kept = column.notna()
    if start is not None:
        first = _moment(start, column)
        kept &= (column >= first) if inclusive else (column > first)
    if end is not None:
        last = _moment(end, column)
        kept &= (column <= last) if inclusive else (column < last)
    return frame[kept]


def _moment(text: str, column: Any) -> Any:
    """Return a time in UTC to compare with a column. A time or a column without a zone counts as UTC."""
    import pandas

    found = pandas.Timestamp(text)
    found = found.tz_localize("UTC") if found.tzinfo is None else found.tz_convert("UTC")
    return found if getattr(column.dtype, "tz", None) is not None else found.tz_localize(None)


def _filter(frame: Any, condition: Any) -> Any:
    return frame[truth(frame, condition)]


def truth(frame: Any, condition: Any) -> Any:
    """Return a mask of the rows that satisfy a condition."""
    name, *rest = condition
    if name == "not":
        return ~truth(frame, rest[0])
    if name in ("and", "or"):
        return getattr(operator, name + "_")(truth(frame, rest[0]), truth(frame, rest[1]))
    column, value = rest
    check_columns(frame, [column])
    if name == "is_null":
        return frame[column].isna()
    if name in TEXTS:
        texts = frame[column].where(frame[column].notna(), "").astype(str)
        return TEXTS[name](texts, value) & frame[column].notna()
    if isinstance(value, dict) and "column" in value:
        check_columns(frame, [value["column"]])
        value = frame[value["column"]]
    elif isinstance(value, dict):
        check_dates(frame, column)
        value = _moment(value["date"], frame[column])
    _check_kinds(frame[column], column, value)
    try:
        return getattr(operator, name)(frame[column], value) & (frame[column].notna() | (name == "ne"))
    except TypeError as error:
        raise UserErrorException(f"filter: column {column} cannot be compared with {value!r}: {error}") from None


def _check_kinds(column: Any, name: str, value: Any) -> None:
    """Check that a column and a value can be equal: text never equals a number, so `==` would select nothing.

    Raises:
        UserErrorException: one is text and the other is not.
    """
    values = column.dropna()
    if not len(values) or not isinstance(value, (str, bool, int, float)):
        return
    kind = str(column.dtype)
    is_text = kind in ("object", "str", "string") and all(isinstance(one, str) for one in values)
    is_number = kind.lower().startswith(("int", "uint", "float", "bool"))
    if is_text != isinstance(value, str) and (is_text or is_number):
        raise UserErrorException(
            f"filter: column {name} holds {'text' if is_text else 'numbers'}, such as {values.iloc[0]!r}, and is "
            f"compared with {value!r}: compare it with a value of its own type, or set that with set_column_types"
        )


def check_dates(frame: Any, name: str) -> None:
    """Check that a column holds dates.

    Raises:
        UserErrorException: it does not, or does not exist.
    """
    check_columns(frame, [name])
    if not str(frame[name].dtype).startswith("datetime64"):
        raise UserErrorException(
            f"column {name} does not hold unambiguous dates: create the data set with "
            f"set_column_types={{{name!r}: DataType.to_datetime(format)}}"
        )


def check_columns(frame: Any, names: Any) -> None:
    """Check that columns exist.

    Raises:
        UserErrorException: one does not.
    """
    there = list(frame.columns)
    missing = [name for name in names if name not in there]
    if missing:
        raise UserErrorException(
            "there is no column {}; the columns are: {}".format(
                ", ".join(map(str, missing)), ", ".join(map(str, there))
            )
        )


STEPS: dict[str, Any] = {
    "take": lambda frame, count: frame.head(count),
    "skip": lambda frame, count: frame.iloc[count:],
    "split": _split,
    "drop": _drop,
    "keep": _keep,
    "between": _between,
    "filter": _filter,
}


TEXTS: dict[str, Any] = {
    "starts_with": lambda texts, value: texts.str.startswith(value),
    "ends_with": lambda texts, value: texts.str.endswith(value),
    "contains": lambda texts, value: texts.str.contains(value, regex=False),
}


class Column:
    """A column to compare by name: `data['age'] > 30`."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name

    def _compared(self, how: str, value: Any) -> Condition:
        if hasattr(value, "isoformat"):
            value = {"date": value.isoformat()}
        value = {"column": value.name} if isinstance(value, Column) else value
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(value, (str, bool, int, float, dict)):
            raise UserErrorException(f"filter: compare a column with a number, a string or a date, not {value!r}")
        return Condition([how, self.name, value])

    def _of_text(self, how: str, value: Any) -> Condition:
        if not isinstance(value, str):
            raise UserErrorException(f"filter: {how}({value!r}): give a string")
        return Condition([how, self.name, value])

    def starts_with(self, value: str) -> Condition:
        return self._of_text("starts_with", value)

    def ends_with(self, value: str) -> Condition:
        return self._of_text("ends_with", value)

    def contains(self, value: str) -> Condition:
        return self._of_text("contains", value)

    def is_null(self) -> Condition:
        return Condition(["is_null", self.name, None])

    def __lt__(self, other: Any) -> Condition:
        return self._compared("lt", other)

    def __le__(self, other: Any) -> Condition:
        return self._compared("le", other)

    def __gt__(self, other: Any) -> Condition:
        return self._compared("gt", other)

    def __ge__(self, other: Any) -> Condition:
        return self._compared("ge", other)

    def __eq__(self, other: Any) -> Any:
        return self._compared("eq", other)

    def __ne__(self, other: Any) -> Any:
        return self._compared("ne", other)


class Condition:
    """A comparison, or several joined by `&`, `|` and `~`."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree

    def __and__(self, other: Condition) -> Condition:
        return Condition(["and", self.tree, other.tree])

    def __or__(self, other: Condition) -> Condition:
        return Condition(["or", self.tree, other.tree])

    def __invert__(self) -> Condition:
        return Condition(["not", self.tree])

    def __bool__(self) -> bool:
        raise UserErrorException("filter: join comparisons with & and |, each in parentheses")
