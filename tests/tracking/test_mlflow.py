"""MLflow as a view: complete, idempotent, rebuilt from the folders alone. With a real MLflow database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from helpers import copy_database, mlflow_sync, submitted, wait_for
from labrun.config.schema import Tracking
from labrun.errors import RecordError
from labrun.runs import context
from labrun.runs.context import RunContext
from labrun.runs.record import COMPLETED, RUNNING, process_identity, read_record, timestamp, write_record
from labrun.runs.recording import Recording
from labrun.runs.workspace import Workspace
from labrun.tracking import feed
from labrun.tracking.mlflow import client as mlflow_client
from labrun.tracking.mlflow import ui_state
from labrun.tracking.mlflow.ingester import Ingester
from labrun.tracking.mlflow.tracker import MLflow
from servers import free_port


def finished(root: Path, run_id: str, values: list[float], name: str = "test") -> Path:
    config = {"model": {"lr": 0.1}, "seed": 1}
    run_dir = submitted(root, run_id, name=name, config=config, tags={"team": "vision"}, notes="a note")
    with Recording(run_dir, capture=False):
        for value in values:
            RunContext(run_dir).log("loss", value, step=values.index(value))
        (run_dir / "outputs" / "curves.png").write_bytes(b"png")
    return run_dir


def client(root: Path, uri: str | None = None):  # type: ignore[no-untyped-def]
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri or mlflow_client.database_uri(root))


def runs_of(root: Path):  # type: ignore[no-untyped-def]
    store = client(root)
    return store, store.search_runs([e.experiment_id for e in store.search_experiments()])


@pytest.fixture
def root(tmp_path: Path, empty_mlflow: Path, read_migrations_once: None) -> Path:
    """A workspace in which nothing has run yet."""
    copy_database(empty_mlflow, tmp_path)
    return tmp_path


def test_a_run_is_shown_completely_and_sending_it_again_changes_nothing(root: Path) -> None:
    finished(root, "aaaa0000", [3.0, 2.0, 1.0])
    uri = mlflow_client.database_uri(root)
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


def test_system_metrics_of_every_attempt_are_shown(root: Path) -> None:
    run_dir = finished(root, "aaaa0000", [3.0])
    RunContext(run_dir, attempt=2).log("loss", 2.0, step=1)
    for attempt, step in ((1, 1), (1, 11), (2, 21)):
        context.log_system(run_dir, attempt, step, {"system/cpu": 0.5})
    uri = mlflow_client.database_uri(root)
    assert Ingester(root, uri).ingest() == 1 and Ingester(root, uri).ingest() == 0
    store, (run,) = runs_of(root)
    assert [point.step for point in store.get_metric_history(run.info.run_id, "system/cpu")] == [1, 11, 21]


def test_only_whole_new_lines_are_sent(root: Path) -> None:
    run_dir = submitted(root, config={})
    run = RunContext(run_dir)
    run.log("loss", 1.0)
    ingester = Ingester(root, mlflow_client.database_uri(root))
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


def test_a_damaged_record_does_not_stop_the_others(root: Path) -> None:
    bad = finished(root, "aaaa0000", [1.0])
    finished(root, "bbbb0000", [2.0])
    (bad / "run.json").write_text("{")
    Ingester(root, mlflow_client.database_uri(root)).ingest()
    _, runs = runs_of(root)
    assert [run.data.tags["labrun.id"] for run in runs] == ["bbbb0000"]


def test_two_concurrent_feeders_send_everything_once(root: Path) -> None:
    for number in range(3):
        finished(root, f"{number}aaa0000", [1.0, 0.5])
    ended, uri = threading.Event(), mlflow_client.database_uri(root)
    ended.set()
    mistakes: list[Exception] = []
    both = [threading.Thread(target=feed.feed, args=(root, MLflow(), uri, ended, mistakes.append)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(120)
    store, runs = runs_of(root)
    assert len(runs) == 3 and mistakes == []
    assert all(len(store.get_metric_history(run.info.run_id, "loss")) == 2 for run in runs)


def test_a_lost_run_is_shown_as_failed(root: Path) -> None:
    run_dir = submitted(root, config={})
    record = read_record(run_dir)
    record.status, record.process = RUNNING, dataclasses.replace(process_identity(), boot_id="another")
    write_record(run_dir, record)
    Ingester(root, mlflow_client.database_uri(root)).ingest()
    _, (run,) = runs_of(root)
    assert run.info.status == "FAILED"


def running(root: Path, run_id: str = "aaaa0000") -> Path:
    run_dir = submitted(root, run_id, config={})
    record = read_record(run_dir)
    record.status, record.process = RUNNING, process_identity()
    write_record(run_dir, record)
    return run_dir


def ended(run_dir: Path, status: str = COMPLETED) -> None:
    record = read_record(run_dir)
    record.status, record.ended = status, timestamp()
    write_record(run_dir, record)


def test_steps_repeated_by_a_newer_attempt_are_shown_once(root: Path) -> None:
    """As in the record, even if the older attempt's values were sent before the newer one began."""
    run_dir = running(root)
    first = RunContext(run_dir, attempt=1)
    for step in range(6):
        first.log("loss", 10.0 - step, step)
    ingester = Ingester(root, mlflow_client.database_uri(root))
    ingester.ingest()
    second = RunContext(run_dir, attempt=2)
    for step in range(3, 8):
        second.log("loss", 1.0 - step, step)
    ingester.ingest()
    ended(run_dir)
    ingester.ingest()
    wanted = [(line["step"], line["value"]) for line in context.read_metrics(run_dir)]
    assert len(wanted) == 8
    again = root / "outputs" / ".labrun" / "tracking.json"
    for _ in range(2):
        shown, (run,) = runs_of(root)
        history = shown.get_metric_history(run.info.run_id, "loss")
        assert sorted((point.step, point.value) for point in history) == wanted
        again.unlink()
        Ingester(root, mlflow_client.database_uri(root)).ingest()


