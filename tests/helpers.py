"""What several test files need."""

from __future__ import annotations

from pathlib import Path

from labrun.runs import record as records
from labrun.runs import recording
from labrun.runs.record import Record


def new(run_id: str = "abcd1234", **values: object) -> Record:
    plain = {"id": run_id, "name": "test", "task": "fit", "status": records.QUEUED, "created": records.now()}
    return Record(**{**plain, "config": {"trainer": {}}, **values})  # type: ignore[arg-type]


def submitted(tmp_path: Path, run_id: str = "abcd1234", **values: object) -> Path:
    run_dir = tmp_path / "outputs" / "test" / f"now-{run_id}"
    recording.create(run_dir, new(run_id, **values))
    return run_dir
