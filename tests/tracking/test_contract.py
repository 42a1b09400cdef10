"""The contract of every tracker (`labrun.tracking.base`): MLflow's database, offline runs, a third-party one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import offline_runs
from conftest import Command, Refused, Runner
from helpers import copy_database, installed, submitted
from labrun.api.handles import Run
from labrun.config.schema import Tracking
from labrun.errors import ConfigError
from labrun.registry import models
from labrun.runs import context
from labrun.runs.context import RunContext
from labrun.runs.record import read_record
from labrun.runs.recording import Recording
from labrun.runs.workspace import Workspace
from labrun.tracking import feed, trackers
from labrun.tracking.base import Fed, Tracker
from labrun.tracking.mlflow import client as mlflow_client
from labrun.tracking.mlflow import ui_state
from labrun.tracking.mlflow.tracker import MLflow
from labrun.tracking.wandb.tracker import OfflineRuns

TOY = Path(__file__).with_name("toy")
Shown = dict[str, Any]
"""What a view shows of a run: id, status, metrics, tags."""
CODES = {0: "completed", 1: "failed"}
STATUSES = {"FINISHED": "completed", "FAILED": "failed", "RUNNING": "running"}


@dataclass
class View:
    """A tracker, and a way to read its view."""

    root: Path
    tracker: Tracker
    read: Callable[[], list[Shown]]

    def sync(self) -> Fed:
        address = self.tracker.address(self.root, Tracking(self.tracker.kind))
        return feed.sync(self.root, self.tracker, address, everything=True)

    def runs(self) -> dict[str, Shown]:
        found = self.read()
        assert len({run["id"] for run in found}) == len(found), "each run is shown once"
        return {run["id"]: run for run in found}


def _mlflow(root: Path) -> list[Shown]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_client.database_uri(root))
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return [
        {
            "id": run.data.tags["labrun.id"],
            "status": STATUSES[run.info.status],
            "metrics": dict(run.data.metrics),
            "tags": {key: value for key, value in run.data.tags.items() if key == "team"},
        }
        for run in found
    ]


def _wandb(root: Path) -> list[Shown]:
    found = [offline_runs.read(path) for path in (Workspace(root).state / "wandb").glob("offline-run-*/*.wandb")]
    return [
        {
            "id": run["id"],
            "status": CODES[run["code"]],
            "metrics": {key: value for key, value in run["summary"].items() if key in ("loss", "accuracy")},
            "tags": dict(tag.split("=") for tag in run["tags"]),
        }
        for run in found
    ]


def _json_lines(root: Path) -> list[Shown]:
    return [json.loads(line) for line in (root / "runs.jsonl").read_text().splitlines()]


READERS = {"mlflow": _mlflow, "wandb": _wandb, "json_lines": _json_lines}
WITH_PAGES = {"mlflow": "http://127.0.0.1:5999/", "json_lines": "file:///"}
"""How the URLs begin at which trackers show a run; MLflow's are those of `lab ui`."""


@pytest.fixture
def toy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package of a third-party tracker, and a user's `conf/tracking/` file that selects it."""
    shutil.copytree(TOY / "conf", workspace / "conf", dirs_exist_ok=True)
    with installed(TOY, trackers.forget, monkeypatch):
        yield


@pytest.fixture(params=list(READERS))
def view(request: pytest.FixtureRequest, workspace: Path, toy: None) -> View:
    """Each tracker in turn. To test another one, add its kind here, with a function that reads its view."""
    if request.param == mlflow_client.KIND:
        request.getfixturevalue("read_migrations_once")
        copy_database(request.getfixturevalue("empty_mlflow"), workspace)
    tracker = trackers.get(request.param)
    assert list(tracker.problems(Tracking(tracker.kind))) == []
    return View(workspace, tracker, lambda: READERS[request.param](workspace))


def run(root: Path, run_id: str, *values: float, fails: bool = False) -> Path:
    run_dir = submitted(
        root, run_id, config={"tracking": {"kind": "none"}, "model": {"lr": 0.1}}, tags={"team": "vision"}
    )
    try:
        with Recording(run_dir, capture=False):
            for step, value in enumerate(values):
                RunContext(run_dir).log("loss", value, step=step)
            if fails:
                raise ValueError("as it was told to")
    except ValueError:
        pass
    return run_dir


def test_runs_are_shown_once_with_the_values_of_their_records(view: View) -> None:
    run(view.root, "aaaa0000", 3.0, 2.0, 1.0)
    run(view.root, "bbbb0000", 4.0, fails=True)
    assert view.sync() == Fed(2, [])
    shown = view.runs()
    assert {key: (one["status"], one["metrics"], one["tags"]) for key, one in shown.items()} == {
        "aaaa0000": ("completed", {"loss": 1.0}, {"team": "vision"}),
        "bbbb0000": ("failed", {"loss": 4.0}, {"team": "vision"}),
    }
    assert view.sync() == Fed(0, []) and view.runs() == shown


