"""Type inference for text columns: the SDK's types, but only where the conversion loses no information.

    1, -2              int64; float64 if the column has empty cells
    0.5, 1e-3, NaN     float64
    true, False        bool; None for an empty cell
    2019-07-14T10:00   datetime64[ns]; times with a zone are converted to UTC
    anything else      text (object); None for an empty cell

Inference looks at all rows, while the SDK looks at the first 200. Text that would lose information as a number stays
text: a leading zero (`00501`), or too many digits. So do dates whose day and month could be swapped.
"""

from __future__ import annotations

from typing import Any

from labrun.compat.azureml import notice
from labrun.compat.azureml.exceptions import UserErrorException

INTEGER = r"[+-]?\d+$"
NUMBER = r"(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|NaN|NAN|inf|Inf|infinity|Infinity))$"
ZERO_IN_FRONT = r"[+-]?0\d"
DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[ T]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?(?:Z|[+-]\d{2}:?\d{2}))?)?$"
DAY_AND_MONTH = r"\d{1,2}[-/.]\d{1,2}[-/.]\d{4}(?: .*)?$"
ZONE = r"(?:Z|[+-]\d{2}:?\d{2})$"
EXACT = 2**53
"""The largest magnitude up to which all integers are exact as float64."""
TRUE, FALSE = ("true", "1"), ("false", "0")

_warned: set[str] = set()


class OutOfRangeError(UserErrorException):
    """A date is outside the range that pandas can represent."""


def inferred(column: Any, name: str, empty_as_string: bool = False, out_of_range: str = "null") -> Any:
    """Convert a text column to the type of its values.

    Args:
        column: a pandas.Series of str; an empty cell is an empty string.
        name: the column's name, for messages.
        empty_as_string: in a column that stays text, keep empty cells as empty strings instead of None.
        out_of_range: the handling of dates that pandas cannot represent: `null` empties them, `fail` raises.

    Raises:
        OutOfRangeError: there is such a date, and `out_of_range` is `fail`.
    """
    full = column != ""
    values = column[full].str.strip()
    if not len(values):
        return column.astype(object) if empty_as_string else column.where(full).astype("float64")
    if bool(values.str.match(NUMBER).all()):
        found = _number(values, name)
        if found is not None:
            return _spread(found, column, full)
    elif set(values.str.lower().unique()[:3]) <= {"true", "false"}:
        return _spread(values.str.lower() == "true", column, full)
    elif bool(values.str.match(DATE).all()):
        try:
            return as_dates(column, name, None, out_of_range)
        except OutOfRangeError:
            raise
        except UserErrorException:
            pass
    elif bool(values.str.match(DAY_AND_MONTH).all()):
        _warn(name, values, "day and month could be swapped; give set_column_types a DataType.to_datetime(format)")
    return as_text(column, empty_as_string)


def _number(values: Any, name: str) -> Any:
    """Convert to int64 or float64; return None if that would lose information."""
    import pandas

    if bool(values.str.match(ZERO_IN_FRONT).any()) and bool(values.str.match(INTEGER).all()):
        return _warn(name, values[values.str.match(ZERO_IN_FRONT)], "a number would lose the leading zero")
    if not bool(values.str.match(INTEGER).all()):
        if not bool(values.str.match(r".*\d").any()):
            return None  # only words such as NaN
        return values.astype(object).astype("float64")
    try:
        found = pandas.to_numeric(values.astype(object))
    except (OverflowError, ValueError, TypeError):
        found = None
    if found is None or str(found.dtype) != "int64":
        return _warn(name, values, "too long for an integer")
    return found


def _warn(name: str, values: Any, why: str) -> None:
    message = f"column {name} stays text, because of values such as {str(values.iloc[0])!r} ({why})"
    if message not in _warned:
        _warned.add(message)
        notice.warn(message)


def _spread(found: Any, column: Any, full: Any) -> Any:
    """Put the converted values back into all rows, with missing values for the empty cells."""
    if bool(full.all()):
        return found
    if str(found.dtype) == "bool":
        return found.astype(object).reindex(column.index).where(full, None)
    if str(found.dtype) == "int64" and len(found) and int(found.abs().max()) > EXACT:
        return as_text(column)  # float64, which empty cells need, would change the numbers
    return found.astype("float64").reindex(column.index)


def as_text(column: Any, empty_as_string: bool = False) -> Any:
    """Return a column of text objects, with None (or the empty string) for empty cells."""
    found = column.astype(object)
    return found if empty_as_string else found.where(column != "", None)