def test_overtaken_values_that_were_not_sent_are_never_sent(root: Path) -> None:
    run_dir = running(root)
    for attempt, steps in ((1, range(4)), (2, range(2, 5))):
        for step in steps:
            RunContext(run_dir, attempt).log("loss", 10.0 * attempt + step, step)
    Ingester(root, mlflow_client.database_uri(root)).ingest()
    shown, (run,) = runs_of(root)
    history = shown.get_metric_history(run.info.run_id, "loss")
    assert sorted((p.step, p.value) for p in history) == [(0, 10.0), (1, 11.0), (2, 22.0), (3, 23.0), (4, 24.0)]


def test_tags_and_notes_changed_after_the_end_are_shown(root: Path) -> None:
    run_dir = finished(root, "aaaa0000", [1.0])
    ingester = Ingester(root, mlflow_client.database_uri(root))
    ingester.ingest()
    context.annotate(run_dir, tags={"kind": "paper"}, untag=["team"], note="table 2")
    assert ingester.ingest() == 1 and ingester.ingest() == 0
    _, (run,) = runs_of(root)
    assert run.data.tags["kind"] == "paper" and run.data.tags["mlflow.note.content"] == "table 2"
    assert "team" not in run.data.tags and run.info.status == "FINISHED"


def test_a_removed_run_is_deleted_in_mlflow_and_a_restored_one_is_new(root: Path) -> None:
    run_dir = finished(root, "aaaa0000", [1.0])
    finished(root, "bbbb0000", [1.0])
    assert mlflow_sync(root).news == 2
    shutil.copytree(run_dir, root / "kept")
    shutil.rmtree(run_dir)
    feed.forget(root, [("aaaa0000", run_dir)])
    mlflow_sync(root)
    assert [run.data.tags["labrun.id"] for run in runs_of(root)[1]] == ["bbbb0000"]
    shutil.copytree(root / "kept", run_dir)
    mlflow_sync(root)
    assert sorted(run.data.tags["labrun.id"] for run in runs_of(root)[1]) == ["aaaa0000", "bbbb0000"]


def test_forgetting_without_a_database_notes_nothing(root: Path) -> None:
    mlflow_client.database_path(root).unlink()
    feed.forget(root, [("aaaa0000", root / "outputs" / "test" / "now-aaaa0000")])
    assert list(Workspace(root).state.iterdir()) == []


