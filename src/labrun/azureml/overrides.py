"""Conversion of a control script's values to arguments for the `labrun` command (Hydra overrides)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compose.hydra_files import quoted
from labrun.config import exact


def override(key: str, value: Any) -> str:
    """Return `key=value`. A string stays a string, whatever it looks like."""
    return f"{key}={literal(value)}"


def literal(value: Any) -> str:
    """Return a value in Hydra's override grammar.

    Args:
        value: a number, a string, None, or a list or mapping of these; the `${...}` in a `Reference` is not escaped.
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
        return "{" + ",".join(f"{key_of(str(key))}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return sequence(value)
    return quoted(exact.escaped(str(value)))


PLAIN = re.compile(r"[\w/+.$%*@?|-]", re.ASCII)
ESCAPED = frozenset("()[]{}:=, \\\t")


def key_of(name: str) -> str:
    """Return a mapping key in Hydra's override grammar, which allows no quotes there.

    Raises:
        UserErrorException: the name is empty or has a character that Hydra does not allow.
    """
    bad = sorted({letter for letter in name if not PLAIN.match(letter) and letter not in ESCAPED})
    if bad or not name:
        raise UserErrorException(f"{name!r} is not a valid name: {' '.join(bad) or 'an empty name'} is not allowed")
    return "".join(f"\\{letter}" if letter in ESCAPED else letter for letter in name)


def sequence(values: Sequence[Any]) -> str:
    """Return a list in Hydra's override grammar."""
    return "[" + ",".join(literal(value) for value in values) + "]"


class Reference(str):
    """A string whose `${...}` is to be resolved, such as `${mount:cifar10}`."""
