"""Calls of the SDK that could silently return a wrong result, and must not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers import submitted
from labrun.api import program
from labrun.azureml import automl_data
from labrun.azureml.compute import AmlCompute
from labrun.azureml.data_configs import OutputFileDatasetConfig
from labrun.azureml.data_reference import DataReference
from labrun.azureml.environment import Environment
from labrun.azureml.experiment import Experiment
from labrun.azureml.hyperdrive import HyperDriveConfig
from labrun.azureml.run import Run
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.sampling import RandomParameterSampling, choice
from labrun.azureml.script_inputs import ScriptInputs
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.tags import TARGET_TAG
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import finder, notice
from labrun.compat.azureml.exceptions import NotInLabrun, UserErrorException
from labrun.compat.azureml.training import dataset as training_dataset


@pytest.fixture(autouse=True)
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    monkeypatch.setattr(notice, "_printed", set())
    return Workspace.from_config()


class Mounted:
    """Data as they are given to a script."""

    def __init__(self, mount: str, alias: str, name: str | None = None, table: Any = None) -> None:
        self._mount, self.labrun_alias, self.labrun_name, self.labrun_table = mount, alias, name, table

    def labrun_mount(self) -> str:
        return self._mount


def test_a_separator_of_several_characters_is_not_a_regex() -> None:
    Path("a.csv").write_text("a||b\n1||x|y\n")
    dataset = finder.find("azureml.core", "Dataset")
    frame = dataset.Tabular.from_delimited_files("a.csv", separator="||").to_pandas_dataframe()
    assert frame.to_dict("list") == {"a": [1], "b": ["x|y"]}


def test_two_versions_of_an_input_are_kept_apart() -> None:
    inputs = ScriptInputs({})
    first, other = Mounted("${mount:t@1}", "old", "t", [1]), Mounted("${mount:t@2}", "new", "t")
    inputs.argument(first)
    inputs.argument(other)
    words = " ".join(inputs.overrides())
    assert "old:'${mount:t@1}'" in words and "new:'${mount:t@2}'" in words and "t:'${mount:t@1}'" in words
    assert "script.tables={old:[1],t:[1]}" in words, "each version is read in its own way"
    with pytest.raises(UserErrorException, match="two inputs of the script are called 'old'"):
        inputs.argument(Mounted("${mount:u}", "old"))


def test_a_run_configurations_script_and_arguments_are_used() -> None:
    Path("train.py").write_text("")
    config = ScriptRunConfig(".", "train.py", run_config=RunConfiguration(arguments=["--epochs", "50"]))
    assert config._run_overrides(ScriptInputs({}))[1] == "script.positional=['--epochs','50']"
    assert ScriptRunConfig(".", run_config=RunConfiguration(script="train.py")).script == "train.py"
    with pytest.raises(UserErrorException, match="give a DataPath"):
        ScriptRunConfig(".", "train.py", resume_from="run")


@pytest.mark.parametrize("command", ["python a.py\npython b.py", "python a.py --data ~/d", "python a.py [ab]"])
def test_a_command_with_shell_syntax_runs_in_a_shell(command: str) -> None:
    Path("a.py").write_text("")
    (word,) = ScriptRunConfig(".", command=command)._run_overrides(ScriptInputs({}))
    assert word.startswith("script.command=") and "a.py" in word


def test_rows_without_a_target_and_weight_columns_are_not_learned(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3, 4], "w": [1, 1, 2, 2], "y": ["a", None, "b", "a"]})
    x, y = automl_data.of_table(frame, "y", "training_data", ["w"])
    data = automl_data.Data({"X": x, "y": y}, is_regression=False)
    assert list(data.parts["X"]) == ["x"] and data.parts["X"]["x"].tolist() == [1, 3, 4]
    assert data.labels == ["a", "b"] and "1 samples have no target" in capsys.readouterr().err
    numbers = automl_data.Data({"X": np.arange(3)[:, None], "y": [0.5, np.nan, 1]}, is_regression=True)
    assert numbers.parts["X"].ravel().tolist() == [0, 2]
    texts = {"said": [f"words of {n}" for n in range(60)], "team": ["red", "blue"] * 30}
    automl_data.Data({"X": pd.DataFrame(texts), "y": ["a", "b"] * 30}, is_regression=False)
    told = capsys.readouterr().err
    assert "column said has 60 different texts in 60 samples" in told and "team" not in told
    with pytest.raises(UserErrorException, match="none of the 3 samples has a target"):
        automl_data.Data({"X": np.arange(3)[:, None], "y": [None, None, None]}, is_regression=False)


def test_each_run_gets_its_own_output_folder() -> None:
    output = OutputFileDatasetConfig("model")
    first, second = output.labrun_mount(), output.labrun_mount()
    assert first != second and output.path_on_datastore in second


def test_a_models_download_keeps_other_files(ws: Workspace) -> None:
    Path("made").mkdir()
    Path("made/weights.txt").write_text("w")
    model = finder.find("azureml.core", "Model")
    registered = model.register(ws, model_path="made", model_name="data")
    Path("data").mkdir()
    Path("data/own.txt").write_text("mine")
    target = Path(registered.download(exist_ok=True))
    assert Path("data/own.txt").read_text() == "mine"
    assert [path.read_text() for path in target.rglob("weights.txt")] == ["w"]


def test_a_programs_command_is_recorded_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["python", "train.py", "--api-key=sk-1", "--password", "hunter2", "--epochs", "3"]
    monkeypatch.setattr(sys, "orig_argv", given)
    assert program._command().endswith("train.py '--api-key=***' --password '***' --epochs 3")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "token = 'x'"])
    assert "token" not in program._command()


def test_metrics_of_child_runs_are_reported_by_run(ws: Workspace) -> None:
    run = finder.find("azureml.core", "Experiment")(ws, "below").start_logging(snapshot_directory=None)
    run.log("a", 1)
    Path("roc.png").write_text("a picture")
    run.log_image("roc", path="roc.png")
    with run.child_run() as child:
        child.log("a", 2)
    with run.child_run():
        pass
    run.complete()
    address = f"aml://artifactId/ExperimentRun/dcid.{run.id}/outputs/roc.png"
    own = {"a": 1, "roc": address}
    assert run.get_metrics() == own and "outputs/roc.png" in run.get_file_names()
    assert run.get_metrics(recursive=True) == {run.id: own, child.id: {"a": 2}}
    assert run.get_metrics("a", recursive=True) == {run.id: {"a": 1}, child.id: {"a": 2}}


def test_steps_that_azure_needed_are_implied_and_reported(ws: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert "by-hand" not in ws.compute_targets and ws.compute_targets() == {} and ws.experiments() == {}
    assert ws.compute_targets["by-hand"].get_status().provisioning_state == "Succeeded"
    assert capsys.readouterr().err.count("the compute target 'by-hand' was never created") == 1
    assert list(ws.compute_targets) == ["by-hand"]
    assert ws.get_default_compute_target("GPU").name == "gpu-cluster"
    assert ws.environments["AzureML-PyTorch-1.6-CPU"].name == "AzureML-PyTorch-1.6-CPU"
    with pytest.raises(KeyError, match="there is no environment 'mine'"):
        ws.environments["mine"]


def test_arguments_and_filters_that_change_a_result_are_used(
    ws: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = finder.find("azureml.core", "Experiment")(ws, "filtered")
    box, other = (AmlCompute.create(ws, name, AmlCompute.provisioning_configuration()) for name in ("box", "other"))
    mine, ended = (experiment.start_logging(snapshot_directory=None) for _ in range(2))
    for run in (mine, ended):
        run.add_properties({TARGET_TAG: "box"})
    ended.complete()
    assert [run.id for run in box.get_active_runs()] == [mine.id] and list(other.get_active_runs()) == []
    assert [run.id for run in Run.list(experiment, status="Completed")] == [ended.id]
    with pytest.raises(UserErrorException, match="the snapshot of the run"):
        ended.restore_snapshot(mine.id)
    monkeypatch.setenv("LABRUN_RUN_DIR", str(mine._folder))
    inside = Run.get_context()
    inside.child_run("a").add_properties({"kind": "a"})
    inside.child_run("b")
    assert [one.display_name for one in inside.get_children(properties={"kind": "a"})] == ["a"]
    assert list(inside.get_children(type="hyperdrive")) == []
    monkeypatch.delenv("LABRUN_RUN_DIR")
    mine.complete()
    experiment.tag("team", "red")
    assert [len(Experiment.list(ws, tags=wanted)) for wanted in (["team"], {"team": "blue"})] == [1, 0]
    model = finder.find("azureml.core", "Model")
    Path("a.txt").write_text("a")
    model.register(ws, "a.txt", "framed", model_framework="TensorFlow")
    assert [len(model.list(ws, model_framework=name)) for name in ("TensorFlow", "ScikitLearn")] == [1, 0]
    Environment("own").register(ws)
    assert Environment.get(ws, "own", label="Latest").version == "1"
    for call, error, message in (
        (lambda: model.list(ws, dataset_id="d"), NotInLabrun, "lab runs show"),
        (lambda: Environment.get(ws, "own", label="stable"), UserErrorException, "label='Latest'"),
        (lambda: OutputFileDatasetConfig(partition_format="/{a}/*.csv"), NotInLabrun, "when the run has completed"),
        (lambda: experiment.submit(ScriptRunConfig(".", "train.py"), tag={"a": "b"}), TypeError, "'tag'"),
        (lambda: experiment.get_runs(statuses="Failed"), TypeError, "'statuses'"),
        (lambda: RandomParameterSampling({"a": choice(1)}, seed=1), TypeError, "'seed'"),
        (lambda: HyperDriveConfig(max_total_run=3), TypeError, "'max_total_run'"),
    ):
        with pytest.raises(error, match=message):
            call()
    OutputFileDatasetConfig("model", source="made").as_upload(source_globs=["*.bin"])
    DataReference(ws.get_default_datastore()).as_upload("made")
    told = capsys.readouterr().err
    assert told.count("the path is not used: the script must write to the folder") == 2 and "source_globs" in told


def test_a_script_gets_no_other_version_of_an_input(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = submitted(ws.folder, "abcd1234")
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**record, "data": [{"path": "/data/rows", "number": 3}]}))
    monkeypatch.setenv("LABRUN_RUN_DIR", str(run_dir))
    monkeypatch.setenv("LABRUN_INPUTS", json.dumps({"rows": "/data/rows"}))
    get = training_dataset.Dataset.get_by_name
    assert [get(ws, "rows", version) for version in (3, "3", "latest")] == ["/data/rows"] * 3
    with pytest.raises(UserErrorException, match=r"input 'rows' is version 3: mount .*mount:rows@2}'"):
        get(ws, "rows", 2)