def test_a_run_deleted_in_mlflow_stays_so_until_it_has_news(root: Path) -> None:
    run_dir = finished(root, "aaaa0000", [1.0])
    ingester = Ingester(root, mlflow_client.database_uri(root))
    ingester.ingest()
    shown, (run,) = runs_of(root)
    shown.delete_run(run.info.run_id)
    assert ingester.ingest() == 0 and runs_of(root)[1] == []
    context.annotate(run_dir, tags={"kind": "paper"})
    ingester.ingest()
    ingester.ingest()
    (run,) = runs_of(root)[1]
    assert run.data.tags["kind"] == "paper"


def test_sync_counts_news_and_recreates_a_deleted_database(root: Path, no_migrations: None) -> None:
    finished(root, "aaaa0000", [1.0])
    finished(root, "bbbb0000", [2.0])
    assert mlflow_sync(root).news == 2
    assert mlflow_sync(root).news == 0
    mlflow_client.database_path(root).unlink()
    assert mlflow_sync(root).news == 2
    assert sorted(run.data.tags["labrun.id"] for run in runs_of(root)[1]) == ["aaaa0000", "bbbb0000"]


@contextlib.contextmanager
def fed(root: Path) -> Iterator[None]:
    """The view is fed meanwhile, as by `lab ui`."""
    ended, mistakes = threading.Event(), []
    feeding = threading.Thread(
        target=feed.feed, args=(root, MLflow(), mlflow_client.database_uri(root), ended, mistakes.append), daemon=True
    )
    feeding.start()
    try:
        wait_for(lambda: ui_state.notes(root).exists(), 120)
        yield
    finally:
        ended.set()
        feeding.join(120)
    assert mistakes == []


def test_a_database_that_is_deleted_while_it_is_fed_is_recreated(root: Path, no_migrations: None) -> None:
    finished(root, "aaaa0000", [1.0])
    with fed(root):
        before = ui_state.notes(root).stat().st_mtime_ns
        mlflow_client.database_path(root).unlink()
        wait_for(lambda: ui_state.notes(root).stat().st_mtime_ns != before, 120)
        assert len(runs_of(root)[1]) == 1


def test_sync_leaves_the_work_to_a_running_feeder(root: Path) -> None:
    finished(root, "aaaa0000", [1.0])
    with fed(root):
        finished(root, "bbbb0000", [2.0])
        assert mlflow_sync(root).news == 1
        assert len(runs_of(root)[1]) == 2
        enough = threading.Event()
        enough.set()
        feed.feed(
            root, MLflow(), mlflow_client.database_uri(root), enough, failed=pytest.fail
        )  # nor does another wait its turn
    lock = feed._lock(root, MLflow(), "sqlite:////nowhere/else.db")
    with lock, pytest.raises(RecordError, match="another process of this workspace feeds MLflow"):
        mlflow_sync(root, "sqlite:////nowhere/else.db", patience_s=0.5)


def of_server(address: str, run_id: str):  # type: ignore[no-untyped-def]
    """Return the run on a server; None if it has none."""
    there = client(Path(), address)
    runs = there.search_runs([e.experiment_id for e in there.search_experiments()], f"tags.`labrun.id` = '{run_id}'")
    return runs[0] if runs else None


def test_a_server_has_the_run_when_its_command_ends(root: Path, mlflow_server: str) -> None:
    """With tracking.wait=true. The feeder has low priority, which can take minutes on a busy machine; this does not."""
    run_dir = running(root, "5e70aaaa")
    os.environ["SERVER"] = mlflow_server  # a record has the reference
    with feed.follow(root, Tracking.of({"kind": "mlflow", "uri": "${oc.env:SERVER}", "wait": True})):
        run = RunContext(run_dir)
        run.log("loss", 1.0)
        run.log("odd@name", 2.0)
        (run_dir / "outputs" / "deep").mkdir(parents=True)
        (run_dir / "outputs" / "deep" / "model.bin").write_bytes(b"model")
        os.mkfifo(run_dir / "outputs" / "pipe")
        (run_dir / "outputs" / "gone").symlink_to("/nowhere/at/all")
        ended(run_dir)
    shown = of_server(mlflow_server, "5e70aaaa")
    assert shown.info.status == "FINISHED" and shown.data.metrics["loss"] == 1.0 and len(shown.data.metrics) == 2
    assert [file.path for file in client(root, mlflow_server).list_artifacts(shown.info.run_id, "deep")] == [
        "deep/model.bin"
    ]
    log = (Workspace(root).tracking_log).read_text()
    assert "outputs/pipe: it is not a file" in log and "outputs/gone: " in log and "Traceback" not in log
    assert runs_of(root)[1] == [], "the workspace's own view is not fed"


