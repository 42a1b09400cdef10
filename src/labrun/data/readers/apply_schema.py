"""Reading a table for a trained model: the same as the training table, except for the decimal separator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from labrun.data.readers.columns import TableSchema, decimal_of
from labrun.errors import DoubtfulDecimalError

NAMES = {".": "points", ",": "commas"}


def apply_schema(
    known: TableSchema, table: Any, where: object, decimal: str | None = None
) -> tuple[Any, str, list[str]]:
    """Read a table's columns in the same way as the training table, but detect its decimal separator again.

    Without evidence, the separator of the training table applies.

    Args:
        known: how the training table was read.
        table: a pandas.DataFrame.
        where: origin of the table, for messages.
        decimal: its decimal separator, if known.

    Returns:
        See `TableSchema.apply`; the decimal separator; notes for the user.

    Raises:
        DataError: see `TableSchema.apply`.
        DoubtfulDecimalError: both separators are possible, and the training table has no thousands separators to
            decide.
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
