"""A table that comes after the one that a model was trained on: read alike, but for its decimal sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labrun.data.readers.columns import Understood
from labrun.errors import DataError

NAMES = {".": "points", ",": "commas"}


def applied(known: Understood, table: Any, where: object) -> tuple[Any, str, list[str]]:
    """A table's columns as those of the model's own table were read.

    Where its numbers are none with the decimal sign of that table, and all of them are with the other one, it has the
    other one.

    Args:
        known: how the model's own table was read.
        table: a pandas.DataFrame.
        where: it comes from, for messages.

    Returns:
        See `Understood.apply`; the decimal sign; what a person should be told.

    Raises:
        DataError: see `Understood.apply`.
    """
    try:
        return known.apply(table, where), known.decimal, []
    except DataError as first:
        other = "," if known.decimal == "." else "."
        try:
            found = replace(known, decimal=other).apply(table, where)
        except DataError:
            raise first from None
        return found, other, [f"decimal {NAMES[other]}, where the model's own table has {NAMES[known.decimal]}"]