def test_lost_notes_of_a_view_are_rebuilt(view: View) -> None:
    run(view.root, "aaaa0000", 1.0)
    view.sync()
    shown = view.runs()
    for path in Workspace(view.root).state.glob("tracking*.json"):
        path.unlink()
    view.sync()
    assert view.runs() == shown


def test_later_changes_of_a_record_are_shown(view: View) -> None:
    run_dir = run(view.root, "aaaa0000", 1.0)
    run(view.root, "bbbb0000", 2.0)
    view.sync()
    context.annotate(run_dir, tags={"team": "speech"})
    assert view.sync().news == 1
    assert {key: one["tags"] for key, one in view.runs().items()} == {
        "aaaa0000": {"team": "speech"},
        "bbbb0000": {"team": "vision"},
    }


def test_a_bad_record_does_not_block_the_others(view: View) -> None:
    bad = run(view.root, "aaaa0000", 1.0)
    (bad / "run.json").write_text("{")
    run(view.root, "bbbb0000", 2.0)
    fed = view.sync()
    assert fed.news == 1 and set(view.runs()) == {"bbbb0000"}
    assert any("aaaa0000" in line for line in fed.left_out)


def test_an_interrupted_sync_is_completed_by_the_next_one(view: View) -> None:
    for number in range(3):
        run(view.root, f"aaaa000{number}", 1.0)
    address = view.tracker.address(view.root, Tracking(view.tracker.kind))
    session = view.tracker.open(view.root, address, everything=True)
    asked = iter([False, True, True, True])
    session.send(None, lambda: next(asked, True))
    view.sync()
    assert set(view.runs()) == {"aaaa0000", "aaaa0001", "aaaa0002"}
    assert view.sync().news == 0


def test_removed_runs_are_removed_from_the_view(view: View) -> None:
    gone = run(view.root, "aaaa0000", 1.0)
    run(view.root, "bbbb0000", 2.0)
    view.sync()
    shutil.rmtree(gone)
    feed.forget(view.root, [("aaaa0000", gone)])
    view.sync()
    assert set(view.runs()) == {"bbbb0000"}


def test_a_removed_run_is_removed_from_the_view_if_the_notes_are_lost(view: View) -> None:
    gone = run(view.root, "aaaa0000", 1.0)
    run(view.root, "bbbb0000", 2.0)
    view.sync()
    assert view.tracker.has_view(view.root)
    state = Workspace(view.root).state
    for path in (*state.glob("tracking*.json"), *state.glob("round*.json")):
        path.unlink()
    shutil.rmtree(gone)
    feed.forget(view.root, [("aaaa0000", gone)])
    view.sync()
    assert set(view.runs()) == {"bbbb0000"}


def test_removed_runs_are_not_noted_without_a_view(toy: None, workspace: Path) -> None:
    feed.forget(workspace, [("aaaa0000", run(workspace, "aaaa0000", 1.0))])
    assert not Workspace(workspace).removed.exists()


def test_a_page_is_known_for_runs_that_the_view_has(view: View) -> None:
    Workspace(view.root).state.mkdir(parents=True, exist_ok=True)
    ui_state.publish_address(view.root, "http://127.0.0.1:5999")
    run_dir, kind = run(view.root, "aaaa0000", 1.0), view.tracker.kind
    assert view.tracker.page(view.root, run_dir) is None
    view.sync()
    for page in (view.tracker.page(view.root), view.tracker.page(view.root, run_dir)):
        assert page is not None if kind in WITH_PAGES else page is None
        assert (page or "").startswith(WITH_PAGES.get(kind, "").rstrip("/"))
    shutil.rmtree(run_dir)
    feed.forget(view.root, [("aaaa0000", run_dir)])
    view.sync()
    assert view.tracker.page(view.root, run_dir) is None


def test_a_runs_own_tracker_shows_its_page_first(toy: None, workspace: Path, lab_here: Command) -> None:
    run_dir = submitted(workspace, "aaaa0000", config={"tracking": {"kind": "json_lines"}})
    assert Run(run_dir).get_portal_url() == run_dir.as_uri()
    tracker = trackers.get("json_lines")
    feed.sync(workspace, tracker, tracker.address(workspace, Tracking("json_lines")))
    page = (workspace / "runs.jsonl").as_uri()
    assert Run(run_dir).get_portal_url() == page
    assert page in lab_here("runs", "show", "aaaa0000").stdout
    Workspace(workspace).tracking.write_text(json.dumps({"runs": {str(run_dir): {"experiment": 1, "mlflow_id": "f"}}}))
    ui_state.publish_address(workspace, "http://127.0.0.1:5999")
    assert trackers.page(workspace, run_dir, "json_lines") == page
    shown = f"http://127.0.0.1:5999/#/experiments/1/runs/f?{ui_state.TRAINING}"
    for own in (None, "none", "wandb", "mlflow", "not_installed"):
        assert trackers.page(workspace, run_dir, own) == shown


