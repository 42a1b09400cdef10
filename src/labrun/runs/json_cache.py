"""Cache in a JSON file, of what can be computed again: the index of runs, the digests of files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from labrun._io import atomic_write
from labrun.runs import context


class JsonCache:
    """Cache in a JSON file. A lost, damaged or foreign file counts as empty, and one that cannot be written is left.

    Args:
        file: the file.
        version: what the entries' layout depends on; a file with another version counts as empty.
    """

    def __init__(self, file: Path, version: Any) -> None:
        self._file, self._version = file, version

    def load(self) -> dict[str, Any]:
        """Return the entries."""
        try:
            content = json.loads(context.content(self._file))
            return dict(content["entries"]) if content["version"] == self._version else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def save(self, entries: dict[str, Any]) -> None:
        """Replace the entries."""
        text = json.dumps({"version": self._version, "entries": entries}, ensure_ascii=False, default=str)
        with contextlib.suppress(OSError):  # a read-only workspace can still be read
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as file:
                file.write(
                    text.encode("utf-8", "backslashreplace")
                )  # which JSON reads as the lone surrogates they were
