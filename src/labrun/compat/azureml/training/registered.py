"""What the workspace's journal says of registered models, read with the standard library alone."""

from __future__ import annotations

import json
import re
from typing import Any

from labrun.compat.azureml.exceptions import ModelNameException
from labrun.compat.azureml.training import place

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""As `labrun.registry.journal` has it."""
JOURNAL = ("outputs", ".labrun", "registry.jsonl")
FRAMEWORK, FRAMEWORK_VERSION = "azureml.model_framework", "azureml.model_framework_version"
"""Properties that hold the SDK's words of these names."""


def check_name(name: Any) -> None:
    """Refuse a name that no model can have, before anything is done with it.

    Raises:
        ModelNameException: it is one.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ModelNameException(
            f"{name!r} cannot name a model: a name has 1 to 100 letters, digits, '_', '-' and '.', and begins with a "
            "letter, a digit or '_'"
        )


def lines() -> list[dict[str, Any]]:
    """The journal's lines, the oldest first; one that cannot be read is left out."""
    found = []
    try:
        text = place.workspace().joinpath(*JOURNAL).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            found.append(content)
    return found


def versions() -> list[dict[str, Any]]:
    """What is said of each version that there is, in the order of their registration."""
    there: dict[Any, dict[str, Any]] = {}
    for line in lines():
        key = (line.get("name"), line.get("number"))
        if line.get("event") == "register":
            there[key] = dict(line)
        elif line.get("event") == "remove":
            there.pop(key, None)
        elif line.get("event") == "describe" and key in there:
            there[key].update({name: line.get(name) for name in ("tags", "properties", "description")})
    return list(there.values())


def of(name: str, number: int) -> dict[str, Any]:
    """What is said of one version; empty where there is none."""
    found = [one for one in versions() if one.get("name") == name and one.get("number") == number]
    return found[0] if found else {}


def highest(name: str) -> int:
    """The highest number that a model ever had; 0 for a new one."""
    numbers = [one["number"] for one in lines() if one.get("name") == name and one.get("event") == "register"]
    return max([number for number in numbers if isinstance(number, int)], default=0)


def fits(there: Any, wanted: Any) -> bool:
    """Whether tags or properties are those that are wanted: a name, a list of names and pairs, or a mapping."""
    there = there or {}
    if not wanted:
        return True
    if isinstance(wanted, str):
        return wanted in there
    pairs = list(wanted.items()) if hasattr(wanted, "items") else list(wanted)
    return all(
        one in there if isinstance(one, str) else str(one[0]) in there and str(there[str(one[0])]) == str(one[1])
        for one in pairs
    )


def about(tags: Any, properties: Any, description: Any, framework: Any, framework_version: Any) -> dict[str, Any]:
    """What the SDK's words tell of a version, as the journal keeps it."""
    own = {FRAMEWORK: framework, FRAMEWORK_VERSION: framework_version}
    return {
        "tags": texts(tags),
        "properties": texts({**(properties or {}), **{key: value for key, value in own.items() if value is not None}}),
        "description": "" if description is None else str(description),
    }


def texts(values: Any) -> dict[str, str]:
    """A mapping of texts; names without a value have an empty one."""
    if not hasattr(values, "items"):
        values = {str(one): "" for one in values or ()}
    return {str(key): "" if value is None else str(value) for key, value in values.items()}