def as_dates(column: Any, name: str, formats: Any = None, out_of_range: str = "null") -> Any:
    """Convert a text column to dates, with NaT for empty cells.

    Args:
        column: a pandas.Series of str.
        name: the column's name, for messages.
        formats: `strptime` formats, tried in order; None: ISO 8601, with `-` or `/`.
        out_of_range: as in `inferred`.

    Raises:
        OutOfRangeError: a date is before 1677 or after 2262, and `out_of_range` is `fail`.
        UserErrorException: a value is not a date.
    """
    import pandas

    values = column[column != ""].str.strip()
    major = int(pandas.__version__.partition(".")[0])
    if not formats:
        values = values.str.replace("/", "-", regex=False)
        formats = ["ISO8601" if major >= 2 else None]
    zoned = bool(values.str.contains(ZONE, regex=True).any())

    def converted(texts: Any, how: Any) -> Any:
        found = pandas.to_datetime(texts.astype(object), format=how, utc=zoned or None)
        found = found.dt.tz_localize(None) if zoned else found
        return found.astype("datetime64[ns]")

    for number, one in enumerate(formats):
        try:
            return converted(values, one).reindex(column.index)
        except pandas.errors.OutOfBoundsDatetime as error:
            if out_of_range == "fail":
                message = (
                    "column {}: a date is before 1677 or after 2262: {}; out_of_range_datetime='null' leaves it empty"
                )
                raise OutOfRangeError(message.format(name, error)) from None
            far = _refused(values, lambda texts, how=one: converted(texts, how), pandas.errors.OutOfBoundsDatetime)
            _warn_of_empty(name, values, far, "before 1677 or after 2262", "out_of_range_datetime='fail' rejects them")
            return as_dates(column.where(~column.str.strip().isin(far), ""), name, formats, out_of_range)
        except (ValueError, TypeError, OverflowError) as error:
            if number == len(formats) - 1:
                raise UserErrorException(f"column {name}: a value is not a date: {error}") from None
    return column


def _refused(values: Any, convert: Any, errors: Any) -> Any:
    """Return the distinct values that cannot be converted."""
    bad = []
    for text in values.unique():
        try:
            convert(values[values == text].iloc[:1])
        except errors:
            bad.append(text)
    return bad


def _warn_of_empty(name: str, values: Any, bad: Any, why: str, way: str) -> None:
    message = "column {}: {} of {} values are {}, such as {!r}, and become empty; {}"
    notice.warn(message.format(name, int(values.isin(bad).sum()), len(values), why, bad[0], way))


def typed(
    column: Any,
    name: str,
    wanted: Any,
    empty_as_string: bool = False,
    on_error: str = "null",
    out_of_range: str = "null",
) -> Any:
    """Convert a text column to a requested type.

    Args:
        column: a pandas.Series of str.
        name: the column's name, for messages.
        wanted: the `labrun_type` of a `DataType`.
        empty_as_string: as in `inferred`.
        on_error: `null`: values of another type become empty, with a notice; `fail`: they raise.
        out_of_range: as in `inferred`.

    Raises:
        UserErrorException: a value does not have the type, and `on_error` is `fail`.
    """
    try:
        return _typed(column, name, wanted, empty_as_string, out_of_range)
    except OutOfRangeError:
        raise
    except UserErrorException:
        if on_error == "fail":
            raise
        values = column[column != ""]
        bad = _refused(values, lambda texts: _typed(texts, name, wanted), UserErrorException)
        if not bad:  # each value converts on its own, but not all of them together
            raise
    _warn_of_empty(name, values, bad, f"not {wanted['type']}", "on_error='fail' rejects them")
    return _typed(column.where(~column.isin(bad), ""), name, wanted, empty_as_string, out_of_range)


def _typed(column: Any, name: str, wanted: Any, empty_as_string: bool = False, out_of_range: str = "null") -> Any:
    """Convert like `typed` with `on_error="fail"`.

    Raises:
        UserErrorException: a value does not have the type.
    """
    import pandas

    kind = wanted["type"]
    if kind == "string":
        return as_text(column, empty_as_string)
    if kind == "datetime":
        return as_dates(column, name, wanted.get("formats"), out_of_range)
    full = column != ""
    values = column[full].str.strip()
    if kind == "bool":
        words = values.str.lower()
        true, false = (
            [one.lower() for one in wanted.get(key) or other] for key, other in (("true", TRUE), ("false", FALSE))
        )
        bad = ~words.isin([*true, *false])
        if bool(bad.any()):
            raise UserErrorException(f"column {name}: {values[bad].iloc[0]!r} is neither true nor false")
        return _spread(words.isin(true), column, full)
    try:
        numbers = (
            values.astype(object).astype("float64") if kind == "float" else pandas.to_numeric(values.astype(object))
        )
        if kind == "long" and not bool(values.str.match(INTEGER).all()):
            raise ValueError(f"{values[~values.str.match(INTEGER)].iloc[0]!r} is not an integer")
    except (ValueError, TypeError) as error:
        raise UserErrorException(f"column {name}: {error}") from None
    return _spread(numbers.astype("int64" if kind == "long" else "float64"), column, full)
