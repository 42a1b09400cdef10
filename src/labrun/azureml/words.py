"""Values of a control script as words of labrun's command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labrun import exact
from labrun.config.hydra_files import quoted


def word(key: str, value: Any) -> str:
    """`key=value`; a text stays a text, whatever it looks like."""
    return f"{key}={literal(value)}"


def literal(value: Any) -> str:
    """A value as Hydra's grammar has it.

    Args:
        value: a number, a text, None, a list or a mapping of these; a `Reference` is put as it is.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Reference):
        return quoted(str(value))
    if isinstance(value, dict):
        return "{" + ",".join(f"{literal(str(key))}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return sequence(value)
    return quoted(exact.escaped(str(value)))


def sequence(values: Sequence[Any]) -> str:
    """A list as Hydra's grammar has it."""
    return "[" + ",".join(literal(value) for value in values) + "]"


class Reference(str):
    """A text whose `${...}` is meant, as `${mount:cifar10}`."""
