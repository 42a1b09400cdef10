"""The small JSON tables that labrun keeps for an SDK workspace, in the workspace's state folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from labrun._io import atomic_write
from labrun.runs.workspace import Workspace


def table_path(folder: Path, name: str) -> Path:
    """Return the path of a table's file."""
    return Workspace(folder).azureml / f"{name}.json"


def read_table(folder: Path, name: str) -> dict[str, Any]:
    """Return a table's entries by key; empty if the table does not exist."""
    try:
        found = json.loads(table_path(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a table's lock, so that no other process changes the table during a read-modify-write.

    The lock is reentrant within a thread.
    """
    from filelock import FileLock  # here: it imports asyncio, and most programs only read tables

    path = table_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), is_singleton=True):
        yield


def put(folder: Path, name: str, key: str, value: Mapping[str, Any] | None) -> None:
    """Set an entry of a table, or remove it if `value` is None. Safe against concurrent processes."""
    change(folder, name, key, lambda _: value)


def change(
    folder: Path, name: str, key: str, changed: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
) -> Mapping[str, Any]:
    """Update one entry of a table under the table's lock.

    Args:
        folder: the workspace's folder.
        name: the table's name.
        key: the entry's key.
        changed: maps the current entry (empty if there is none) to the new one; None removes the entry.

    Returns:
        The new entry; empty if it was removed.
    """
    path = table_path(folder, name)
    with locked(folder, name):
        table = read_table(folder, name)
        value = changed(table.pop(key, {}))
        if value is not None:
            table[key] = dict(value)
        with atomic_write(path) as file:
            file.write((json.dumps(table, indent=2, sort_keys=True, default=str) + "\n").encode())
        path.chmod(0o600)  # the table may hold an environment's variables
    return value or {}
