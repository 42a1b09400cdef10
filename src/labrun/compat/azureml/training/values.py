"""Conversion of a script's values to what labrun stores: numbers, JSON, metric names and file names."""

from __future__ import annotations

import json
import math
import re
from typing import Any


def as_number(value: Any) -> float | None:
    """Return a value as a number (an int stays an int); None if it is not a number.

    Args:
        value: a number, or an array or tensor (NumPy, torch, TensorFlow) of one element. Text is never a number.
    """
    if isinstance(value, (str, bytes, bytearray)) or value is None:
        return None
    try:
        # item() first: NumPy deprecates float() of a one-element array.
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, (str, bytes, complex)):
            return None
        number = float(value)
        return value if type(value) is int else number
    except (TypeError, ValueError, OverflowError, RuntimeError):
        # torch raises a RuntimeError for a tensor of several elements.
        return None


def as_list(value: Any) -> list[Any]:
    """Return an array, tensor or other iterable as a list, and a single value as a list of one."""
    if isinstance(value, (str, bytes)):
        return [value]
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        return list(value)
    except TypeError:
        return [value]


def as_json(value: Any) -> Any:
    """Convert a value to JSON types: arrays to lists, NaN, infinities and unknown objects to strings."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return str(value)


def json_text(value: Any) -> str:
    """Return a value as one line of valid JSON."""
    return json.dumps(as_json(value), ensure_ascii=False, allow_nan=False)


def as_texts(items: dict[str, Any]) -> dict[str, str]:
    """Return a mapping with text for keys and values; None becomes an empty string."""
    return {str(key): "" if value is None else str(value) for key, value in items.items()}


def metric_name(name: Any) -> str:
    """Return a valid metric name: non-printable characters become spaces."""
    return "".join(letter if letter.isprintable() else " " for letter in str(name))


def file_name(name: Any) -> str:
    """Return a safe file name (not hidden, no path, at most 100 characters): `a/b: c` becomes `a_b_ c`."""
    safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", str(name)).strip()
    return re.sub(r"^\.", "_", safe)[:100] or "_"
