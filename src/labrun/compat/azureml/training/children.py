"""The folders and records of child runs, which run in, and are written by, the process of their parent's script."""

from __future__ import annotations

import json
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from labrun._io import atomic_write
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import script_context, values
from labrun.runs import child_list, context

ASSIGNED = "labrun assigns the id, run.id"
"""Why a run's requested id is not used."""
DISPLAY_NAME = "display_name"
"""The tag that holds a run's display name."""
TASK = "program"
COPIED = ("name", "host", "packages", "git", "code", "job", "process", "format")
"""The keys of a parent's record that are copied to its children."""


def begin(run_dir: Path, name: Any = None, tags: Any = None) -> Path:
    """Start a child run and return its folder.

    Args:
        run_dir: the parent's folder.
        name: the child's display name.
        tags: the child's tags.
    """
    above = script_context.record(run_dir)
    new = uuid.uuid4().hex
    own = "abcdef"[int(new[0], 16) % 6] + new[1:8]
    folder = (
        script_context.workspace() / "outputs" / str(above.get("name")) / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{own}"
    )
    for below in ("outputs", "logs", "requests", "attempts"):
        (folder / below).mkdir(parents=True)
    (folder / "attempts" / "1").touch()
    now = _now()
    shown = {DISPLAY_NAME: str(name)} if name is not None else {}
    record = {
        **{key: above[key] for key in COPIED if key in above},
        "id": own,
        "task": TASK,
        "status": "running",
        "created": now,
        "started": now,
        "parent": above.get("id"),
        "tags": {**shown, **values.as_texts(tags or {})},
        "config": {"task": TASK},
        "attempts": [{"number": 1, "started": now, "status": "running", "process": above.get("process")}],
    }
    _write(folder, record)
    child_list.add(script_context.workspace(), run_dir, folder)
    return folder


def tags_of(count: Any, tag_key: Any, tag_values: Any) -> list[dict[str, Any]]:
    """Return the tags of each new child run: for `count` runs, or for one run per value of a tag.

    Raises:
        UserErrorException: neither or both were given.
    """
    if (count is None) == (tag_key is None or tag_values is None):
        raise UserErrorException("create_children: give either count, or tag_key and tag_values")
    return [{}] * int(count) if count is not None else [{tag_key: value} for value in tag_values]


def close(run_dir: Path, status: str, message: str | None = None) -> None:
    """Write the end of a child run into its record; a record that has already ended does not change."""
    record = _read(run_dir)
    if record.get("status") != "running":
        return
    now = _now()
    record["status"], record["ended"] = status, now
    record["duration_s"] = max(0.0, (_time(now) - _time(record["started"])).total_seconds())
    record["attempts"][-1].update(ended=now, status=status)
    record["metrics"] = {
        name: value if abs(value) < float("inf") else str(value) for name, value in context.last_values(run_dir).items()
    }
    if message is not None:
        kind = "Canceled" if status == "canceled" else "RunFailedError"
        record["error"] = {"type": kind, "message": message, "traceback": ""}
    _write(run_dir, record)


def folders(root: Path, run_dir: Path) -> list[Path]:
    """Return the folders of a run's child runs and sweeps, oldest first."""
    found = [root / name for name in child_list.read(run_dir)]
    return [one for one in found if (one / "run.json").is_file() or (one / context.LAUNCH).is_dir()]


def _read(run_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(run_dir: Path, record: dict[str, Any]) -> None:
    with atomic_write(run_dir / "run.json") as file:
        file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def _now() -> str:
    # Microseconds, because children are sorted by time and a script can start several in one millisecond.
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")  # noqa: UP017 (Python 3.6)


def _time(text: str) -> datetime:
    # `fromisoformat` came with Python 3.7.
    return datetime.strptime(text[:23], "%Y-%m-%dT%H:%M:%S.%f")
