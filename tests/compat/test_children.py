"""Child runs of scripts, and models that scripts register."""

from __future__ import annotations

import json
import socket
import urllib.request
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import labrun
from helpers import draw_none, lab, run_labrun
from labrun.azureml.experiment import Experiment
from labrun.azureml.tensorboard import Tensorboard, export_to_tensorboard
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import UserErrorException

SCRIPT = """
import os
from azureml.core import Model, Run

run = Run.get_context()
with run.child_run("first") as child:
    child.log("loss", 0)
for number, child in enumerate(run.create_children(tag_key="fold", tag_values=[0, 1])):
    child.log("loss", number + 1)
    child.complete() if number else child.fail("bad")
left = run.child_run(name="left")
left.log_row("table", x=1)
assert [c.get_metrics() for c in run.get_children()] == [
    {"table": {"x": 1}}, {"loss": 2}, {"loss": 1}, {"loss": 0}
]
assert left.status == "Running" and left.parent is run
assert [c.tags["fold"] for c in run.get_children(tags="fold")] == ["1", "0"]
os.makedirs("outputs/net/a")
open("outputs/net/a/x.txt", "w").write("x")
open("own.pkl", "w").write("own")
first = run.register_model("net", "outputs/net", tags={"a": 1}, description="of a test")
second = Model.register(run.experiment.workspace, "own.pkl", "own", properties={"b": 2})
print("promised", first.name, first.version, second.id)
try:
    run.register_model("missing", "nothing.pkl")
except Exception as error:
    print(type(error).__name__, error)
os.environ.get("FAIL") and 1 / 0
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("children")
    draw_none(folder)
    (folder / "s.py").write_text(SCRIPT)
    return folder


def models(project: Path) -> list[str]:
    shelf = project / "outputs" / ".labrun" / "models"
    return sorted(path.relative_to(shelf).as_posix() for path in shelf.glob("*/*"))


def test_a_script_starts_child_runs_and_registers_models(project: Path) -> None:
    done = run_labrun("experiment=script", "script.azureml=true", "script.path=s.py", cwd=project)
    assert done.returncode == 0, done.stderr
    run = next(run for run in labrun.runs(root=project) if run.record.task == "script")
    children = run.get_children()
    assert [child.status for child in children] == ["completed", "failed", "completed", "completed"]
    assert children[1].record.reason == "bad" and children[0].tags == {"display_name": "first"}
    assert all(child.parent.id == run.id and child.name == run.name for child in children)
    text = run.log_text()
    assert "promised net 1 own:1" in text and "ModelPathNotFoundException register 'missing'" in text
    assert models(project) == ["net/1", "own/1"] and "Registered net/1" in text
    content = project / "outputs" / ".labrun" / "models" / "net" / "1" / "data" / "model" / "net" / "a" / "x.txt"
    assert content.read_text() == "x"


def test_a_failed_script_registers_no_models(project: Path) -> None:
    before = models(project)
    words = (
        "experiment=script",
        "script.azureml=true",
        "script.path=s.py",
        "name=fails",
        "+compute.environment.FAIL=1",
    )
    assert run_labrun(*words, cwd=project).returncode == 1
    run = next(run for run in labrun.runs(experiment="fails", root=project) if run.record.task == "script")
    assert models(project) == before and run.status == "failed"
    assert [child.status for child in run.get_children()] == ["completed", "failed", "completed", "failed"]


CONTROL = """
import json, os
from azureml.core import Experiment, Model, Run, Workspace

ws = Workspace.from_config()
experiment = Experiment(ws, "by-hand")
run = experiment.start_logging(snapshot_directory=None, display_name="shown")
run.log("a", 1)
run.log_list("l", [1, 2])
run.log_row("t", x=1)
os.makedirs("outputs/plots", exist_ok=True)
open("outputs/plots/a.txt", "w").write("a")
open("m.pkl", "w").write("m")
run.upload_file("outputs/m.pkl", "m.pkl")
run.upload_file("outputs/mlflow/x.pkl", "m.pkl")
run.tag("k", "v")
with run.child_run("below") as child:
    child.log("in", 1)
early = run.register_model("early", "outputs/m.pkl", None, None, "ScikitLearn")
assert early.model_framework == "ScikitLearn"
going = [run.status, run.type, isinstance(run, Run), run.display_name]
run.complete()
late = run.register_model("late", "outputs/m.pkl", None, None, "ScikitLearn")
assert late.model_framework == "ScikitLearn"
run.register_model("short", "mlflow/x.pkl")
run.download_file("mlflow/x.pkl", "x.pkl")
again = Run(experiment, run.id)
again.log("after", 3)
with experiment.start_logging() as other:
    other.log("z", 1)
try:
    with experiment.start_logging() as failing:
        1 / 0
except ZeroDivisionError:
    pass
