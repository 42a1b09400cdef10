"""Readers of files from others: such files lead nowhere else, execute nothing, and block no other files."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import fuzz_readers
from conftest import Command
from helpers import new, submitted
from labrun.backends.slurm import queue
from labrun.data import assets
from labrun.data import cache as caches
from labrun.data.cache import Cache, Wanted
from labrun.data.digests import Entry
from labrun.data.stores.base import STATE
from labrun.data.stores.local import LocalDatastore
from labrun.data.stores.remote import RemoteDatastore
from labrun.errors import CorruptDataError, LabrunError, RecordError
from labrun.runs import context, custom_locations, files, model_journal, removing, store, sweep_state
from labrun.runs.end_requests import Request, read_request
from labrun.runs.groups import Code, SweepMember
from labrun.runs.record import read_record, sweep_folder
from labrun.runs.sweep_state import SweepState
from labrun.runs.workspace import Workspace
from labrun.submission import rerun
from labrun.tracking.mlflow import run_sender


def test_damaged_files_are_refused_in_a_short_fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python tests/fuzz_readers.py --seconds 600` runs a longer one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    before = signal.getsignal(signal.SIGALRM)
    try:
        report = fuzz_readers.fuzz(5, seed=2, heavy=False)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert report.found == {} and report.rounds > 0 and report.refusals > 0


def test_a_sweeps_folder_must_contain_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "multirun" / "x" / "s" / "r1" / "s2"
    run_dir.mkdir(parents=True)
    sweep = tmp_path / "multirun" / "x" / "s"
    for told, folder in (
        (str(sweep), sweep),
        ("/", run_dir.parent),
        (str(tmp_path), run_dir.parent),
        ("/etc", run_dir.parent),
        (str(tmp_path / "elsewhere"), run_dir.parent),
        (None, run_dir.parent),
        (7, run_dir.parent),
        ("a\0b", run_dir.parent),
    ):
        assert sweep_folder(run_dir, new(sweep=SweepMember.of({"folder": told}))) == folder
    assert sweep_folder(run_dir, new(sweep=None)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"runs": ["../../x"]},
        {"runs": ["/etc"]},
        {"runs": "ab"},
        {"runs": [1]},
        {"path": [1]},
        {"command": [1]},
        {"cwd": 7},
        {"tracking": 7},
        {"parallel": "many"},
        {"more": 1},
        {"runs": ["a\0b"]},
    ],
)
def test_a_plan_must_name_runs_in_its_folder(tmp_path: Path, values: dict[str, Any]) -> None:
    plan = sweep_state.Plan("local", ["0", "a/../b"], [], [], str(tmp_path), "test", {})
    plan.write(tmp_path)
    assert sweep_state.read_plan(tmp_path) == plan
    path = SweepState(tmp_path).plan
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(RecordError, match="is damaged"):
        sweep_state.read_plan(tmp_path)


def test_impossible_file_names_are_ignored_or_refused(workspace: Path, lab_here: Command) -> None:
    submitted(workspace, "a1111111")
    long = "x" * 300
    plan = sweep_state.Plan("local", [long, "now-a1111111"], [], [], str(workspace), "test", {}, is_marked=True)
    folder = workspace / "outputs" / "test"
    plan.write(folder)
    assert (
        len(store.of_plan(folder, sweep_state.read_plan(folder))) == 1
        and sweep_state.never_submitted(folder, plan) == 1
    )
    (Workspace(workspace).custom_locations).parent.mkdir(parents=True, exist_ok=True)
    (Workspace(workspace).custom_locations).write_text(json.dumps({"folder": f"/{long}"}) + "\n")
    assert "a1111111" in lab_here("runs").stdout and lab_here("runs", "gc").returncode == 0
    assert lab_here("runs", "show", long).returncode == 2


def test_leftovers_are_removed_only_in_folders_of_runs(tmp_path: Path) -> None:
    """A plan in a folder that others can write must not lead the clean-up elsewhere."""
    root, shared, victim = tmp_path / "w", tmp_path / "shared", tmp_path / "victim"
    (victim / f"{removing.REMOVED}mine").mkdir(parents=True)
    (shared / f"{removing.REMOVED}ours").mkdir(parents=True)
    (shared / ".launch").mkdir()
    (shared / ".launch" / "plan.json").write_text(json.dumps({"runs": ["../victim/x", "0", str(victim / "y")]}))
    custom_locations.note(root, shared, ["0"])
    listed = removing.garbage(root, store.listing(root))
    assert [item.path.name for item in listed] == [f"{removing.REMOVED}ours"]


LINE = {
    "event": "register",
    "name": "m",
    "number": 1,
    "run": "a",
    "experiment": "e",
    "file": "outputs/x",
    "uri": "",
    "time": "t",
    "files": {"x": "0" * 64},
}


@pytest.mark.parametrize(
    "values",
    [
        {"name": "../../x"},
        {"name": ".."},
        {"name": 7},
        {"number": "1"},
        {"number": -1},
        {"number": True},
        {"number": 1e9},
        {"files": {"../x": "0" * 64}, "file": "../x"},
        {"files": {"x": "1"}},
        {"files": {"/etc/x": "0" * 64}},
        {"files": {}},
        {"event": "alias", "alias": "../x"},
        {"event": "alias", "alias": 7},
        {"files": [1]},
        {"run": 7},
        {"tags": {"a": 1}},
    ],
)
def test_a_bad_line_of_the_journal_is_counted_and_left_out(tmp_path: Path, values: dict[str, Any]) -> None:
    path = model_journal.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(
        f"{json.dumps(LINE | {'number': 2})}\n{json.dumps(LINE | values)}\n\n{json.dumps(LINE | {'number': 3})}\n{{torn"
    )
    state = model_journal.read(tmp_path)
    assert sorted(state.versions["m"]) == [2, 3] and state.left_out == 1 and set(state.versions) == {"m"}


def test_pipes_in_place_of_files_do_not_block(workspace: Path, lab_here: Command) -> None:
    run_dir = submitted(workspace, "a1111111")
    folder = run_dir.parent
    for path in (
        run_dir / "driver.log",
        run_dir / "requests" / "cancel",
        run_dir / "requests" / "stop",
        run_dir / "annotations.jsonl",
        run_dir / "metrics.jsonl",
        run_dir / "outputs" / "model.json",
        SweepState(folder).plan,
        SweepState(folder).controllers / "1",
        SweepState(folder).jobs,
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    for request in Request:
        with pytest.raises(OSError, match="plain file"):
            read_request(run_dir, request)
    for read in (
        lambda: sweep_state.read_plan(folder),
        lambda: queue.known_jobs(SweepState(folder).jobs),
    ):
        with pytest.raises(RecordError):
            read()
    for words in (("logs", "a1"), ("metrics", "a1"), ("show", "a1"), ("files", "a1"), ("watch", str(folder))):
        assert "Traceback" not in lab_here("runs", *words).stderr
    assert lab_here("models", "register", "a1", "--name", "m").returncode == 2


def test_pipes_in_datastores_and_model_folders_are_refused(tmp_path: Path) -> None:
    shop = LocalDatastore("local", str(tmp_path / "data"))
    shop.write("good/a.csv", b"1")
    asset, _ = assets.register(shop, "good", "good", [Entry("a.csv", 1, "0" * 64)], {})
    for name in (f"{STATE}/manifests/{asset.version}.json", "good/a.csv", f"{STATE}/assets/good/1.json"):
        (tmp_path / "data" / name).unlink()
        os.mkfifo(tmp_path / "data" / name)
        with pytest.raises(LabrunError):
            shop.read(name)
        with pytest.raises(LabrunError), open(os.devnull, "wb") as target:
            shop.fetch(name, target, lambda count: None)
    version = model_journal.Version(**{key: value for key, value in LINE.items() if key != "event"})  # type: ignore[arg-type]
    place = model_journal.content(tmp_path, version)
    place.mkdir(parents=True)
    os.mkfifo(place / "x")
    with pytest.raises(CorruptDataError, match="not a plain file"):
        model_journal.check(tmp_path, version)


def test_bad_lines_of_metrics_are_counted(workspace: Path, lab_here: Command) -> None:
    run_dir = submitted(workspace, "a1111111")
    good = json.dumps({"time": 1, "step": 0, "name": "loss", "value": 1})
    (run_dir / context.METRICS_FILE).write_text(f"{good}\nbad\n\n[1]\n{good}\n{{torn")
    done = lab_here("runs", "metrics", "a1")
    assert "left out: 2 lines of" in done.stderr and done.stdout.splitlines()[-1].split()[:2] == ["loss", "2"]


def test_only_valid_job_ids_reach_slurm_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(queue, "run_command", asked.append)
    queue.scancel(["17", "17_3", "--user=me", "17;ls", "", "-1"])
    assert asked == [["scancel", "17"], ["scancel", "17_3"]]
    journal = tmp_path / "jobs.jsonl"
    for line in (
        {"token": "a", "jobs": [["x"]]},
        {"token": "a", "job": "--all", "array": False},
        {"token": []},
        7,
        {"token": "b", "jobs": [["y"]]},
        {"token": "b", "job": "18", "array": False},
    ):
        with open(journal, "a") as file:
            file.write(json.dumps(line) + "\n")
    assert queue.known_jobs(journal) == {Path("y"): "18"}


def test_code_must_match_its_digest_wherever_it_is_stored(tmp_path: Path) -> None:
    code = tmp_path / "other" / "code"
    code.mkdir(parents=True)
    (code / "a.py").write_text("x = 1\n")
    digest = files.tree_digest(code, [Path("a.py")])
    old = new()
    assert rerun._kept(Code(digest, folder=str(code)), tmp_path, old) == code
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "a.pyc").write_text("compiled since")
    assert rerun._kept(Code(digest, folder=str(code)), tmp_path, old) == code
    (code / "a.py").write_text("x = 2\n")
    for told in (
        Code(digest, folder=str(code)),
        Code("../..", folder=str(code)),
        Code(folder="/etc"),
        Code("..", folder=""),
    ):
        with pytest.raises(RecordError, match="is gone"):
            rerun._kept(told, tmp_path, old)
    with pytest.raises(RecordError, match="is not a digest"):
        store.environment_folder("../../x")


def test_a_damaged_version_of_an_asset_hides_no_others(tmp_path: Path, workspace: Path, lab_here: Command) -> None:
    shop = LocalDatastore("local", str(tmp_path / "data"))
    for name in ("good", "bad"):
        shop.write(f"{name}/a.csv", b"1")
        assets.register(shop, name, name, [Entry("a.csv", 1, "0" * 64)], {})
    for content in (
        {"name": "bad", "number": 2},
        {"path": 7},
        {"path": "../.."},
        [1],
        {"files": "many"},
        {"version": 7},
    ):
        whole = json.loads(shop.read(f"{STATE}/assets/bad/1.json"))
        bad = {**whole, "number": 2, **content} if isinstance(content, dict) else content
        shop.write(f"{STATE}/assets/bad/2.json", json.dumps(bad if "name" not in content else content).encode())
        assert [one.number for one in assets.versions(shop, "bad")] == [1]
        with pytest.raises(CorruptDataError):
            assets.find(shop, "bad")
        done = lab_here("data", "ls", "--set", f"root={shop.root}")
        assert done.returncode == 0 and "good" in done.stdout and "left out" in done.stderr
    os.symlink(shop.root, tmp_path / "data" / "good" / "again")
    assert sorted(shop.files("good")) == ["good/a.csv"], "a link to its own folder is not followed forever"


def test_links_out_of_a_datastore_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    shop = RemoteDatastore({"_target_": "fsspec.implementations.memory.MemoryFileSystem", "name": "m", "root": "/top"})

    class Listing:
        def find(self, top: str, detail: bool) -> dict[str, Any]:
            return {f"/top/{name}": {"size": 1} for name in ("a.csv", "../../evil", "b/../../evil", "c\0d")}

        def invalidate_cache(self) -> None:
            """Nothing is kept."""

        def _strip_protocol(self, path: str) -> str:
            return path

    shop._shared = Listing()
    assert sorted(shop.files()) == ["a.csv"] and caplog.text.count("leads out of it") == 3


def test_lists_in_a_cache_cannot_name_files_outside_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    shop = LocalDatastore("local", str(tmp_path / "data"))
    shop.write("a.csv", b"1")
    cache = Cache(tmp_path / "cache", 1.0)
    cache.view("k" * 32, [Wanted("a.csv", "a.csv", 1, "")], shop, 1)
    for content in ({"a": "../../../victim"}, {"../../../victim": "0" * 64}, {"a": 7}, [1], "x"):
        evil = tmp_path / "cache" / "views" / f"{'e' * 32}.json"
        evil.write_text(json.dumps({"content": content}))
        assert caches._content(evil) is None
        cache._evict("e" * 32, set())
        assert victim.read_text() == "mine"


def test_links_out_of_a_run_are_not_sent_to_a_server(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path, "a1111111")
    (tmp_path / "secret").write_text("secret")
    (run_dir / "outputs" / "plain").write_text("plain")
    (run_dir / "outputs" / "link").symlink_to(tmp_path / "secret")
    (run_dir / "outputs" / "inside").symlink_to(run_dir / "outputs" / "plain")
    sent: list[str] = []

    class Client:
        def log_artifact(self, mlflow_id: str, path: str, below: str | None) -> None:
            sent.append(Path(path).name)

        def get_run(self, mlflow_id: str) -> Any:
            return type("Run", (), {"info": type("Info", (), {"lifecycle_stage": "active"})})

    told = run_sender.Sent("id")
    run = run_sender.RunSender(Client(), told, read_record(run_dir), run_dir, lambda error: False, lambda: None)
    run.send_files(None)
    assert sent == ["inside", "plain"] and "leads out of the run's folder" in str(run.failed)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"trainer": 7},
        {"trainer": {}, "compute": []},
        {"trainer": {}, "compute": {"environment": 7}},
        {"trainer": {"resume": {}}, "compute": {"environment": {}, "target": "local", "cpus_per_run": 1}},
    ],
)
def test_a_record_with_an_invalid_config_is_not_rerun(workspace: Path, config: dict[str, Any]) -> None:
    run_dir = submitted(workspace, "a1111111", config=config)
    with pytest.raises(LabrunError, match="cannot be run again"):
        rerun.prepare(run_dir, [])


def test_too_deeply_nested_values_are_left_out(workspace: Path, lab_here: Command) -> None:
    for run_id, depth in (("a1111111", 400), ("a2222222", 900)):
        path = submitted(workspace, run_id) / "run.json"
        deep = '{"a":' * depth + "1" + "}" * depth
        path.write_text(path.read_text().replace('"trainer": {}', f'"trainer": {deep}'))
    assert lab_here("runs", "compare", "a1", "a1").returncode in (0, 2)
    done = lab_here("runs")
    assert "a1111111" in done.stdout and "levels deep" in done.stderr


def test_an_outputs_folder_that_is_a_link_lists_its_runs_once(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, lab_here: Command
) -> None:
    (workspace / "outputs").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    run_dir = submitted(workspace)
    store.note(run_dir, ["."])
    assert [found for found, _ in store.listing(workspace).runs] == [run_dir]
    (workspace / "here").mkdir()
    store.note(submitted(workspace / "here", "abcd9999"), ["."])
    assert len(store.listing(workspace).runs) == 2
