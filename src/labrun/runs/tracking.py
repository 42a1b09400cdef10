"""MLflow as a view of the records: fed by one ingester at a time, idempotently, beside the runs.

The run writes only its own directory. An ingester is a small process of its own, so that MLflow's imports (seconds)
never stand in a run's way. It reads run directories and sends what is new; a lock decides who does, the others wait.
What it has sent is noted in `outputs/.labrun/tracking.json` and can be lost: every call to MLflow is one that may be
repeated, and runs are found again by their id.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs import context, store
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths

log = logging.getLogger(__name__)

BATCH = 1000
PARAMS_PER_CALL = 100
VALUE_LENGTH = 6000
INTERVAL_S = 2.0
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


def database_uri(root: Path) -> str:
    """The address of a workspace's own MLflow database."""
    return f"sqlite:///{store.state_folder(root) / 'mlflow.db'}"


def address(root: Path, settings: Mapping[str, Any]) -> str:
    """Where MLflow keeps the view of these runs."""
    return str(settings.get("uri") or database_uri(root))


@contextlib.contextmanager
def follow(root: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Feed MLflow while the work inside goes on, and once more after it.

    Args:
        root: the workspace.
        settings: the config's `tracking`.
    """
    if settings["kind"] == "none":
        yield
        return
    uri = address(root, settings)
    folder = store.state_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "labrun.runs.tracking", str(root), uri]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LABRUN_RUN")}
    with open(folder / "tracking.log", "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=environment
        )
    try:
        yield
    finally:
        # The end of its standard input tells the ingester that the runs are over; a kill of this process does too.
        if process.stdin is not None:
            process.stdin.close()
        if settings.get("wait") and process.wait() != 0:
            log.warning("MLflow at %s could not be fed; %s says why. The records are whole", uri, output.name)


@dataclass
class Sent:
    """What MLflow has of one run already."""

    mlflow_id: str
    offset: int = 0
    stamp: int = 0
    """Modification time of `run.json` when it was last sent, in nanoseconds."""
    ended: bool = False


class Ingester:
    """Moves records into MLflow.

    Args:
        root: the workspace.
        uri: MLflow's database or server.
    """

    def __init__(self, root: Path, uri: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.tracking import MlflowClient

        self._root = root
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._local = uri.startswith("sqlite")
        self._uri = uri
        self._notes = store.state_folder(root) / "tracking.json"
        self._experiments: dict[str, str] = {}
        self._sent = self._load()

    def ingest(self) -> int:
        """Send all that is new; returns how many runs had news."""
        changed = 0
        for run_dir in store.run_dirs(self._root):
            paths = RunPaths(run_dir)
            try:
                stamp = paths.record.stat().st_mtime_ns
                size = paths.root.joinpath(context.METRICS_FILE).stat().st_size
            except OSError:
                stamp, size = paths.record.stat().st_mtime_ns if paths.record.exists() else 0, 0
            sent = self._sent.get(str(run_dir))
            if sent and sent.ended and sent.stamp == stamp and sent.offset >= size:
                continue
            if sent and sent.stamp == stamp and sent.offset >= size and records.read(run_dir).status != records.RUNNING:
                continue
            try:
                changed += self._ingest_run(run_dir, stamp)
            except RecordError as error:
                log.warning("%s", error)
        if changed:
            self._save()
        return changed

    def _ingest_run(self, run_dir: Path, stamp: int) -> int:
        record = records.read(run_dir)
        status = records.shown_status(run_dir, record)
        key = str(run_dir)
        sent = self._sent.get(key)
        if sent is None:
            sent = self._sent[key] = Sent(self._run(record, run_dir))
        news = self._send_metrics(sent, run_dir)
        if sent.stamp != stamp:
            self._send_tags(sent.mlflow_id, record)
            news = True
        if STATUS[status] not in ("RUNNING", "SCHEDULED"):
            if not sent.ended or sent.stamp != stamp:
                self._artifacts(sent.mlflow_id, run_dir)
                self._client.set_terminated(sent.mlflow_id, STATUS[status], end_time=_milliseconds(record.ended))
                news = True
            sent.ended = True
        elif sent.stamp != stamp:
            self._client.update_run(sent.mlflow_id, status=STATUS[status])
        sent.stamp = stamp
        return int(news)

    def _run(self, record: Record, run_dir: Path) -> str:
        experiment = self._experiment(record.name)
        found = self._client.search_runs([experiment], f"tags.`labrun.id` = '{record.id}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {"labrun.id": record.id, "labrun.folder": str(run_dir), "mlflow.source.name": record.command}
        run = self._client.create_run(
            experiment, start_time=_milliseconds(record.started or record.created), tags=tags,
            run_name=f"{run_dir.parent.name}/{run_dir.name}" if record.sweep else run_dir.name,
        )  # fmt: skip
        self._send_params(run.info.run_id, record.config)
        self._artifacts(run.info.run_id, run_dir)
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            location = None if not self._local else (store.state_folder(self._root) / "mlruns").as_uri()
            self._experiments[name] = (
                found.experiment_id if found else self._client.create_experiment(name, artifact_location=location)
            )
        return self._experiments[name]

    def _send_params(self, mlflow_id: str, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_allowed(key), value[:VALUE_LENGTH]) for key, value in flat(config)]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(mlflow_id, params=params[start : start + PARAMS_PER_CALL])

    def _send_tags(self, mlflow_id: str, record: Record) -> None:
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
        self._client.log_batch(mlflow_id, tags=[RunTag(_allowed(key), value) for key, value in tags.items()])

    def _send_metrics(self, sent: Sent, run_dir: Path) -> bool:
        from mlflow.entities import Metric

        path = run_dir / context.METRICS_FILE
        try:
            with open(path, "rb") as file:
                file.seek(sent.offset)
                data = file.read()
        except OSError:
            return False
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return False
        metrics = []
        for text in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                metrics.append(
                    Metric(_allowed(line["name"]), float(line["value"]), int(line["time"] * 1000), int(line["step"]))
                )
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(sent.mlflow_id, metrics=metrics[start : start + BATCH])
        sent.offset += len(whole)
        return True

    def _artifacts(self, mlflow_id: str, run_dir: Path) -> None:
        """Show the run's `outputs/`: by a link where MLflow keeps files on this machine, else by sending them."""
        outputs = RunPaths(run_dir).outputs
        if not self._local:
            if outputs.is_dir():
                self._client.log_artifacts(mlflow_id, str(outputs))
            return
        link = store.state_folder(self._root) / "mlruns" / mlflow_id / "artifacts"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(outputs, link.parent), target_is_directory=True)

    def _load(self) -> dict[str, Sent]:
        try:
            content = json.loads(self._notes.read_text(encoding="utf-8"))
            if content["uri"] == self._uri and content["database"] == self._identity():
                return {key: Sent(**value) for key, value in content["runs"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def _save(self) -> None:
        content = {
            "uri": self._uri,
            "database": self._identity(),
            "runs": {key: asdict(value) for key, value in self._sent.items()},
        }
        records.replace_text(self._notes, json.dumps(content))

    def _identity(self) -> int:
        """Tells a database from the one that was deleted before it."""
        try:
            return os.stat(self._uri.removeprefix("sqlite:///")).st_ino if self._local else 0
        except OSError:
            return 0


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a config under its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _allowed(name: str) -> str:
    """MLflow takes letters, digits, and some signs in names; anything else becomes an underscore."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def _milliseconds(time_text: str | None) -> int | None:
    return None if time_text is None else int(datetime.fromisoformat(time_text).timestamp() * 1000)


def main(root: Path, uri: str) -> None:
    """Feed MLflow until standard input ends, then once more. One at a time; who comes second waits for the first."""
    from filelock import FileLock, Timeout

    with contextlib.suppress(OSError):
        os.nice(10)
    lock = FileLock(store.state_folder(root) / "tracking.lock")
    starter_lives = True
    while starter_lives:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            starter_lives = not _input_ended(1.0)
    with lock:
        ingester = Ingester(root, uri)
        while starter_lives:
            began = time.monotonic()
            ingester.ingest()
            starter_lives = not _input_ended(max(INTERVAL_S, 10 * (time.monotonic() - began)))
        ingester.ingest()


def _input_ended(timeout_s: float) -> bool:
    ready, _, _ = select.select([0], [], [], timeout_s)
    return bool(ready) and not os.read(0, 4096)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(Path(sys.argv[1]), sys.argv[2])
