"""Whether samples are numbers alone, which most models need, and whether single precision tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from labrun.data.arrays import AnyArray
from labrun.data.wording import FILLED, few, option

SHOWN = 5
COARSE = 1e-4
"""A larger share of a column's range that float32 does not tell apart is worth a word."""


def unfit(x: Any, origin: str) -> str | None:
    """Why models that take numbers alone cannot be given these samples; None where they can."""
    if hasattr(x, "iloc"):
        return not_numbers(x, list(x.columns), origin)
    values = x.data if hasattr(x, "indptr") else x
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return None
    return f"{origin}: the samples hold NaN or infinity. Fill them, or leave them out"


def not_numbers(table: Any, features: Sequence[str], where: object) -> str | None:
    """What makes columns more than numbers: text, or gaps; None where nothing does."""
    text = [name for name in features if table[name].dtype.kind not in "biuf"]
    if text:
        import pandas as pd

        values = pd.Series(table[text[0]].dropna().unique(), dtype=object)
        bad = values[pd.to_numeric(values, errors="coerce").isna()]
        example = str(next(iter(bad if len(bad) else values), ""))
        many = len(text) > 1
        which, them = (f"the columns {few(text)} hold", "them") if many else (f"the column {few(text)} holds", "it")
        return (
            f"{where}: {which} text (such as {example!r} in {text[0]!r}); a model needs numbers. Leave {them} out with "
            f"{option('ignore', text[:SHOWN])}, make numbers of {them}, or choose a model that does: model=pipeline "
            "model.preprocess=true"
        )
    gaps = {name: int(table[name].isna().sum()) for name in features if table[name].isna().any()}
    if gaps:
        listed = few([f"{name} ({count})" for name, count in gaps.items()])
        return f"{where}: gaps: values are missing in the columns {listed}. {FILLED}"
    return None


def too_close(x: AnyArray, names: Sequence[str]) -> str | None:
    """Which columns hold values that are hardly told apart once they are float32; None where none does.

    Shapes:
        x: (N, F) finite numbers.
    """
    if x.dtype.itemsize < 8:
        return None
    found = []
    for name, column in zip(names, x.T, strict=True):
        lost = float(np.abs(column - column.astype(np.float32)).max())
        if lost > COARSE * float(column.max() - column.min()) > 0:
            found.append(f"{name} (to within {lost:.2g})")
    if not found:
        return None
    return (
        f"models see single precision, which hardly tells the values apart of {few(found)}: subtract a start, such as "
        "the smallest value"
    )
