"""Columns extracted from file paths: `partition_format='/{Department}/{Date:yyyy/MM/dd}/data.csv'`."""

from __future__ import annotations

import datetime
import re
from typing import Any

from labrun.compat.azureml.exceptions import UserErrorException

PARTS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
"""The SDK's date parts, and their `strptime` codes."""
KEY = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
DATE_PART = re.compile("|".join(PARTS))


def check(text: Any) -> str:
    """Return a valid partition format unchanged.

    Raises:
        UserErrorException: it has no keys, repeats a key, or has a date without a known part.
    """
    if not isinstance(text, str) or not KEY.search(text):
        raise UserErrorException(
            f"partition_format={text!r}: name parts of the path in braces: '/{{Team}}/{{Date:yyyy/MM/dd}}/*.csv'"
        )
    names = keys(text)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserErrorException(f"partition_format={text!r}: {twice[0]} appears twice")
    for name, date in KEY.findall(text):
        if date and not DATE_PART.search(date):
            raise UserErrorException(f"partition_format={text!r}: {name}:{date} has none of {', '.join(PARTS)}")
    return text


def keys(text: str) -> list[str]:
    """Return the column names in a format."""
    return [name for name, _ in KEY.findall(text)]


def values(text: str, path: str) -> dict[str, Any]:
    """Return a path's value for each column: a string, or a `datetime`.

    Args:
        text: the format, which describes the end of the path.
        path: the file's path, with slashes.

    Raises:
        UserErrorException: the path does not match the format.
    """
    found = re.search(_pattern(text), "/" + path.lstrip("/"))
    if found is None:
        raise UserErrorException(f"partition_format={text!r}: the end of the path {path!r} does not match it")
    values: dict[str, Any] = {}
    for place, (name, date) in enumerate(KEY.findall(text)):
        part = found.group(f"g{place}")
        values[name] = part if not date else _date(text, date, part)
    return values


def _pattern(text: str) -> str:
    pattern, end = "", 0
    for place, one in enumerate(KEY.finditer(text)):
        pattern += _literal(text[end : one.start()])
        inner = "[^/]+" if not one.group(2) else _digits(one.group(2))
        pattern += f"(?P<g{place}>{inner})"
        end = one.end()
    return ("" if text.startswith("/") else "(?<=/)") + pattern + _literal(text[end:]) + "$"


def _digits(date: str) -> str:
    """Return the regular expression for a date."""
    found, end = "", 0
    for one in DATE_PART.finditer(date):
        found += re.escape(date[end : one.start()]) + (r"\d{4}" if one.group() == "yyyy" else r"\d{2}")
        end = one.end()
    return found + re.escape(date[end:])


def _literal(text: str) -> str:
    """Return the regular expression for the text between keys; `*` matches within a name, `**` across names."""
    return "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", text))


def _date(text: str, date: str, part: str) -> Any:
    known = DATE_PART.sub(lambda one: PARTS[one.group()], date.replace("%", "%%"))
    try:
        return datetime.datetime.strptime(part, known)
    except ValueError as error:
        raise UserErrorException(f"partition_format={text!r}: {part!r} is not a date: {error}") from None


def of_files(partition: Any, files: Any) -> list[dict[str, Any]]:
    """Return each file's partition values.

    Args:
        partition: from a table definition: `format`, and `base`, the folder that the files' names are relative to.
        files: for each file, its local path and its name relative to that folder.
    """
    base = partition["base"].strip("/")
    names = [f"{base}/{shown.lstrip('/')}" if base else path for path, shown in files]
    return [values(partition["format"], name) for name in names]


def add(frame: Any, values: Any) -> None:
    """Add one file's values to its rows, as its first columns."""
    import pandas

    for place, (name, value) in enumerate(values.items()):
        if name in frame.columns:
            raise UserErrorException(f"partition_format: the files already have a column {name}")
        is_date = isinstance(value, datetime.datetime)
        column = pandas.Series([value] * len(frame), index=frame.index, dtype="datetime64[ns]" if is_date else object)
        frame.insert(place, name, column)


def different(partition: Any, files: Any, names: Any) -> list[dict[str, Any]]:
    """Return the distinct values of some columns, in the order of the files.

    Raises:
        UserErrorException: a name is not a key of the format.
    """
    there = keys(partition["format"]) if partition else []
    wanted = list(names or there)
    unknown = [name for name in wanted if name not in there]
    if unknown or not there:
        raise UserErrorException(
            "get_partition_key_values: {} is not a key of partition_format; the keys are: {}".format(
                ", ".join(map(str, unknown)) or "nothing", ", ".join(there) or "none"
            )
        )
    found = [{name: values[name] for name in wanted} for values in of_files(partition, files)]
    return [one for place, one in enumerate(found) if one not in found[:place]]
