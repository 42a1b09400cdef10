"""Control scripts of the Azure ML SDK whose target is a machine reached over SSH."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import far
import labrun
from conftest import Command
from helpers import lab
from labrun.azureml.compute import ComputeTarget, RemoteCompute
from labrun.azureml.workspace import Workspace
from labrun.remote import remotes

TRAIN = """
import argparse, os, platform
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--data")
run = Run.get_context()
rows = open(os.path.join(parser.parse_args().data, "t.csv")).read().splitlines()
run.log("rows", len(rows))
for fold in range(2):
    with run.child_run(f"fold{fold}") as child:
        child.log("loss", fold + 0.5)
        child.tag("host", platform.node())
open("outputs/model.txt", "w").write("model")
open("checkpoints/state.bin", "w").write("large")
"""
GO = """
import json, sys
from azureml.core import Dataset, Experiment, ScriptRunConfig, Workspace
from azureml.core.compute import RemoteCompute

address, key = sys.argv[1:]
ws = Workspace.from_config()
settings = RemoteCompute.attach_configuration(address=address, username="far", private_key_file=key)
target = RemoteCompute.attach(ws, "mine", settings)
target.wait_for_completion()
store = ws.get_default_datastore()
store.upload("numbers", target_path="numbers", overwrite=True)
data = Dataset.File.from_files(store.path("numbers"))
data.register(ws, "numbers", create_new_version=True)
config = ScriptRunConfig("src", "train.py", ["--data", data.as_mount()], compute_target=target)
run = Experiment(ws, "far").submit(config)
run.wait_for_completion()
children = list(run.get_children())
facts = {
    "status": run.get_status(), "metrics": run.get_metrics(), "target": run.get_details().get("target"),
    "children": sorted([one.get_metrics()["loss"], one.get_status(), one.get_tags()["host"]] for one in children),
    "files": run.get_file_names(),
}
json.dump(facts, open("facts.json", "w"))
"""
AUTOML = """
import json
import numpy as np
from azureml.core import Experiment, Workspace
from azureml.core.compute import RemoteCompute
from azureml.train.automl import AutoMLConfig

ws = Workspace.from_config()
x = np.random.RandomState(0).rand(80, 4)
config = AutoMLConfig(
    "classification", X=x, y=(x[:, 0] > 0.5).astype(int), iterations=1, n_cross_validations=2,
    primary_metric="accuracy", allowed_models=["DecisionTree"],
    enable_voting_ensemble=False, enable_stack_ensemble=False,
    compute_target=RemoteCompute(ws, "mine"),
)
run = Experiment(ws, "automl").submit(config)
run.wait_for_completion()
best, model = run.get_output()
json.dump([best.get_metrics()["accuracy"], model.predict(x[:3]).tolist()], open("facts.json", "w"))
"""


@pytest.fixture
def project(workspace: Path, far_machine: far.Far, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of Azure's; the box is not known to `lab remote` yet."""
    far_machine.make_known(workspace, monkeypatch)
    (workspace / "src").mkdir()
    (workspace / "src" / "train.py").write_text(TRAIN)
    (workspace / "numbers").mkdir()
    (workspace / "numbers" / "t.csv").write_text("a,b\n1,2\n3,4\n")
    (workspace / "go.py").write_text(GO)
    (workspace / "automl.py").write_text(AUTOML)
    return workspace


def test_an_attached_machine_runs_scripts_children_and_automl(
    far_machine: far.Far, project: Path, lab_here: Command
) -> None:
    """Takes over 15 s: two control scripts, and what they submit."""
    known = remotes.get("box")
    remotes.put(remotes.Remote("mine", known.address, python=known.python, ssh_config=known.ssh_config))
    done = lab(project, "azureml", "run", "go.py", far_machine.address, str(far_machine.folder / "user"))
    assert done.returncode == 0, done.stderr
    assert f"compute.host=mine: ssh box, not far@{far_machine.address}" in done.stderr
    found = json.loads((project / "facts.json").read_text())
    host = f"box{far_machine.number}"
    assert found["status"] == "Completed" and found["metrics"] == {"rows": 3} and "outputs/model.txt" in found["files"]
    assert found["children"] == [[0.5, "Completed", host], [1.5, "Completed", host]]
    run = next(run for run in labrun.runs(root=project) if run.record.task == "script")
    assert run.config["compute"]["host"] == "mine" and len(run.get_children()) == 2
    checkpoint = Path(run.folder) / "checkpoints" / "state.bin"
    assert not checkpoint.exists(), "it is large, and fetched only on request"
    assert str(checkpoint) in lab_here("remote", "pull", run.id, "checkpoints").stdout
    assert checkpoint.read_text() == "large"
    assert "nothing new in checkpoints on mine" in lab_here("remote", "pull", run.id).stdout
    child = run.get_children()[0].record
    assert "nothing new in outputs on mine" in lab_here("remote", "pull", child.id, "outputs").stdout
    assert lab_here("runs", "tag", child.id, "mine=1").returncode == 0
    there = f"/home/{far.USER}/.labrun/workspaces/*/outputs/*/*{child.id}"
    assert '"mine"' in far_machine.inside(f"cat {there}/annotations.jsonl")
    assert "removed 1 run on mine" in lab_here("runs", "rm", child.id, "--yes").stdout
    assert far_machine.inside(f"ls -d {there}") == ""
    done = lab(project, "azureml", "run", "automl.py")
    assert done.returncode == 0, done.stderr
    accuracy, predicted = json.loads((project / "facts.json").read_text())
    assert accuracy > 0.5 and len(predicted) == 3


def test_an_attached_machine_becomes_a_known_remote(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab_here: Command
) -> None:
    monkeypatch.setenv(remotes.VARIABLE, str(tmp_path / "config" / "remotes.json"))
    monkeypatch.setenv("LABRUN_ROOT", str(workspace))
    ws = Workspace.from_config()
    RemoteCompute.attach(ws, "mybox", username="me", address="10.1.2.3", ssh_port=2222, password="secret")
    assert remotes.get("mybox").address == "ssh://me@10.1.2.3:2222"
    assert "secret" not in (tmp_path / "config" / "remotes.json").read_text()
    settings = RemoteCompute.attach_configuration(address="10.1.2.4", username="me", private_key_file="~/.ssh/own")
    ComputeTarget.attach(ws, "other", settings)
    config = Path(str(remotes.get("other").ssh_config))
    assert (
        remotes.get("other").address == "me@10.1.2.4" and f'IdentityFile "{Path.home()}/.ssh/own"' in config.read_text()
    )
    RemoteCompute.attach(ws, "later", username="me", address="<its address>")
    assert "later" not in remotes.known() and ComputeTarget(ws, "later").name == "later"
