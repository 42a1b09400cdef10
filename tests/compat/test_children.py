"""What scripts do with their run beside logging: runs below it, and models that it registers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import labrun
from helpers import lab, run_labrun

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
    (folder / "s.py").write_text(SCRIPT)
    return folder


def models(project: Path) -> list[str]:
    shelf = project / "outputs" / ".labrun" / "models"
    return sorted(path.relative_to(shelf).as_posix() for path in shelf.glob("*/*"))


def test_children_and_models_of_a_script(project: Path) -> None:
    done = run_labrun("experiment=script", "script.azureml=true", "script.path=s.py", cwd=project)
    assert done.returncode == 0, done.stderr
    run = next(run for run in labrun.runs(root=project) if run.record.task == "script")
    children = run.get_children()
    assert [child.status for child in children] == ["completed", "failed", "completed", "completed"]
    assert children[1].record.reason == "bad" and children[0].tags == {"display_name": "first"}
    assert all(child.parent.id == run.id and child.name == run.name for child in children)
    text = run.log_text()
    assert "promised net 1 own:1" in text and "UserErrorException register 'missing'" in text
    assert models(project) == ["net/1", "own/1"] and "Registered net/1" in text
    content = project / "outputs" / ".labrun" / "models" / "net" / "1" / "data" / "model" / "net" / "a" / "x.txt"
    assert content.read_text() == "x"


def test_a_script_that_fails_registers_nothing(project: Path) -> None:
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
import json
from azureml.core import Experiment, Model, Run, Workspace

ws = Workspace.from_config()
experiment = Experiment(ws, "by-hand")
run = experiment.start_logging(snapshot_directory=None, display_name="shown")
run.log("a", 1)
run.log_list("l", [1, 2])
run.log_row("t", x=1)
open("m.pkl", "w").write("m")
run.upload_file("outputs/m.pkl", "m.pkl")
run.tag("k", "v")
with run.child_run("below") as child:
    child.log("in", 1)
early = run.register_model("early", "outputs/m.pkl")
going = [run.status, run.type, isinstance(run, Run), run.display_name]
run.complete()
late = run.register_model("late", "outputs/m.pkl")
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
    "files": run.get_file_names(),
    "children": [one.id == child.id for one in run.get_children()],
    "parent": child.parent == run,
    "models": [early.version, late.version, open(Model.get_model_path("early")).read()],
    "runs": len(list(experiment.get_runs())),
}
json.dump(facts, open("facts.json", "w"))
"""


def test_start_logging(project: Path) -> None:
    (project / "go.py").write_text(CONTROL)
    done = lab(project, "azureml", "run", "go.py")
    assert done.returncode == 0, done.stderr
    found = json.loads((project / "facts.json").read_text())
    assert found["going"] == ["Running", "azureml.interactive", True, "shown"]
    assert found["metrics"] == {"a": 1, "l": [1, 2], "after": 3, "t": {"x": 1}}
    assert found["status"] == ["Completed", "Completed", "Completed", "Failed"] and found["runs"] == 3
    assert found["files"] == ["driver.log", "outputs/m.pkl"] and found["children"] == [True] and found["parent"]
    assert found["models"] == [1, 1, "m"]
