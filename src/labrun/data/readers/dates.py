"""Date formats: detected if unambiguous; otherwise the user is asked."""

from __future__ import annotations

import re
from typing import Any

ISO = "ISO8601"
ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?:[ T].*)?")
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
DAYS = (
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d.%m.%Y",
    "%d.%m.%y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %d %Y",
)
MAY_BE_DATE = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ](?:\d{1,2}|[A-Za-z]{3,9})[-/. ](?:\d{4}|\d{2})"
    r"|[A-Za-z]{3,9} \d{1,2},? \d{4})(?:[ T].*)?"
)
COMPACT_DATE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")


def form_of(name: str, kept: list[str], problems: list[str], where: object) -> str | None:
    """Detect the date format of a column; None if it holds no dates, or if it is ambiguous (a problem is added)."""
    if all(COMPACT_DATE.fullmatch(value) for value in kept) and len(kept) > 2:
        return "%Y%m%d"
    if not kept or not all(MAY_BE_DATE.fullmatch(value) for value in kept):
        return None
    if all(re.match(r"\d{4}-\d{2}-\d{2}(?:[ T]|$)", value) for value in kept) and fits(kept, ISO):
        return ISO
    forms = [day + time for day in DAYS for time in TIMES if fits(kept[:1], day + time)]
    found: dict[str, str] = {}
    for form in forms:
        times = times_of(kept, form)
        if not times.isna().any():
            found.setdefault(str(times.tolist()), form)  # formats with equal results count once
    if len(found) > 1:
        first, second = list(found.values())[:2]
        problems.append(
            f"{where}: the column {name!r} holds dates such as {kept[0]!r}, in which day and month cannot be "
            f"told apart: set 'dataset.dates={{{name}: \"{first}\"}}' or 'dataset.dates={{{name}: \"{second}\"}}'"
        )
        return None
    return next(iter(found.values()), None)


def times_of(values: list[str], form: str) -> Any:
    """Parse texts as times in UTC; NaT where one does not match the format."""
    import pandas as pd

    return pd.to_datetime(pd.Series(values, dtype=object), format=form, errors="coerce", utc=True)


def fits(values: list[str], form: str) -> bool:
    """Return whether all values match a format."""
    return not times_of(values, form).isna().any()
