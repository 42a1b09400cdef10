"""Workspaces with records damaged in many ways: MLflow shows everything possible, and the rest is reported."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers import copy_database, mlflow_sync, submitted, wait_for
from labrun.cli import bars
from labrun.cli.runs import maintain
from labrun.runs import context, store
from labrun.runs.context import RunContext
from labrun.runs.record import COMPLETED, RUNNING, process_identity, read_record, timestamp, write_record
from labrun.tracking.base import Fed
from labrun.tracking.mlflow import client as mlflow_client
from labrun.tracking.mlflow import ingester as ingesting
from labrun.tracking.mlflow import names as mlflow_names

pytestmark = pytest.mark.long

OK = {"time": 1.0, "step": 0, "name": "loss", "value": 0.5, "attempt": 1}
BACKSLASH = "C:\\loss"
ODD_NAMES = [
    "/loss",
    "loss/",
    "a//b",
    ".",
    "..",
    "../up",
    "a/../b",
    "x" * 251,
    "x" * 5000,
    "a@b",
    "a#b",
    "a b",
    "Loss",
    "LOSS",
    "100%",
    "it's",
    'say "so"',
    "ä",
    "日本",
    "a\u0301",
    "\N{GRINNING FACE}",
    BACKSLASH,
    "a\tb",
    "a\nb",
    " ",
    "\ud800",
    "a\0b",
    "loss--0123abcd",
    "labrun.id",
    "mlflow.note.content",
    "...",
    "-",
    "a:b",
]


def made(root: Path, run_id: str, lines: list[Any] = (), **values: Any) -> Path:  # type: ignore[assignment]
    """A completed run with these metrics; a line is an object, or bytes as they are."""
    run_dir = submitted(root, run_id, **values)
    record = read_record(run_dir)
    record.status, record.started, record.ended = COMPLETED, timestamp(), timestamp()
    write_record(run_dir, record, to_disk=False)
    texts = [line if isinstance(line, bytes) else json.dumps({**OK, **line}).encode() + b"\n" for line in lines]
    (run_dir / context.METRICS_FILE).write_bytes(b"".join(texts))
    return run_dir


def changed(run_dir: Path, **values: Any) -> None:
    """What its `run.json` says, changed without looking at it."""
    path = run_dir / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@dataclass
class Poison:
    """A run with one fault, and how MLflow shows it."""

    make: Callable[[Path, str], Any]
    """Makes the run of that id."""
    metrics: dict[str, list[float]] = field(default_factory=lambda: {"loss": [0.5]})
    told: str = ""
    """Stands in what is said of it; empty: nothing is left out."""
    status: str = "FINISHED"
    is_shown: bool = True


def values_of(*given: Any) -> Callable[[Path, str], Any]:
    return lambda root, run_id: made(root, run_id, [{}, *({"name": "odd", "value": one} for one in given)])


def line_of(**given: Any) -> Callable[[Path, str], Any]:
    return lambda root, run_id: made(root, run_id, [{}, given])


def raw(*given: bytes) -> Callable[[Path, str], Any]:
    return lambda root, run_id: made(root, run_id, [{}, *given])


def record_with(**given: Any) -> Callable[[Path, str], Any]:
    return lambda root, run_id: changed(made(root, run_id, [{}]), **given)


def in_place_of_metrics(make: Callable[[Path], Any]) -> Callable[[Path, str], Any]:
    def build(root: Path, run_id: str) -> None:
        path = made(root, run_id) / context.METRICS_FILE
        path.unlink()
        make(path)

    return build


def in_place_of_outputs(make: Callable[[Path], Any]) -> Callable[[Path, str], Any]:
    def build(root: Path, run_id: str) -> None:
        path = made(root, run_id, [{}]) / "outputs"
        shutil.rmtree(path, ignore_errors=True)
        make(path)

    return build


def in_place_of_annotations(root: Path, run_id: str) -> None:
    os.mkfifo(made(root, run_id, [{}]) / context.ANNOTATIONS_FILE)


def in_place_of_record(make: Callable[[Path], Any]) -> Callable[[Path, str], Any]:
    def build(root: Path, run_id: str) -> None:
        path = made(root, run_id, [{}]) / "run.json"
        path.unlink()
        make(path)

    return build


NO_METRIC = "a line of metrics.jsonl that holds no metric"
BEYOND = "whose step or time is out of MLflow's range"
LARGEST = 1.7976931348623157e308
"""What MLflow's database has in the place of infinity."""
POISONS = {
    "healthy": Poison(lambda root, run_id: made(root, run_id, [{}])),
    "NaN": Poison(values_of("NaN"), {"loss": [0.5], "odd": [math.nan]}),
    "infinities": Poison(values_of("Infinity", "-Infinity", 1e400), {"loss": [0.5], "odd": [LARGEST, -LARGEST]}),
    "whole numbers": Poison(values_of(2**70), {"loss": [0.5], "odd": [2.0**70]}),
    "a number beyond floats": Poison(values_of(10**400), told=NO_METRIC),
    "a number of 10,000 digits": Poison(raw(b'{"value": ' + b"9" * 10_000 + b"}\n"), told=NO_METRIC),
    "true": Poison(values_of(True), {"loss": [0.5], "odd": [1.0]}),
    "values that are none": Poison(values_of(None, "x", [1], {}), told=f"4 x {NO_METRIC}"),
    "a large step": Poison(line_of(name="odd", step=2**63), told=f"'odd' {BEYOND}"),
    "the largest step": Poison(line_of(name="odd", step=2**63 - 1), {"loss": [0.5], "odd": [0.5]}),
    "a small step": Poison(line_of(name="odd", step=-(10**30)), told=f"'odd' {BEYOND}"),
    "a step below zero": Poison(line_of(name="odd", step=-5), {"loss": [0.5], "odd": [0.5]}),
    "half a step": Poison(line_of(step=0.5), told=NO_METRIC),
    "a step of text": Poison(line_of(step="1"), told=NO_METRIC),
    "an infinite step": Poison(line_of(step=math.inf), told=NO_METRIC),
    "a time before 1970": Poison(line_of(name="odd", time=-1.0), told=f"'odd' {BEYOND}"),
    "a time without end": Poison(line_of(name="odd", time=math.inf), told=f"'odd' {BEYOND}"),
    "no time": Poison(line_of(name="odd", time=math.nan), told=f"'odd' {BEYOND}"),
    "a large time": Poison(line_of(name="odd", time=1e300), told=f"'odd' {BEYOND}"),
    "an attempt of text": Poison(line_of(attempt="two"), told=NO_METRIC),
    "a name that is none": Poison(line_of(name=7), told=NO_METRIC),
    "a name that is a list": Poison(line_of(name=[1], attempt=2, step=1), told=NO_METRIC),
    "no name": Poison(raw(b'{"value": 1, "step": 0, "attempt": 2}\n'), told=NO_METRIC),
    "no step": Poison(raw(b'{"value": 1, "name": "loss", "attempt": 2}\n'), told=NO_METRIC),
    "lines of other kinds": Poison(raw(b"[1]\n", b'"x"\n', b"7\n", b"null\n"), told=f"4 x {NO_METRIC}"),
    "no UTF-8": Poison(raw(b'{"name": "\xff\xfe"}\n', b"\x00\x01\x02\n"), told=f"2 x {NO_METRIC}"),
    "blank lines": Poison(raw(b"\n", b"  \n", b"\r\n")),
    "a torn line": Poison(raw(b'{"time": 1.0, "st')),
    "a deep line": Poison(raw(b"[" * 100_000 + b"\n"), told=NO_METRIC),
    "a huge line": Poison(raw(b'{"name": "' + b"x" * 3_000_000 + b'"}\n', b"{}\n"), told=f"2 x {NO_METRIC}"),
    "a huge torn line": Poison(raw(b"x" * 3_000_000)),
    "metrics that are a pipe": Poison(in_place_of_metrics(os.mkfifo), {}),
    "metrics that are a folder": Poison(in_place_of_metrics(os.mkdir), {}),
    "metrics that are a dangling link": Poison(in_place_of_metrics(lambda path: path.symlink_to("/nowhere")), {}),
    "metrics that are a link in a circle": Poison(
        in_place_of_metrics(lambda path: path.symlink_to(path.name)), {}, told="its metrics: "
    ),
    "annotations that are a pipe": Poison(in_place_of_annotations),
    "outputs that are a dangling link": Poison(in_place_of_outputs(lambda path: path.symlink_to("/nowhere/at/all"))),
    "outputs that are a pipe": Poison(in_place_of_outputs(os.mkfifo)),
    "outputs that are a file": Poison(in_place_of_outputs(lambda path: path.write_text("no folder"))),
    "a record that is a pipe": Poison(in_place_of_record(os.mkfifo), told="is damaged", is_shown=False),
    "a record that is a folder": Poison(in_place_of_record(os.mkdir), told="is damaged", is_shown=False),
    "a record that is empty": Poison(in_place_of_record(Path.touch), told="is damaged", is_shown=False),
    "a record that is not a JSON": Poison(
        in_place_of_record(lambda path: path.write_bytes(b"\xff{")), told="is damaged", is_shown=False
    ),
    "a deep record": Poison(
        in_place_of_record(lambda path: path.write_text("[" * 100_000)), told="is damaged", is_shown=False
    ),
    "a record without a config": Poison(record_with(config=None), told="is damaged", is_shown=False),
    "a status that is none": Poison(record_with(status="done"), told="is damaged", is_shown=False),
    "a time without a zone": Poison(record_with(created="2026-01-01T00:00:00"), told="damaged", is_shown=False),
    "a time long ago": Poison(record_with(created="0001-01-01T00:00:00+00:00", started=None)),
    "an end that is missing": Poison(record_with(ended=None)),
    "a process that is none": Poison(record_with(status="running", process={"host": 7, "pid": "x"}), status="RUNNING"),
    "a job that is none": Poison(record_with(status="running", job={}), status="RUNNING"),
    "data of other kinds": Poison(record_with(data=[7, None, "x", {}, {"name": ["a"]}, {"digest": "d"}])),
    "a mounted folder": Poison(record_with(data=[{"input": "pictures", "path": "/data", "moved_bytes": 0}])),
    "git without a commit": Poison(record_with(git={"branch": "main"})),
    "an error without a type": Poison(record_with(status="failed", error={"message": "x" * 20_000}), status="FAILED"),
    "an error of other kinds": Poison(record_with(status="failed", error={"type": 7, "message": [1]}), status="FAILED"),
    "long notes": Poison(record_with(notes="n" * 100_000)),
    "notes with halves of characters": Poison(record_with(notes="a\ud800b\0c")),
    "a long command": Poison(record_with(command="labrun " + "x" * 100_000)),
    "a config with odd keys": Poison(record_with(config=dict.fromkeys(ODD_NAMES, "v"))),
    "a config with colliding keys": Poison(record_with(config={"a": {"b": 1}, "a.b": 2, "A": {"B": 3}})),
    "a config with long values": Poison(record_with(config={"long": "x" * 50_000, "half": "\ud800", "nothing": None})),
    "a large config": Poison(record_with(config={f"key{number}": number for number in range(250)})),
    "a deep config": Poison(record_with(config=json.loads('{"a":' * 400 + "1" + "}" * 400))),
    "tags with odd names": Poison(record_with(tags=dict.fromkeys(ODD_NAMES, "v"))),
    "many tags": Poison(record_with(tags={f"tag{number}": "v" for number in range(250)})),
    "tags with odd values": Poison(record_with(tags={"empty": "", "long": "x" * 50_000, "odd": "\ud800\0"})),
    "names with odd characters": Poison(
        lambda root, run_id: made(root, run_id, [{"name": name, "value": n} for n, name in enumerate(ODD_NAMES)]),
        {name: [float(number)] for number, name in enumerate(ODD_NAMES)},
    ),
    "an empty name": Poison(line_of(name=""), {"loss": [0.5], "": [0.5]}),
    "many names that collide": Poison(
        lambda root, run_id: made(root, run_id, [{"name": f"a{chr(code)}b"} for code in range(0x2190, 0x2230)]),
        {f"a{chr(code)}b": [0.5] for code in range(0x2190, 0x2230)},
    ),
    "many values": Poison(
        lambda root, run_id: made(root, run_id, [{"step": step, "value": step} for step in range(1100)]),
        {"loss": [float(step) for step in range(1100)]},
    ),
}
EXPERIMENTS = ["", " ", "x" * 1000, "a\nb", "\ud800", "a/b", "it's", "Default", "DEFAULT", "experiment--0123abcd", "%s"]


