"""The keywords that a script gives to the SDK's calls: unknown ones are refused, those without effect reported once."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from labrun.compat.azureml.notice import notify_once


def check(call: Any, unknown: Iterable[str], also: Iterable[str] = ()) -> None:
    """Refuse keywords that a call does not have, except the SDK's private ones, which begin with `_`.

    Args:
        call: the function or method that was called; its parameters are the known keywords.
        unknown: the keywords that are not among its parameters.
        also: further keywords that it knows.

    Raises:
        TypeError: there is such a keyword; the message names the nearest known one.
    """
    refused = [name for name in unknown if not name.startswith("_") and name not in also]
    if refused:
        parameters = inspect.signature(call).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = [one.name for one in parameters if one.kind not in variable and one.name not in ("self", "cls")]
        refuse(call.__qualname__.replace(".__init__", ""), refused[0], [*names, *also])


def refuse(call: str, name: str, known: Iterable[str]) -> None:
    """Raise for a keyword that a call does not have.

    Args:
        call: the call, as the script wrote it.
        name: the keyword.
        known: the keywords that the call has.

    Raises:
        TypeError: always.
    """
    names = [one for one in known if not one.startswith("_")]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    advice = f"Did you mean '{near[0]}'?" if near else "It has: {}".format(", ".join(names) or "none")
    raise TypeError(f"{call}: there is no argument {name}=. {advice}")


def tell_unused(call: str, given: Mapping[str, Any], why: str) -> None:
    """Print a notice, once, of the arguments that were given and have no effect.

    Args:
        call: the call, as the script wrote it.
        given: the arguments by name; one that is None, False or an empty string was not given.
        why: the reason, which follows a colon.
    """
    names = [name for name, value in given.items() if _is_given(value)]
    if names:
        notify_once("{}: {} {} not used: {}".format(call, ", ".join(names), "is" if len(names) == 1 else "are", why))


def _is_given(value: Any) -> bool:
    return not (value is None or value is False or (isinstance(value, str) and not value))
