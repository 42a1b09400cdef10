"""Converts runs of the workspace to MLflow's format, for MLflow in a control program or a script."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from labrun.runs import context
from labrun.runs.metric_line import MetricLine
from labrun.runs.record import CANCELED, COMPLETED, FAILED, LOST, QUEUED, STOPPED, Record
from labrun.runs.status import Status

Answer = dict[str, Any]
STATUSES: dict[Status, str] = {
    COMPLETED: "FINISHED",
    FAILED: "FAILED",
    LOST: "FAILED",
    CANCELED: "KILLED",
    STOPPED: "KILLED",
    QUEUED: "SCHEDULED",
}
"""MLflow's statuses for labrun's; any other status means that the run is in progress."""


def shown(run_dir: Path, record: Record, status: Status, run_id: str, experiment_id: str) -> Answer:
    """Convert a run.

    Args:
        run_dir: its folder.
        record: its record.
        status: its status in labrun.
        run_id: its ID in MLflow.
        experiment_id: the ID of its experiment in MLflow.
    """
    info = {
        "run_id": run_id,
        "run_uuid": run_id,
        "run_name": record.tags.get("display_name") or run_dir.name,
        "experiment_id": experiment_id,
        "user_id": "labrun",
        "status": STATUSES.get(status, "RUNNING"),
        "start_time": _moment(record.started or record.created),
        "artifact_uri": (run_dir / "outputs").as_uri(),
        "lifecycle_stage": "active",
    }
    if record.ended:
        info["end_time"] = _moment(record.ended)
    last = {line["name"]: line for line in context.read_metrics(run_dir)}
    try:
        params = json.loads((run_dir / "logs" / "mlflow_params.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        params = {}
    pairs = {"params": params, "tags": record.tags}
    listed = {kind: [{"key": k, "value": str(v)} for k, v in found.items()] for kind, found in pairs.items()}
    return {"info": info, "data": {"metrics": [_metric(line) for line in last.values()], **listed}}


def history(run_dir: Path, metric: str) -> Answer:
    """Return every value of a metric."""
    return {"metrics": [_metric(line) for line in context.read_metrics(run_dir) if line["name"] == metric]}


def _metric(line: MetricLine) -> Answer:
    moment = int(float(line["time"]) * 1000)
    return {"key": line["name"], "value": line["value"], "step": line["step"], "timestamp": moment}


def _moment(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
