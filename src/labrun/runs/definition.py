"""A script's run as the Azure ML SDK v1 defines one. Standard library only: scripts ask for it, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labrun import exact


def words(positional: Sequence[Any], arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as a script takes them: `--name value`, several values after one name, a flag alone; `-n` as given."""
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


def shown_name(script: Mapping[str, Any]) -> str:
    """What a script is called: its path, or the command in its place."""
    return str(script.get("path") or exact.shown(str(script.get("command"))))


def arguments(config: Mapping[str, Any]) -> list[str]:
    """The words of a config's script, as a record keeps them; none where it has no script."""
    script = config.get("script") or {}
    return [exact.shown(word) for word in words(script.get("positional") or [], script.get("arguments") or {})]


def of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config in the form of the SDK's `runDefinition`."""
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
    """A time of a record as the SDK has it: `2020-01-31T10:00:00.000000Z`, which scripts read by that very form."""
    if not text or not text.endswith("+00:00"):
        return text
    moment, _, fraction = text[: -len("+00:00")].partition(".")
    return f"{moment}.{fraction[:6]:<06}Z"
