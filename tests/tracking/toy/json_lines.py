"""A third-party tracker with a line of JSON per run: the example of docs/architecture.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labrun.config.schema import Tracking
from labrun.errors import RecordError
from labrun.runs import context, store
from labrun.runs.record import Record, read_record, replace_text, shown_status
from labrun.tracking.base import LeftOut, ProgressCallback, Session, Tracker


class JsonLines(Tracker):
    """A file with a line per run, rewritten after changes."""

    kind = "json_lines"
    label = "JSON lines"

    def address(self, root: Path, settings: Tracking) -> str:
        """Return the path of the file."""
        return str(settings.uri or root / "runs.jsonl")

    def follows(self, settings: Tracking) -> bool:
        """Return False: the file is written on demand only."""
        return False

    def open(self, root: Path, address: str, everything: bool = False) -> Session:
        """See `Tracker.open`."""
        return Lines(root, Path(address))

    def has_view(self, root: Path) -> bool:
        """Return whether the file exists."""
        return (root / "runs.jsonl").exists()

    def page(self, root: Path, run_dir: Path | None = None) -> str | None:
        """Return the URL of the file, if it has the run."""
        file = root / "runs.jsonl"
        if not file.exists() or not (run_dir is None or json.dumps(str(run_dir)) in file.read_text(encoding="utf-8")):
            return None
        return file.as_uri()

    def shown(self, root: Path, record: Record, run_dir: Path) -> str:
        """Return the command that writes the file."""
        return f"lab runs sync --tracker {self.kind}"


class Lines:
    """See `labrun.tracking.base.Session`."""

    is_lost = False

    def __init__(self, root: Path, file: Path) -> None:
        self._root, self._file, self.left_out = root, file, LeftOut()

    def send(self, progress: ProgressCallback | None, must_end: Callable[[], bool]) -> int:
        """Rewrite the file if any run has changed."""
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        old = {entry["folder"]: entry for entry in map(json.loads, lines)}
        new: dict[str, Any] = {}
        for run_dir in store.run_dirs(self._root):
            key = str(run_dir)
            if must_end():
                new |= {key: old[key]} if key in old else {}
                continue
            try:
                record = read_record(run_dir)
            except RecordError as error:
                self.left_out.add(str(error))
                continue
            status = shown_status(run_dir, record)
            new[key] = {
                "folder": key,
                "id": record.id,
                "status": status,
                "metrics": record.metrics or context.last_values(run_dir),
                "tags": record.tags,
            }
        text = "".join(json.dumps(entry) + "\n" for entry in new.values())
        replace_text(self._file, text)
        return sum(old.get(key) != entry for key, entry in new.items()) + len(set(old) - set(new))
