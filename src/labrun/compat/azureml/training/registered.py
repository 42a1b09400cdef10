"""Registered models as recorded in the workspace's journal, read with the standard library alone."""

from __future__ import annotations

import json
import re
from typing import Any

from labrun.compat.azureml.exceptions import ModelNameException
from labrun.compat.azureml.notice import notify_once
from labrun.compat.azureml.training import script_context
from labrun.compat.azureml.training.values import as_texts
from labrun.runs import context

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""The same pattern as in `labrun.runs.model_journal`."""
JOURNAL = context.STATE / "registry.jsonl"
"""`Workspace.journal`, whose module a script's own interpreter may be too old to import."""
FRAMEWORK, FRAMEWORK_VERSION = "azureml.model_framework", "azureml.model_framework_version"
"""The properties that hold the SDK's arguments of these names."""


def check_name(name: Any) -> None:
    """Check that a name is a valid model name.

    Raises:
        ModelNameException: it is not.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ModelNameException(
            f"{name!r} is not a valid model name: use 1 to 100 letters, digits, '_', '-' and '.', and begin with a "
            "letter, a digit or '_'"
        )


def lines() -> list[dict[str, Any]]:
    """Return the journal's entries, oldest first, without unreadable lines."""
    found = []
    try:
        text = (script_context.workspace() / JOURNAL).read_text(encoding="utf-8", errors="replace")
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
    """Return the entry of each existing version, in the order of registration."""
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
    """Return the entry of one version; empty if it does not exist."""
    found = [one for one in versions() if one.get("name") == name and one.get("number") == number]
    return found[0] if found else {}


def highest(name: str) -> int:
    """Return the highest version number that a model ever had; 0 for a new model."""
    numbers = [one["number"] for one in lines() if one.get("name") == name and one.get("event") == "register"]
    return max([number for number in numbers if isinstance(number, int)], default=0)


def fits(there: Any, wanted: Any) -> bool:
    """Return whether tags or properties match a filter: a name, a list of names and pairs, or a mapping."""
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
    """Convert the SDK's arguments about a version to the journal's form."""
    own = {FRAMEWORK: framework, FRAMEWORK_VERSION: framework_version}
    return {
        "tags": texts(tags),
        "properties": texts({**(properties or {}), **{key: value for key, value in own.items() if value is not None}}),
        "description": "" if description is None else str(description),
    }


def tell_not_kept(
    call: str, datasets: Any, sample_input_dataset: Any, sample_output_dataset: Any, resource_configuration: Any
) -> None:
    """Print a notice, once, of the arguments about a model that labrun does not store."""
    given = {
        "datasets": datasets,
        "sample_input_dataset": sample_input_dataset,
        "sample_output_dataset": sample_output_dataset,
        "resource_configuration": resource_configuration,
    }
    names = [name for name, value in given.items() if value is not None]
    if names:
        notify_once(f"{call}: not kept: {', '.join(names)}")


def texts(values: Any) -> dict[str, str]:
    """Convert a mapping or a list of names to a mapping of strings; a name without a value gets an empty string."""
    if not hasattr(values, "items"):
        values = {str(one): "" for one in values or ()}
    return as_texts(values)
