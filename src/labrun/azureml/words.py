"""Values of a control script as words of labrun's command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from labrun import exact
from labrun.compat.azureml.exceptions import UserErrorException
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
        return "{" + ",".join(f"{key_of(str(key))}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return sequence(value)
    return quoted(exact.escaped(str(value)))


PLAIN = re.compile(r"[\w/+.$%*@?|-]", re.ASCII)
ESCAPED = frozenset("()[]{}:=, \\\t")


def key_of(name: str) -> str:
    """A name as Hydra's grammar has it before the colon of a mapping: there are no quotes there.

    Raises:
        UserErrorException: it holds a character that cannot stand there.
    """
    bad = sorted({letter for letter in name if not PLAIN.match(letter) and letter not in ESCAPED})
    if bad or not name:
        raise UserErrorException(f"{name!r} cannot be a name here: {' '.join(bad) or 'an empty text'} is not allowed")
    return "".join(f"\\{letter}" if letter in ESCAPED else letter for letter in name)


def sequence(values: Sequence[Any]) -> str:
    """A list as Hydra's grammar has it."""
    return "[" + ",".join(literal(value) for value in values) + "]"


class Reference(str):
    """A text whose `${...}` is meant, as `${mount:cifar10}`."""