Shown = tuple[Path, dict[str, Any], Fed, dict[str, str]]
"""The workspace, its runs as MLflow has them, what was said of them, and the id of each poison's run."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path, read_migrations_once: None) -> Shown:
    """A workspace with all of them, brought up to date once."""
    root = tmp_path_factory.mktemp("poisoned").resolve()
    copy_database(empty_mlflow, root)
    ids = {name: f"{number:08x}" for number, name in enumerate(POISONS)}
    for name, poison in POISONS.items():
        poison.make(root, ids[name])
    for number, name in enumerate(EXPERIMENTS):
        changed(made(root, f"e{number:07x}", [{}]), name=name)
    for number, run_id in enumerate(("it's", "", "x" * 300, "a b")):
        changed(made(root, f"f{number:07x}", [{}]), id=run_id)
    fed = mlflow_sync(root)
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    runs: dict[str, Any] = {}
    experiments = [one.experiment_id for one in client.search_experiments()]
    for run in client.search_runs(experiments, max_results=1000):
        runs[Path(run.data.tags["labrun.folder"]).name.removeprefix("now-")] = run
    return root, runs, fed, ids


def history(root: Path, run: Any) -> dict[str, list[float]]:
    """The values of each metric, by its own name."""
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    found = {}
    for key in run.data.metrics:
        name = run.data.tags.get(f"labrun.name.{key}", key)
        points = sorted(client.get_metric_history(run.info.run_id, key), key=lambda point: point.step)
        found[name] = [point.value for point in points]
    return found


@pytest.mark.parametrize("name", POISONS)
def test_values_that_mlflow_refuses_are_named_and_all_others_shown(shown: Shown, name: str) -> None:
    root, runs, fed, ids = shown
    poison, run = POISONS[name], runs.get(ids[name])
    told = [line for line in fed.left_out if ids[name] in line]
    if not poison.is_shown:
        assert run is None and len(told) == 1 and poison.told in told[0]
        return
    assert run is not None, told
    assert run.info.status == poison.status
    if name == "many names that collide":
        keys = {key: run.data.tags[f"labrun.name.{key}"] for key in run.data.metrics}
        assert set(keys.values()) == set(poison.metrics)
    else:
        wanted = {mlflow_names.text(key): values for key, values in poison.metrics.items()}
        found = history(root, run)
        assert {key: sorted(map(str, one)) for key, one in found.items()} == {
            key: sorted(map(str, one)) for key, one in wanted.items()
        }
    if poison.told:
        assert len(told) == 1 and poison.told in told[0], told
        assert poison.told in run.data.tags.get("labrun.left_out", told[0])
    else:
        assert told == [] and "labrun.left_out" not in run.data.tags


def test_odd_names_of_parameters_and_tags_are_kept_as_tags(
    shown: Shown,
) -> None:
    _, runs, _, ids = shown
    run = runs[ids["a config with odd keys"]]
    original = {run.data.tags.get(f"labrun.name.{key}", key) for key in run.data.params}
    assert original == {mlflow_names.text(name) for name in ODD_NAMES}
    tags = runs[ids["tags with odd names"]].data.tags
    assert {mlflow_names.text(name) for name in ODD_NAMES} <= {tags.get(f"labrun.name.{key}", key) for key in tags}
    assert tags["labrun.id"] == ids["tags with odd names"], "a user's tag is not the run's id"
    assert len(runs[ids["a large config"]].data.params) == 250 and runs[ids["many tags"]].data.tags["tag249"] == "v"
    assert runs[ids["a mounted folder"]].data.tags["labrun.data.pictures"] == "/data"


def test_experiments_and_runs_of_any_name_are_shown(shown: Shown) -> None:
    root, runs, _, _ = shown
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    found = {}
    for number, name in enumerate(EXPERIMENTS):
        experiment = client.get_experiment(runs[f"e{number:07x}"].info.experiment_id)
        found[experiment.tags.get("labrun.name", experiment.name)] = mlflow_names.text(name)
    assert all(key == name for key, name in found.items()) and len(found) == len(EXPERIMENTS)
    assert len({run.info.run_id for run in runs.values()}) == len(runs)
    assert all(f"f{number:07x}" in runs for number in range(4))


def test_a_second_sync_sends_only_what_failed(
    shown: Shown,
) -> None:
    root, _, first, ids = shown
    again = mlflow_sync(root)
    failing = [name for name, poison in POISONS.items() if not poison.is_shown or poison.told.startswith("its ")]
    named = {name for name in POISONS for line in again.left_out if ids[name] in line}
    assert named == set(failing) and len(first.left_out) > len(again.left_out)


@pytest.fixture
def root(tmp_path: Path, empty_mlflow: Path, read_migrations_once: None) -> Path:
    root = tmp_path.resolve()
    copy_database(empty_mlflow, root)
    return root


def in_mlflow(root: Path) -> list[Any]:
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


def test_an_unexpected_refusal_leaves_out_only_the_refused_values(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another version may refuse more: a refused batch is sent again in halves."""
    monkeypatch.setattr(mlflow_names, "allowed", lambda name: name)
    lines = [{"step": step, "name": "a@b" if step in (3, 500) else "loss"} for step in range(1000)]
    made(root, "aaaa0000", lines, config={"good": 1, "b@d": 2})
    fed = mlflow_sync(root)
    (run,) = in_mlflow(root)
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 998 and run.data.params == {"good": "1"}
    (line,) = fed.left_out
    assert "2 x a value of 'a@b': " in line and "the parameter 'b@d': " in line and run.info.status == "FINISHED"
    assert "a@b" in run.data.tags["labrun.left_out"]