def test_a_server_that_is_down_neither_delays_a_run_nor_loses_it(root: Path, mlflow_server: str) -> None:
    began = time.monotonic()
    with feed.follow(root, Tracking("mlflow", f"http://127.0.0.1:{free_port()}")):
        finished(root, "d077aaaa", [1.0])
    assert time.monotonic() - began < 5
    (feeder,) = (one for one in psutil.Process().children() if str(root) in one.cmdline())
    feeder.kill()  # it would import MLflow, only to find that nothing answers
    assert mlflow_sync(root, mlflow_server).news == 1 and mlflow_sync(root, mlflow_server).news == 0
    assert of_server(mlflow_server, "d077aaaa").info.status == "FINISHED"
    assert mlflow_sync(root).news == 1, "what one of them has says nothing of the other"


class Relay:
    """Passes bytes on to a server, until it is cut."""

    def __init__(self, address: str) -> None:
        self._to = urllib.parse.urlsplit(address)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection((str(self._to.hostname), int(self._to.port or 0)))
                self._open += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_a_server_that_stops_during_a_sync_loses_nothing(root: Path, mlflow_server: str) -> None:
    """The sync reports that the server is gone, leaves nothing out, and later knows what the server has received."""
    for number in range(5):
        finished(root, f"5e77{number:04d}", [1.0])
    relay = Relay(mlflow_server)

    def heard(done: int, total: int) -> None:
        if done == 2:
            relay.cut()

    with pytest.raises(RecordError, match=f"MLflow at {relay.address} refused"):
        mlflow_sync(root, relay.address, progress=heard)
    notes = json.loads(mlflow_client.kept(root, "tracking", relay.address).read_text())
    assert len(notes["runs"]) == 2 and not any(one["left_out"] for one in notes["runs"].values())
    there = [of_server(mlflow_server, f"5e77{number:04d}") for number in range(5)]
    assert [run.info.status for run in there if run] == ["FINISHED"] * 2


def test_an_unusable_database_is_retried(root: Path, empty_mlflow: Path) -> None:
    own, done, ended = root / "own.db", threading.Event(), threading.Event()
    own.write_bytes(b"no database at all" * 1000)
    finished(root, "aaaa0000", [1.0])
    mistakes: list[Exception] = []

    def failed(error: Exception) -> None:
        mistakes.append(error)
        shutil.copy(empty_mlflow, own)

    feeding = threading.Thread(
        target=feed.feed,
        args=(root, MLflow(), f"sqlite:///{own}", ended, failed),
        kwargs={"done": lambda fed: done.set()},
    )
    feeding.start()
    assert done.wait(120)
    ended.set()
    feeding.join(60)
    assert len(mistakes) == 1 and "file is not a database" in str(mistakes[0])
    assert len(client(root, f"sqlite:///{own}").search_runs(["1"])) == 1


