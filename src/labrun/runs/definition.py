"""The `runDefinition` of a script's run, as in the Azure ML SDK v1. Standard library only, since scripts import it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labrun.config import exact


def words(positional: Sequence[Any], arguments: Mapping[str, Any]) -> list[str]:
    """Return a script's command-line words: `--name value`, `--name value value`, `--flag`; `-n` stays as given."""
    found = [_word(value) for value in positional if value is not None]
    for name, value in arguments.items():
        option = name if name.startswith("-") else f"--{name}"
        if value is None or value is False:
            continue
        found.append(option)
        if value is not True:
            found += [_word(item) for item in value] if isinstance(value, list) else [_word(value)]
    return found


def _word(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def arguments(config: Mapping[str, Any]) -> list[str]:
    """Return the command-line words of a config's script as stored in records; empty if the config has no script."""
    script = config.get("script") or {}
    return [exact.shown(word) for word in words(script.get("positional") or [], script.get("arguments") or {})]


def of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a config to the SDK's `runDefinition`."""
    script, compute = config.get("script") or {}, config.get("compute") or {}
    limit = compute.get("timeout_min")
    return {
        "script": script.get("path"),
        "command": exact.shown(script.get("command") or ""),
        "arguments": arguments(config),
        "sourceDirectoryDataStore": None,
        "framework": "Python",
        "communicator": "None",
        "target": compute.get("target"),
        "environment": {"name": script.get("requirements") or script.get("python") or "labrun"},
        "maxRunDurationSeconds": 60 * limit if limit else None,
        "nodeCount": compute.get("nodes", 1),
    }


def utc(text: str | None) -> str | None:
    """Convert a record's time to the SDK's format, `2020-01-31T10:00:00.000000Z`, which scripts parse."""
    if not text or not text.endswith("+00:00"):
        return text
    moment, _, fraction = text[: -len("+00:00")].partition(".")
    return f"{moment}.{fraction[:6]:<06}Z"