facts = {
    "going": going,
    "metrics": again.get_metrics(),
    "status": [one.status for one in (run, child, other, failing)],
    "files": [run.get_file_names(), other.get_file_names()],
    "children": [one.id == child.id for one in run.get_children()],
    "parent": child.parent == run,
    "models": [early.version, late.version, open(Model.get_model_path("early")).read()],
    "runs": len(list(experiment.get_runs())),
}
json.dump(facts, open("facts.json", "w"))
"""


def test_start_logging_records_runs_metrics_and_files(project: Path) -> None:
    (project / "go.py").write_text(CONTROL)
    done = lab(project, "azureml", "run", "go.py")
    assert done.returncode == 0, done.stderr
    found = json.loads((project / "facts.json").read_text())
    assert found["going"] == ["Running", "azureml.interactive", True, "shown"]
    assert found["metrics"] == {"a": 1, "l": [1, 2], "after": 3, "t": {"x": 1}}
    assert found["status"] == ["Completed", "Completed", "Completed", "Failed"] and found["runs"] == 3
    assert found["files"] == [
        ["driver.log", "outputs/m.pkl", "outputs/mlflow/x.pkl", "outputs/plots/a.txt"],
        ["driver.log"],
    ]
    assert found["children"] == [True] and found["parent"]
    assert found["models"] == [1, 1, "m"]


BELOW = """
import json
from azureml.core import Environment, Experiment, Run, ScriptRunConfig, Workspace
from azureml.train.hyperdrive import GridParameterSampling, HyperDriveConfig, PrimaryMetricGoal, choice

ws = Workspace.from_config()
experiment = Experiment(ws, "above")
env = Environment("mine").register(ws)
with experiment.start_logging(snapshot_directory=None) as run:
    one = run.submit_child(ScriptRunConfig(".", "inner.py", environment=env), tags={"a": "b"})
    search = run.submit_child(HyperDriveConfig(
        GridParameterSampling({"--k": choice(1)}), "score", PrimaryMetricGoal.MAXIMIZE,
        run_config=ScriptRunConfig(".", "inner.py", environment=env)))
    early = one.get_metrics()
    one.download_file("outputs/done.txt", "done.txt")
    waited = [early["score"], json.dumps(early)]
    details = one.wait_for_completion()
    waited.append(one.status)
    search.wait_for_completion()
json.dump({
    "parents": [one.parent == run, search.parent == run, [c.parent == search for c in search.get_children()]],
    "children": sorted(c.id for c in run.get_children()) == sorted([one.id, search.id]),
    "tops": [r.id for r in experiment.get_runs()] == [run.id],
    "all": len(list(experiment.get_runs(include_children=True))),
    "environment": [one.get_environment().name, one.get_environment().version, one.get_tags()],
    "details": [details["startTimeUtc"][-1], details["runDefinition"]["environment"]],
    "ids": [run.id, one.id],
    "waited": waited,
}, open("below.json", "w"))
"""
INNER = """
import argparse
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--k", type=int, default=0)
run = Run.get_context()
run.log("score", parser.parse_args().k)
open("outputs/done.txt", "w").close()
above = run.parent
print("ABOVE", above.id, type(above).__name__, run.get_environment().name)
above.log("from_below", 1) if not hasattr(above, "get_best_run_by_primary_metric") else None
"""


def test_a_run_can_submit_runs_and_searches(project: Path) -> None:
    """Over 15 s on a busy machine: a run, and a search of one."""
    (project / "inner.py").write_text(INNER)
    (project / "below.py").write_text(BELOW)
    done = lab(project, "azureml", "run", "below.py")
    assert done.returncode == 0, done.stderr
    found = json.loads((project / "below.json").read_text())
    assert found["parents"] == [True, True, [True]] and found["children"] and found["tops"] and found["all"] == 4
    assert found["environment"] == ["mine", "1", {"a": "b"}]
    assert found["waited"] == [0, '{"score": 0}', "Completed"], "what the script had yet to leave was waited for"
    assert found["details"][0] == "Z" and found["details"][1]["name"] == "mine"
    above, one = found["ids"]
    shown = lab(project, "runs", "show", one).stdout
    assert above in next(line for line in shown.splitlines() if line.split()[:1] == ["parent"])
    work = labrun.get_run(one, root=project)
    assert work.parent.id == above and f"ABOVE {above}" in work.log_text() and "from_below" in work.parent.get_metrics()
    (trial,) = [run for run in labrun.runs(experiment="above", root=project) if run.record.sweep]
    assert trial.parent.parent.id == above and "HyperDriveRun" in trial.log_text()
    assert above in lab(project, "runs", "show", trial.id).stdout


def test_runs_and_their_children_are_exported_to_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and its child are exported, and a TensorBoard shows what a run wrote to `logs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    run = Experiment(Workspace(), "shown").start_logging(snapshot_directory=None)
    for value in (3, 2):
        run.log("loss", value)
    run.log("word", "text")
    with run.child_run("below") as child:
        child.log_list("scores", [0.5, 0.75])
    export_to_tensorboard(run, "exported")
    found = {}
    for folder in Path("exported").iterdir():
        events = EventAccumulator(str(folder)).Reload()
        for tag in events.Tags()["tensors"]:
            found[folder.name, tag] = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
    assert found == {(run.id, "loss"): [(0, 3), (1, 2)], (child.id, "scores"): [(0, 0.5), (1, 0.75)]}
    export_to_tensorboard(child, run._folder / "logs" / "tb")
    board = Tensorboard([run])
    try:
        address, shown = board.start(), []
        while not shown:
            with urllib.request.urlopen(f"{address}data/plugin/scalars/tags") as answer:
                shown = list(json.load(answer))
    finally:
        board.stop()
    assert shown == [f"{run.id}/tb/{child.id}"]
    with socket.create_server(("localhost", 0)) as taken, pytest.raises(UserErrorException, match="port .* is taken"):
        Tensorboard([], port=taken.getsockname()[1]).start()
    run.complete()