def test_the_command_that_updates_a_view_names_its_tracker(toy: None) -> None:
    addresses = {"mlflow": "http://there", "json_lines": "/a/runs.jsonl"}
    assert [trackers.sync_command(trackers.get(kind), address) for kind, address in addresses.items()] == [
        "lab runs sync --uri http://there",
        "lab runs sync --tracker json_lines --uri /a/runs.jsonl",
    ]


def test_an_unknown_tracker_is_refused_with_the_known_ones(toy: None) -> None:
    with pytest.raises(ConfigError, match=r"'wadb': expected one of none, mlflow, wandb, json_lines. Did you mean"):
        trackers.get("wadb")


def test_a_package_adds_a_tracker(toy: None, labrun: Command, lab_here: Command, workspace: Path) -> None:
    begun = labrun("tracking=json_lines", "dataset.max_samples=50", "report=none", cold=True)
    assert begun.returncode == 0, begun.stderr
    assert re.search(r"JSON lines +lab runs sync --tracker json_lines", begun.stdout)
    (path,) = workspace.glob("outputs/*/*/run.json")
    record = read_record(path.parent)
    assert record.config["tracking"]["kind"] == "json_lines"
    done = lab_here("runs", "sync", "--tracker", "json_lines")
    assert done.returncode == 0 and f"1 run updated in JSON lines at {workspace}/runs.jsonl" in done.stdout
    assert [(one["id"], one["metrics"]) for one in _json_lines(workspace)] == [(record.id, record.metrics)]
    assert Run(path.parent).get_portal_url() == (workspace / "runs.jsonl").as_uri()


def test_wandb_shows_the_whole_history_and_only_runs_that_name_it(
    labrun: Command, lab_here: Command, workspace: Path
) -> None:
    run(workspace, "aaaa0000", 1.0)  # with tracking=none
    shown_by = ("tracking=wandb", "tracking.wait=true", "name=shown", "tags={kind: a}")
    done = labrun("dataset.max_samples=50", "report=none", *shown_by)
    assert done.returncode == 0 and "wandb sync" in done.stdout, done.stderr
    (path,) = (workspace / "outputs" / ".labrun" / "wandb").glob("offline-run-*/*.wandb")
    shown = offline_runs.read(path)
    (run_dir,) = workspace.glob("outputs/shown/*/run.json")
    record = read_record(run_dir.parent)
    assert (shown["id"], shown["project"], shown["code"], shown["tags"]) == (record.id, "shown", 0, ["kind=a"])
    assert shown["config"]["model"] == json.loads(json.dumps(record.config["model"]))
    assert shown["summary"]["accuracy"] == record.metrics["accuracy"]
    logged = {line["name"] for line in context.read_metrics(run_dir.parent)}
    assert logged <= {key for row in shown["history"] for key in row}
    assert lab_here("runs", "sync", "--tracker", "wandb", "--all").stdout.startswith("1 run updated")


def test_a_run_that_wandb_cannot_write_is_named_with_the_reason(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> str:
        raise ValueError("no such project\nTraceback: ...")

    monkeypatch.setattr(OfflineRuns, "_write", fails)
    run(workspace, "aaaa0000", 1.0)
    (line,) = View(workspace, trackers.get("wandb"), list).sync().left_out
    assert line.endswith("ValueError: no such project")


def test_a_failing_view_does_not_fail_the_run(run_here: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> str:
        raise RuntimeError("no view here")

    monkeypatch.setattr(MLflow, "shown", fails)
    record, _ = run_here("tracking=mlflow", "dataset.max_samples=50")
    assert record.status == "completed"


def test_models_are_registered_locally_with_offline_runs(run_here: Runner, workspace: Path) -> None:
    _, run_dir = run_here("tracking=wandb", "tracking.uri=here", "dataset.max_samples=50")
    assert models.register(workspace, run_dir, "digits")[0].number == 1


def test_an_address_for_wandb_is_refused(refused_here: Refused) -> None:
    said = refused_here("tracking=wandb", "tracking.uri=https://api.wandb.ai")
    assert "writes offline runs to a folder" in said
