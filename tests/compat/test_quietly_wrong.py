"""Calls of the SDK that could silently return a wrong result, and must not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labrun import program
from labrun.azureml import automl_data
from labrun.azureml.data_reference import OutputFileDatasetConfig
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.script_inputs import ScriptInputs
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import finder
from labrun.compat.azureml.exceptions import UserErrorException


@pytest.fixture(autouse=True)
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    return Workspace.from_config()


class Mounted:
    """Data as they are given to a script."""

    def __init__(self, mount: str, alias: str, name: str | None = None, table: Any = None) -> None:
        self._mount, self.labrun_alias, self.labrun_name, self.labrun_table = mount, alias, name, table

    def labrun_mount(self) -> str:
        return self._mount


def test_a_separator_of_several_characters_is_not_a_pattern() -> None:
    Path("a.csv").write_text("a||b\n1||x|y\n")
    dataset = finder.find("azureml.core", "Dataset")
    frame = dataset.Tabular.from_delimited_files("a.csv", separator="||").to_pandas_dataframe()
    assert frame.to_dict("list") == {"a": [1], "b": ["x|y"]}


def test_two_inputs_are_not_taken_for_one() -> None:
    inputs = ScriptInputs({})
    first, other = Mounted("${mount:t@1}", "old", "t", [1]), Mounted("${mount:t@2}", "new", "t")
    inputs.argument(first)
    inputs.argument(other)
    words = " ".join(inputs.words())
    assert "old:'${mount:t@1}'" in words and "new:'${mount:t@2}'" in words and "t:'${mount:t@1}'" in words
    assert "script.tables={old:[1],t:[1]}" in words, "each version is read in its own way"
    with pytest.raises(UserErrorException, match="two inputs of the script are called 'old'"):
        inputs.argument(Mounted("${mount:u}", "old"))


def test_what_a_run_configuration_says_counts() -> None:
    Path("train.py").write_text("")
    config = ScriptRunConfig(".", "train.py", run_config=RunConfiguration(arguments=["--epochs", "50"]))
    assert config._run_words(ScriptInputs({}))[1] == "script.positional=['--epochs','50']"
    assert ScriptRunConfig(".", run_config=RunConfiguration(script="train.py")).script == "train.py"
    with pytest.raises(UserErrorException, match="give a DataPath"):
        ScriptRunConfig(".", "train.py", resume_from="run")


@pytest.mark.parametrize("command", ["python a.py\npython b.py", "python a.py --data ~/d", "python a.py [ab]"])
def test_a_command_for_a_shell_goes_to_one(command: str) -> None:
    Path("a.py").write_text("")
    (word,) = ScriptRunConfig(".", command=command)._run_words(ScriptInputs({}))
    assert word.startswith("script.command=") and "a.py" in word


def test_samples_without_a_target_and_weight_columns_are_not_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_an_output_is_another_folder_for_each_run() -> None:
    output = OutputFileDatasetConfig("model")
    first, second = output.labrun_mount(), output.labrun_mount()
    assert first != second and output.path_on_datastore in second


def test_a_models_download_leaves_what_else_is_there(ws: Workspace) -> None:
    Path("made").mkdir()
    Path("made/weights.txt").write_text("w")
    model = finder.find("azureml.core", "Model")
    registered = model.register(ws, model_path="made", model_name="data")
    Path("data").mkdir()
    Path("data/own.txt").write_text("mine")
    target = Path(registered.download(exist_ok=True))
    assert Path("data/own.txt").read_text() == "mine"
    assert [path.read_text() for path in target.rglob("weights.txt")] == ["w"]


def test_a_programs_command_is_kept_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["python", "train.py", "--api-key=sk-1", "--password", "hunter2", "--epochs", "3"]
    monkeypatch.setattr(sys, "orig_argv", given)
    assert program._command().endswith("train.py '--api-key=***' --password '***' --epochs 3")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "token = 'x'"])
    assert "token" not in program._command()


def test_metrics_of_the_runs_below_are_reported_by_run(ws: Workspace) -> None:
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
