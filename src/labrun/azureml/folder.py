"""Where a workspace of the SDK lies on the disk, and the small tables that labrun keeps for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from labrun._io import atomic_write
from labrun.runs import store


def table_path(folder: Path, name: str) -> Path:
    """The file of a table."""
    return store.state_folder(folder) / "azureml" / f"{name}.json"


def read_table(folder: Path, name: str) -> dict[str, Any]:
    """A table by its keys; empty while there is none."""
    try:
        found = json.loads(table_path(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Inside, no other process changes a table: for what is read, changed and written again.

    A thread that has the lock may take it again.
    """
    path = table_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), is_singleton=True):
        yield


def put(folder: Path, name: str, key: str, value: Mapping[str, Any] | None) -> None:
    """Set an entry of a table, or take it away; several processes may do so at once."""
    change(folder, name, key, lambda _: value)


def change(
    folder: Path, name: str, key: str, changed: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
) -> Mapping[str, Any]:
    """Make an entry of a table of what it is now, under the table's lock.

    Args:
        folder: the workspace's.
        name: the table's.
        key: the entry's.
        changed: is given the entry, empty where there is none, and gives the new one; None takes it away.

    Returns:
        The new entry.
    """
    path = table_path(folder, name)
    with locked(folder, name):
        table = read_table(folder, name)
        value = changed(table.pop(key, {}))
        if value is not None:
            table[key] = dict(value)
        with atomic_write(path) as file:
            file.write((json.dumps(table, indent=2, sort_keys=True, default=str) + "\n").encode())
        path.chmod(0o600)  # an environment's variables may be among it
    return value or {}