def test_a_run_deleted_in_mlflow_is_recreated_if_it_has_news(root: Path) -> None:
    run_dir = made(root, "aaaa0000", [{}])
    made(root, "bbbb0000", [{}])
    mlflow_sync(root)
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    deleted = next(run for run in in_mlflow(root) if run.data.tags["labrun.id"] == "aaaa0000")
    client.delete_run(deleted.info.run_id)
    client._tracking_client.store._hard_delete_run(deleted.info.run_id)
    with open(run_dir / context.METRICS_FILE, "ab") as file:
        file.write(json.dumps({**OK, "step": 1}).encode() + b"\n")
    fed = mlflow_sync(root)
    assert fed.left_out == [] and fed.news == 1
    assert sorted(run.data.tags["labrun.id"] for run in in_mlflow(root)) == ["aaaa0000", "bbbb0000"]


def test_a_copied_run_is_another_run_and_a_moved_one_is_the_same(root: Path) -> None:
    run_dir = made(root, "aaaa0000", [{}])
    mlflow_sync(root)
    shutil.copytree(run_dir, run_dir.with_name("copy"))
    with open(run_dir.with_name("copy") / context.METRICS_FILE, "ab") as file:
        file.write(json.dumps({**OK, "step": 1, "value": 7}).encode() + b"\n")
    mlflow_sync(root)
    assert sorted(run.data.metrics["loss"] for run in in_mlflow(root)) == [0.5, 7.0]
    run_dir.rename(run_dir.with_name("moved"))
    mlflow_sync(root)
    assert len(in_mlflow(root)) == 2


