"""References in a config: `${oc.env:NAME}`, resolved where a run is executed, and `${mount:NAME}`, a path there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from labrun.config import hydra_versions
from labrun.config.instantiate import Node, resolve_references

REFERENCE = re.compile(r"\$\{mount:([^{}]*)\}")
GUARD = "\0"
"""Inserted into an escaped `${mount:`, so that it is not mounted."""
AS_TEXT = re.compile(r"(?<!\\)((?:\\\\)*)\\\$\{mount:")


def guarded(value: Any) -> Any:
    """Return a config's values with each escaped `\\${mount:` marked, so it stays text when others are resolved."""
    if isinstance(value, str):
        return AS_TEXT.sub(rf"\1\\${{{GUARD}mount:", value) if "${mount:" in value else value
    if isinstance(value, Mapping):
        return {key: guarded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [guarded(item) for item in value]
    return value


def resolved(value: Any, path_of: Callable[[str], str]) -> Any:
    """Return a config's values with each `${mount:...}` replaced by its path."""
    if isinstance(value, str):
        found = REFERENCE.sub(lambda match: path_of(match[1].strip()), value)
        return found.replace(f"${{{GUARD}mount:", "${mount:")
    if isinstance(value, Mapping):
        return {key: resolved(item, path_of) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(item, path_of) for item in value]
    return value


def references(value: Any) -> Iterator[str]:
    """Yield every `${mount:...}` in a config's values."""
    if isinstance(value, str):
        yield from (match.strip() for match in REFERENCE.findall(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def keep_mounts() -> None:
    """Make OmegaConf leave `${mount:...}` unresolved: mounts are made on the machine that executes the run."""
    hydra_versions.register_resolver("mount", lambda *parts: "${mount:" + ",".join(str(part) for part in parts) + "}")


def resolve_environment(config: Node) -> dict[str, Any]:
    """Resolve the environment references of a config on this machine. Mounts stay references.

    Raises:
        ConfigError: a referenced environment variable is not set on this machine.
    """
    if "${" not in repr(config):  # OmegaConf need not be imported
        return dict(config)
    keep_mounts()
    return resolve_references(guarded(config))
