"""Values of scripts as labrun keeps them: numbers as metrics, all else as JSON; and names that files can have."""

from __future__ import annotations

import json
import math
import re
from typing import Any


def as_number(value: Any) -> float | None:
    """A value as a number, a whole one as an int, or None if it is none.

    Args:
        value: a number, or an array or tensor (NumPy, torch, TensorFlow) of one element. Text is never a number.
    """
    if isinstance(value, (str, bytes, bytearray)) or value is None:
        return None
    try:
        # First: float() of an array of one element is deprecated in NumPy.
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, (str, bytes, complex)):
            return None
        number = float(value)
        return value if type(value) is int else number
    except (TypeError, ValueError, OverflowError, RuntimeError):
        # What torch raises for a tensor of several elements is a RuntimeError.
        return None


def as_list(value: Any) -> list[Any]:
    """An array, tensor or any iterable as a list; a single value as a list of one."""
    if isinstance(value, (str, bytes)):
        return [value]
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        return list(value)
    except TypeError:
        return [value]


def as_json(value: Any) -> Any:
    """A value made of what JSON has: arrays as lists, NaN and infinities as text, anything strange as its text."""
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
    """One line of JSON, valid whatever the script gave."""
    return json.dumps(as_json(value), ensure_ascii=False, allow_nan=False)


def metric_name(name: Any) -> str:
    """A name as metrics may have it: without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(name))


def file_name(name: Any) -> str:
    """A name as a file's: `Error/train: all` becomes `Error_train_ all`; never hidden, never a path, never too long."""
    safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", str(name)).strip()
    return re.sub(r"^\.", "_", safe)[:100] or "_"
