"""A table that comes after the one that a model was trained on: read alike, but for its decimal sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labrun.data.readers.columns import Understood, decimal_of
from labrun.errors import DoubtfulDecimalError

NAMES = {".": "points", ",": "commas"}


def applied(known: Understood, table: Any, where: object, decimal: str | None = None) -> tuple[Any, str, list[str]]:
    """A table's columns as those of the model's own table were read, its decimal sign found out anew.

    Where nothing in it tells the sign, it has that of the model's own table.

    Args:
        known: how the model's own table was read.
        table: a pandas.DataFrame.
        where: it comes from, for messages.
        decimal: its decimal sign, where that is known.

    Returns:
        See `Understood.apply`; the decimal sign; remarks for the user.

    Raises:
        DataError: see `Understood.apply`.
        DoubtfulDecimalError: it may have either sign, and the model's own table has no thousands that would tell.
    """
    if decimal is not None:
        read = known if decimal == known.decimal else replace(known, decimal=decimal)
        return read.apply(table, where), decimal, []
    found, doubt = decimal_of(known, table, where)
    if doubt is not None and not known.marks_thousands:
        raise DoubtfulDecimalError(doubt)
    if doubt is not None or found in (None, known.decimal):
        return known.apply(table, where), known.decimal, []
    note = f"decimal {NAMES[found]}, where the model's own table has {NAMES[known.decimal]}"
    return replace(known, decimal=found).apply(table, where), found, [note]