def test_an_interrupted_sync_resumes_where_it_stopped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingesting, "SAVE_S", 0.0)
    for number in range(4):
        made(root, f"{number}aaa0000", [{}])
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done == 3:
            os._exit(9)  # as a kill

    child = os.fork()
    if child == 0:
        mlflow_sync(root, progress=progress)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(in_mlflow(root)) == 3
    assert mlflow_sync(root, progress=progress).news == 1 and calls == 1
    assert len(in_mlflow(root)) == 4


def test_a_running_run_is_followed_in_chunks(root: Path) -> None:
    run_dir = submitted(root, "aaaa0000")
    record = read_record(run_dir)
    record.status, record.process = RUNNING, process_identity()
    write_record(run_dir, record)
    ingester = ingesting.Ingester(root, mlflow_client.database_uri(root))
    run = RunContext(run_dir)
    for step in range(2300):
        run.log("loss", step, step)
        if step in (0, 1000, 2299):
            assert ingester.ingest() == 1
    (shown_run,) = in_mlflow(root)
    assert shown_run.info.status == "RUNNING"
    assert len(ingester.client.get_metric_history(shown_run.info.run_id, "loss")) == 2300


def test_lab_runs_sync_names_left_out_values_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(store.ROOT_VARIABLE, str(root))
    made(root, "aaaa0000", [{}, b"{}\n", b"{}\n"])
    for number in range(25):
        (made(root, f"{number:08x}") / "run.json").write_text("{")
    for news, again in ((1, 26), (0, 25)):
        assert maintain.sync(argparse.Namespace(uri=None, tracker="mlflow", all=False)) == 0
        said = capsys.readouterr()
        assert f"{news} run{'' if news == 1 else 's'} updated in MLflow at sqlite:///" in said.out
        assert said.out.endswith(f"something was left out of {again}\n")
        assert said.err.count("lab: left out: ") == 21 and f"something of {again - 20} more" in said.err


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_a_progress_bar_is_shown_for_long_syncs_at_a_terminal(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "PATIENCE_S", 0.1)
    monkeypatch.setattr("sys.stderr", stream)
    with bars.Bar("runs") as bar:
        bar.update(0, 0)
        assert stream.getvalue() == ""
        if stream.isatty():
            wait_for(lambda: "starting MLflow" in stream.getvalue(), 20)
        bar.update(3, 1000)
    assert ("3 of 1,000 runs" in stream.getvalue()) == stream.isatty()
    assert stream.isatty() or stream.getvalue() == ""


