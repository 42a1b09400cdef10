"""Checks that samples are purely numeric, as most models need, and that float32 can tell their values apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from labrun.data.arrays import AnyArray
from labrun.data.wording import FILLED, few, option

MAX_LISTED = 5
COARSE = 1e-4
"""Rounding error of float32, as a fraction of a column's range, above which the user is warned."""


def unfit(x: Any, origin: str) -> str | None:
    """Return why models that accept only numbers cannot use these samples; None if they can."""
    if hasattr(x, "iloc"):
        return not_numbers(x, list(x.columns), origin)
    values = x.data if hasattr(x, "indptr") else x
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return None
    return f"{origin}: the samples hold NaN or infinity. Fill them, or leave them out"


def not_numbers(table: Any, features: Sequence[str], where: object) -> str | None:
    """Return a message about text or missing values in the columns; None if all are plain numbers."""
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
            f"{option('ignore', text[:MAX_LISTED])}, convert {them} to numbers, or choose a model that does: "
            "model=pipeline model.preprocess=true"
        )
    gaps = {name: int(table[name].isna().sum()) for name in features if table[name].isna().any()}
    if gaps:
        listed = few([f"{name} ({count})" for name, count in gaps.items()])
        return f"{where}: values are missing in the columns {listed}. {FILLED}"
    return None


def too_close(x: AnyArray, names: Sequence[str]) -> str | None:
    """Return a warning about columns whose values nearly coincide as float32; None if there are none.

    Shapes:
        x: (N, F) finite numbers.
    """
    found = Closeness()
    found.add(x)
    return found.warning(names)


class Closeness:
    """Computes `too_close` for samples that arrive in blocks."""

    def __init__(self) -> None:
        self._lost: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []

    @classmethod
    def of(cls, parts: Iterable[Closeness]) -> Closeness:
        """Combine the results of columns that were checked one by one."""
        made = cls()
        for one in parts:
            made._lost += one._lost or [0.0]
            made._low += one._low or [0.0]
            made._high += one._high or [0.0]
        return made

    def add(self, x: AnyArray) -> None:
        """Take in further samples: (N, F)."""
        if x.dtype.itemsize < 8 or not len(x):
            return
        width = x.shape[1]
        if not self._lost:
            self._lost, self._low, self._high = [0.0] * width, [float("inf")] * width, [float("-inf")] * width
        for place, column in enumerate(x.T):
            self._lost[place] = max(self._lost[place], float(np.abs(column - column.astype(np.float32)).max()))
            self._low[place] = min(self._low[place], float(column.min()))
            self._high[place] = max(self._high[place], float(column.max()))

    def warning(self, names: Sequence[str]) -> str | None:
        """Return the warning for the user, or None."""
        found = []
        for name, lost, low, high in zip(names, self._lost, self._low, self._high, strict=False):
            if lost > COARSE * (high - low) > 0:
                found.append(f"{name} (to within {lost:.2g})")
        if not found:
            return None
        return (
            f"models use single precision, which can hardly tell apart the values of {few(found)}: subtract an offset, "
            "such as the smallest value"
        )
