"""Moving records into MLflow: what is new of each run, so that sending it twice changes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs import context, store, tracking, viewing
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths

log = logging.getLogger(__name__)

BATCH = 1000
PARAMS_PER_CALL = 100
VALUE_LENGTH = 6000
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow show runs and their curves first, and not what it has for language models."""
STATUS = {
    records.QUEUED: "SCHEDULED",
    records.PREEMPTED: "SCHEDULED",
    records.RUNNING: "RUNNING",
    records.COMPLETED: "FINISHED",
    records.STOPPED: "FINISHED",
    records.FAILED: "FAILED",
    records.CANCELED: "KILLED",
    records.LOST: "FAILED",
    records.UNREACHABLE: "RUNNING",
}


@dataclass
class Sent:
    """What MLflow has of one run already."""

    mlflow_id: str
    experiment: str = ""
    offset: int = 0
    stamp: str = ""
    """Tells `run.json` and what was said of the run since, as they were when last sent, from what they are now."""
    ended: bool = False
    tags: list[str] = field(default_factory=list)


GONE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"})
"""What MLflow says of a run that was deleted."""


class Ingester:
    """Moves records into MLflow.

    Args:
        root: the workspace.
        uri: MLflow's database or server.
    """

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self.uri = uri
        self.client = tracking.connect(root, uri)
        self._local = tracking.is_database(uri)
        self._database = _identity_of(uri)
        self._notes = viewing.notes(root)
        self._experiments: dict[str, str] = {}
        self._sent = self._load()

    def ingest(self) -> int:
        """Send all that is new; returns how many runs had news."""
        run_dirs = list(store.run_dirs(self._root))
        there = set(map(str, run_dirs))
        self._sent = {key: sent for key, sent in self._sent.items() if key in there}
        changed = sum(self._ingest(run_dir) for run_dir in run_dirs)
        if changed:
            self._save()
        return changed

    @property
    def is_lost(self) -> bool:
        """Whether someone deleted the database since."""
        return self._local and self._database != _identity_of(self.uri)

    def one(self, run_dir: Path) -> str:
        """Send what is new of one run; returns the id that MLflow gave it."""
        key = str(run_dir)
        if key in self._sent and not self._lives(self._sent[key].mlflow_id):
            del self._sent[key]
        self._ingest_run(run_dir, _stamp(run_dir))
        return self._sent[key].mlflow_id

    def _ingest(self, run_dir: Path) -> int:
        from mlflow.exceptions import MlflowException

        stamp, sent = _stamp(run_dir), self._sent.get(str(run_dir))
        try:
            size = run_dir.joinpath(context.METRICS_FILE).stat().st_size
        except OSError:
            size = 0
        try:
            known = sent if sent is not None and sent.stamp == stamp and sent.offset >= size else None
            if known and (known.ended or records.read(run_dir).status != records.RUNNING):
                return 0
            try:
                return self._ingest_run(run_dir, stamp)
            except MlflowException as error:
                if error.error_code not in GONE:
                    raise
                log.warning("run in %s: %s", run_dir, error)
                if sent is None or self._lives(sent.mlflow_id):
                    return 0
            del self._sent[str(run_dir)]  # deleted in MLflow, and has news all the same: made again
            return self._ingest_run(run_dir, stamp)
        except RecordError as error:
            log.warning("%s", error)
        return 0

    def _lives(self, mlflow_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(mlflow_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            return False

    def _ingest_run(self, run_dir: Path, stamp: str) -> int:
        record = records.read(run_dir)
        status = records.shown_status(run_dir, record)
        key = str(run_dir)
        over = STATUS[status] not in ("RUNNING", "SCHEDULED")
        sent = self._sent.get(key)
        if sent is not None and over and not sent.ended and self._holds_overtaken(sent, run_dir):
            # MLflow forgets no single value: what was done again is shown as done once by a page made anew.
            self.client.delete_run(sent.mlflow_id)
            sent = None
        if sent is None:
            sent = self._sent[key] = self._run(record, run_dir)
        news = self._send_metrics(sent, run_dir)
        if sent.stamp != stamp:
            self._send_tags(sent, record)
            news = True
        if over:
            if not sent.ended or sent.stamp != stamp:
                self._artifacts(sent.mlflow_id, run_dir)
                self.client.set_terminated(sent.mlflow_id, STATUS[status], end_time=_milliseconds(record.ended))
                news = True
            sent.ended = True
        elif sent.stamp != stamp:
            self.client.update_run(sent.mlflow_id, status=STATUS[status])
            sent.ended = False
        sent.stamp = stamp
        return int(news)

    def _run(self, record: Record, run_dir: Path) -> Sent:
        """The run as MLflow has it; made there if it is not, by one process only."""
        with tracking.making(self._root):
            experiment = self._experiment(record.name)
            found = self.client.search_runs([experiment], f"tags.`labrun.id` = '{record.id}'", max_results=1)
            mlflow_id = str(found[0].info.run_id) if found else self._create(record, run_dir, experiment)
        if not found:
            self._send_params(mlflow_id, record.config)
            self._artifacts(mlflow_id, run_dir)
        return Sent(mlflow_id, experiment)

    def _create(self, record: Record, run_dir: Path, experiment: str) -> str:
        tags = {"labrun.id": record.id, "labrun.folder": str(run_dir), "mlflow.source.name": record.command}
        run = self.client.create_run(
            experiment, start_time=_milliseconds(record.started or record.created), tags=tags,
            run_name=f"{run_dir.parent.name}/{run_dir.name}" if record.sweep else run_dir.name,
        )  # fmt: skip
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            location = None if not self._local else (store.state_folder(self._root) / "mlruns").as_uri()
            if found and found.lifecycle_stage != "active":
                self.client.restore_experiment(found.experiment_id)
            self._experiments[name] = (
                found.experiment_id
                if found
                else self.client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
            )
        return self._experiments[name]

    def _send_params(self, mlflow_id: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(tracking.allowed(key), value[:VALUE_LENGTH]) for key, value in tracking.flat(config)]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self.client.log_batch(mlflow_id, params=params[start : start + PARAMS_PER_CALL])

    def _send_tags(self, sent: Sent, record: Record) -> None:
        from mlflow.entities import RunTag

        tags = dict(record.tags)
        if record.notes:
            tags["mlflow.note.content"] = record.notes
        if record.git:
            tags["mlflow.source.git.commit"] = record.git["commit"]
        for entry in record.data:
            tags[f"labrun.data.{entry['name']}"] = entry["digest"]
        if record.error:
            tags["labrun.error"] = f"{record.error['type']}: {record.error['message']}"[:VALUE_LENGTH]
        named = {tracking.allowed(key): value for key, value in tags.items()}
        self.client.log_batch(sent.mlflow_id, tags=[RunTag(key, value) for key, value in named.items()])
        for gone in set(sent.tags) - set(named):
            self.client.delete_tag(sent.mlflow_id, gone)
        sent.tags = sorted(named)

    def _send_metrics(self, sent: Sent, run_dir: Path) -> bool:
        from mlflow.entities import Metric

        try:
            with open(run_dir / context.METRICS_FILE, "rb") as file:
                file.seek(sent.offset)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return False
        lines = _lines(whole)
        if any(line.get("attempt", 1) > 1 for line in lines):
            counted = {_mark(line) for line in context.read_metrics(run_dir)}
            lines = [line for line in lines if _mark(line) in counted]
        metrics = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                metrics.append(
                    Metric(
                        tracking.allowed(line["name"]),
                        float(line["value"]),
                        int(line["time"] * 1000),
                        int(line["step"]),
                    )
                )
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(sent.mlflow_id, metrics=metrics[start : start + BATCH])
        sent.offset += len(whole)
        return True

    def _holds_overtaken(self, sent: Sent, run_dir: Path) -> bool:
        """Whether values were sent that a newer attempt has overtaken since."""
        counted = context.read_metrics(run_dir)
        if all(line.get("attempt", 1) == 1 for line in counted):
            return False
        try:
            with open(run_dir / context.METRICS_FILE, "rb") as file:
                had = _lines(file.read(sent.offset))
        except OSError:
            return False
        return not {_mark(line) for line in had} <= {_mark(line) for line in counted}

    def _artifacts(self, mlflow_id: str, run_dir: Path) -> None:
        """Show the run's `outputs/`: by a link where MLflow keeps files on this machine, else by sending them."""
        outputs = RunPaths(run_dir).outputs
        if not self._local:
            if outputs.is_dir():
                self.client.log_artifacts(mlflow_id, str(outputs))
            return
        link = store.state_folder(self._root) / "mlruns" / mlflow_id / "artifacts"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(outputs, link.parent), target_is_directory=True)

    def _load(self) -> dict[str, Sent]:
        try:
            content = json.loads(self._notes.read_text(encoding="utf-8"))
            if content["uri"] == self.uri and content["database"] == self.identity():
                return {key: Sent(**value) for key, value in content["runs"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def _save(self) -> None:
        content = {
            "uri": self.uri,
            "database": self.identity(),
            "runs": {key: asdict(value) for key, value in self._sent.items()},
        }
        records.replace_text(self._notes, json.dumps(content))

    def identity(self) -> int:
        """Tells a database from the one that was deleted before it."""
        found = self.client.get_experiment_by_name("Default")
        return int(found.creation_time or 0) if found else 0


def _identity_of(uri: str) -> tuple[int, int]:
    """Tells a database file from one in its place; an empty one is none."""
    try:
        status = os.stat(uri.removeprefix("sqlite:///"))
        return (status.st_ino, status.st_dev) if status.st_size else (0, 0)
    except OSError:
        return (0, 0)


def _stamp(run_dir: Path) -> str:
    """What changes when a run's record does, or what is said of it."""
    found = []
    for path in (RunPaths(run_dir).record, run_dir / context.ANNOTATIONS_FILE):
        try:
            status = path.stat()
            found.append(f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}")
        except OSError:
            found.append("0")
    return ":".join(found)


def _lines(data: bytes) -> list[dict[str, Any]]:
    found = []
    for text in data.splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                found.append(line)
    return found


def _mark(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a value from all others of its run; NaN is no number, and equals nothing."""
    return (line.get("name"), line.get("step"), line.get("time"), line.get("attempt", 1))


def _milliseconds(time_text: str | None) -> int | None:
    return None if time_text is None else int(datetime.fromisoformat(time_text).timestamp() * 1000)