def test_runs_start_no_process_for_the_workspaces_own_view(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, children = sorted(root.rglob("*")), psutil.Process().children()
    for settings in (Tracking("mlflow"), Tracking("none"), Tracking("mlflow", wait=True)):
        with feed.follow(root, settings):
            assert psutil.Process().children() == children
    assert sorted(root.rglob("*")) == before and "tracking.wait=true waits for the server" in caplog.text


def test_processes_that_open_a_new_database_create_one(
    tmp_path: Path, empty_mlflow: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, other = tmp_path / "here", tmp_path / "other"
    copy_database(empty_mlflow, other)
    mlflow_client.connect(other, mlflow_client.database_uri(other))  # the forks have MLflow loaded then
    uri, folder = mlflow_client.database_uri(root), Workspace(root).state
    folder.mkdir(parents=True)
    folder.joinpath(".mlflow.db.new").write_bytes(b"half a database, from a process that was killed")
    capfd.readouterr()
    hold, go = os.pipe()
    children = []
    for _ in range(5):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(go)
            os.read(hold, 1)  # until all are there
            _open_and_end(root, uri)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5, capfd.readouterr().err
    os.close(hold)
    assert capfd.readouterr() == ("", ""), "MLflow says nothing"
    finished(root, "aaaa0000", [1.0])
    assert mlflow_sync(root).news == 1 and len(runs_of(root)[1]) == 1


def _open_and_end(root: Path, uri: str) -> NoReturn:
    """Open the database, and end this fork of the test's process."""
    code = 1
    try:
        mlflow_client.connect(root, uri)
        code = 0
    except Exception:  # noqa: BLE001 - shown by the test
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def test_a_damaged_database_is_one_message(root: Path) -> None:
    mlflow_client.database_path(root).write_bytes(b"no database at all" * 1000)
    with pytest.raises(RecordError, match=r"(?s)mlflow\.db refused: .*lab runs sync"):
        mlflow_sync(root)


def test_a_workspace_that_is_not_utf8_is_refused_by_mlflow() -> None:
    root = Path("/tmp/caf\udce9")
    with pytest.raises(RecordError, match=r"the path of the workspace, /tmp/caf\\udce9, is not UTF-8"):
        mlflow_client.connect(root, mlflow_client.database_uri(root))


def test_the_address_of_a_runs_page_is_known_while_a_ui_runs(root: Path) -> None:
    run_dir = finished(root, "aaaa0000", [1.0])
    mlflow_sync(root)
    assert ui_state.ui_address(root) is None and ui_state.page(root, run_dir) is None
    ui_state.publish_address(root, "http://127.0.0.1:5999")
    _, (run,) = runs_of(root)
    wanted = f"http://127.0.0.1:5999/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{ui_state.TRAINING}"
    assert ui_state.page(root, run_dir) == wanted
    state = json.loads((Workspace(root).ui).read_text())
    state["process"]["start_time"] -= 100  # a process of the same number, but not the same
    (Workspace(root).ui).write_text(json.dumps(state))
    assert ui_state.ui_address(root) is None
    ui_state.publish_address(root, "http://127.0.0.1:5999")
    ui_state.withdraw(root)
    assert ui_state.ui_address(root) is None


def test_mlflows_pages_show_the_run(root: Path, mlflow_server: str, mlflow_database: Path) -> None:
    """Parameters, curve, and the files of `outputs/`, from a database that is written directly."""
    finished(root, "5e70bbbb", [3.0, 2.0], name="fed directly")
    Ingester(root, f"sqlite:///{mlflow_database}").ingest()

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(f"{mlflow_server}{path}", timeout=30) as answer:
            return bytes(answer.read())

    run, api = of_server(mlflow_server, "5e70bbbb"), "/ajax-api/2.0/mlflow"
    found = json.loads(ask(f"{api}/runs/get?run_id={run.info.run_id}"))["run"]
    assert {"key": "model.lr", "value": "0.1"} in found["data"]["params"]
    history = json.loads(ask(f"{api}/metrics/get-history?run_id={run.info.run_id}&metric_key=loss"))
    assert [point["value"] for point in history["metrics"]] == [3.0, 2.0]
    listing = json.loads(ask(f"{api}/artifacts/list?run_id={run.info.run_id}"))
    assert [file["path"] for file in listing["files"]] == ["curves.png"]
    assert ask(f"/get-artifact?path=curves.png&run_uuid={run.info.run_id}") == b"png"


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel does not share cores by session")
def test_the_feeder_has_low_priority_only_while_runs_are_active(root: Path) -> None:
    """Meanwhile another process feeds MLflow, so that this one waits, and ends after the other's round."""
    uri = mlflow_client.database_uri(root)
    command = [sys.executable, "-m", "labrun.tracking.feeder", str(root), "mlflow", uri]
    with (
        feed._lock(root, MLflow(), uri),
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process,
    ):
        assert process.stdin is not None
        own = Path(f"/proc/{process.pid}/autogroup")
        wait_for(lambda: own.read_text().endswith("nice 19\n"))
        process.stdin.close()
        wait_for(lambda: own.read_text().endswith("nice 0\n"))
        round_after = {"began": time.time() + 60, "news": 0, "left_out": []}
        feed._state(root, "round", MLflow(), uri).write_text(json.dumps(round_after))
        assert process.wait(timeout=120) == 0