def test_a_model_that_cannot_be_shown_does_not_stop_the_others(root: Path) -> None:
    from labrun.registry import models
    from labrun.runs import model_journal

    for number, name in enumerate(("good", "bad", "fine")):
        run_dir = made(root, f"{number}aaa0000", [{}])
        (run_dir / "outputs").mkdir(exist_ok=True)
        (run_dir / "outputs" / "model.pkl").write_bytes(b"model")
        models.register(root, run_dir, name, "outputs/model.pkl", {"odd@tag": "x" * 20_000, "labrun.run": "other"})
    lines = model_journal.path(root).read_text().splitlines()
    far, none = {**json.loads(lines[1]), "number": 10**9}, {**json.loads(lines[1]), "name": "none"}
    bad = [{**none, **odd} for odd in ({"data": [7]}, {"files": 7}, {"tags": {"a": 1}}, {"file": "x"}, {"run": None})]
    texts = [lines[0], json.dumps(far), *map(json.dumps, bad), lines[2], "[1]", '{"event": 7}', "[" * 100_000, ""]
    model_journal.path(root).write_text("\n".join(texts))
    fed = mlflow_sync(root)
    client = mlflow_client.connect(root, mlflow_client.database_uri(root))
    versions = {one.name: one for one in client.search_model_versions()}
    assert set(versions) == {"good", "fine"}
    assert fed.left_out == ["model bad/1000000000: MLflow only counts up, and the highest number there is 0"]
    assert [one.title for one in model_journal.every(model_journal.read(root))] == [
        "bad/1000000000",
        "fine/1",
        "good/1",
    ]
    assert versions["good"].tags["labrun.run"] == "0aaa0000" and len(versions["good"].tags) >= 6
