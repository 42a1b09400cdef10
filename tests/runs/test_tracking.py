"""MLflow as a view: complete, repeatable, rebuilt from the folders alone. Against a real MLflow database."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from helpers import submitted
from labrun.runs import record as records
from labrun.runs import tracking
from labrun.runs.context import RunContext
from labrun.runs.recording import Recording
from labrun.runs.tracking import Ingester


def finished(root: Path, run_id: str, values: list[float]) -> Path:
    run_dir = submitted(root, run_id, config={"model": {"lr": 0.1}, "seed": 1}, tags={"team": "vision"}, notes="a note")
    with Recording(run_dir, capture=False):
        for value in values:
            RunContext(run_dir).log("loss", value, step=values.index(value))
        (run_dir / "outputs" / "curves.png").write_bytes(b"png")
    return run_dir


def client(root: Path):  # type: ignore[no-untyped-def]
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking.database_uri(root))


def runs_of(root: Path):  # type: ignore[no-untyped-def]
    store = client(root)
    return store, store.search_runs([e.experiment_id for e in store.search_experiments()])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outputs" / ".labrun").mkdir(parents=True)
    return tmp_path


def test_a_run_is_shown_whole_and_sending_twice_changes_nothing(root: Path) -> None:
    finished(root, "aaaa0000", [3.0, 2.0, 1.0])
    uri = tracking.database_uri(root)
    assert Ingester(root, uri).ingest() == 1
    assert Ingester(root, uri).ingest() == 0
    (root / "outputs" / ".labrun" / "tracking.json").unlink()
    Ingester(root, uri).ingest()
    store, runs = runs_of(root)
    (run,) = runs
    assert run.info.status == "FINISHED" and run.data.params["model.lr"] == "0.1"
    assert run.data.tags["team"] == "vision" and run.data.tags["mlflow.note.content"] == "a note"
    history = store.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert [file.path for file in store.list_artifacts(run.info.run_id)] == ["curves.png"]


def test_only_whole_new_lines_are_sent(root: Path) -> None:
    run_dir = submitted(root, config={})
    run = RunContext(run_dir)
    run.log("loss", 1.0)
    ingester = Ingester(root, tracking.database_uri(root))
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('{"time": 1.0, "step": 1, ')
        file.flush()
        ingester.ingest()
        file.write('"name": "loss", "value": "NaN", "attempt": 1}\n')
    ingester.ingest()
    store, (shown,) = runs_of(root)
    history = sorted(store.get_metric_history(shown.info.run_id, "loss"), key=lambda point: point.step)
    values = [point.value for point in history]
    assert values[0] == 1.0 and math.isnan(values[1]) and len(values) == 2


def test_the_view_is_rebuilt_from_the_folders(root: Path) -> None:
    finished(root, "aaaa0000", [1.0])
    finished(root, "bbbb0000", [2.0])
    uri = tracking.database_uri(root)
    Ingester(root, uri).ingest()
    (root / "outputs" / ".labrun" / "mlflow.db").unlink()
    Ingester(root, uri).ingest()
    _, runs = runs_of(root)
    assert {run.data.tags["labrun.id"] for run in runs} == {"aaaa0000", "bbbb0000"}


def test_a_damaged_record_does_not_stop_the_others(root: Path) -> None:
    bad = finished(root, "aaaa0000", [1.0])
    finished(root, "bbbb0000", [2.0])
    (bad / "run.json").write_text("{")
    Ingester(root, tracking.database_uri(root)).ingest()
    _, runs = runs_of(root)
    assert [run.data.tags["labrun.id"] for run in runs] == ["bbbb0000"]


def test_two_ingesters_at_once_send_everything_once(root: Path) -> None:
    for number in range(3):
        finished(root, f"{number}aaa0000", [1.0, 0.5])
    command = [sys.executable, "-m", "labrun.runs.tracking", str(root), tracking.database_uri(root)]
    both = [subprocess.Popen(command, stdin=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    store, runs = runs_of(root)
    assert len(runs) == 3
    assert all(len(store.get_metric_history(run.info.run_id, "loss")) == 2 for run in runs)


def test_a_lost_run_is_shown_as_failed(root: Path) -> None:
    run_dir = submitted(root, config={})
    record = records.read(run_dir)
    record.status, record.process = records.RUNNING, {**records.process_identity(), "boot_id": "another"}
    records.write(run_dir, record)
    Ingester(root, tracking.database_uri(root)).ingest()
    _, (run,) = runs_of(root)
    assert run.info.status == "FAILED"


def test_names_that_mlflow_refuses_are_made_fit() -> None:
    assert tracking._allowed("val@[1]/top-5 loss") == "val__1_/top-5 loss"


def test_the_ui_shows_the_run(root: Path) -> None:
    """`mlflow ui` with the address that a run prints: parameters, curve, and the files of `outputs/`."""
    finished(root, "aaaa0000", [3.0, 2.0])
    uri = tracking.database_uri(root)
    Ingester(root, uri).ingest()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def ask(path: str, body: dict[str, object] | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Content-Type": "application/json"})
        if body is not None:
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    try:
        end = time.monotonic() + 120
        while True:
            try:
                ask("/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < end, "the server did not come up"
                time.sleep(0.5)
        _, (run,) = runs_of(root)
        api = "/ajax-api/2.0/mlflow"
        found = json.loads(ask(f"{api}/runs/get?run_id={run.info.run_id}"))["run"]
        assert {"key": "model.lr", "value": "0.1"} in found["data"]["params"]
        history = json.loads(ask(f"{api}/metrics/get-history?run_id={run.info.run_id}&metric_key=loss"))
        assert [point["value"] for point in history["metrics"]] == [3.0, 2.0]
        listing = json.loads(ask(f"{api}/artifacts/list?run_id={run.info.run_id}"))
        assert [file["path"] for file in listing["files"]] == ["curves.png"]
        assert ask(f"/get-artifact?path=curves.png&run_uuid={run.info.run_id}") == b"png"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
