"""Estimators, which submitted scripts before `ScriptRunConfig` existed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import draw_none, lab
from labrun.azureml.data_reference import DataPath
from labrun.azureml.distributed import PyTorchConfiguration
from labrun.azureml.environment import Environment
from labrun.azureml.estimators import Estimator, Mpi, PyTorch, SKLearn, TensorFlow
from labrun.azureml.experiment import Experiment
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import UserErrorException


class Data:
    """As a data set has it."""

    labrun_alias = "rows"

    def labrun_mount(self) -> str:
        return "${mount:rows@1}"


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").touch()
    return Workspace.from_config()


def test_an_estimator_becomes_labrun_arguments(ws: Workspace) -> None:
    made = Estimator(
        source_directory="src",
        entry_script="train.py",
        script_params={"--data": Data(), "--rate": 0.5, "--verbose": "", "--text": "a b"},
        compute_target="local",
        environment_variables={"A": "1"},
        max_run_duration_seconds=90,
    )
    assert made.overrides(Experiment(ws, "x")) == [
        "experiment=script",
        "script.azureml=true",
        "script.source='src'",
        "script.path='src/train.py'",
        "script.positional=['--data','${mount:rows@1}','--rate','0.5','--verbose','--text','a b']",
        "script.inputs={rows:'${mount:rows@1}'}",
        "compute=local",
        "compute.timeout_min=1.5",
        "+compute.environment.A='1'",
    ]
    named = Estimator("src", entry_script="train.py", inputs=[Data()])
    assert "script.inputs={rows:'${mount:rows@1}'}" in named.overrides(Experiment(ws, "x"))
    begun = Estimator("src", entry_script="train.py", resume_from=DataPath(ws.get_default_datastore(), "old"))
    assert any(word.startswith("script.positional=['--resume-from'") for word in begun.overrides(Experiment(ws, "x")))
    gloo = PyTorch("src", entry_script="train.py", node_count=2, distributed_backend="gloo")
    assert isinstance(gloo.distributed_training, PyTorchConfiguration) and gloo.distributed_training.process_count == 2
    with pytest.raises(UserErrorException, match="distributed_backend='nccI': choose one of mpi"):
        PyTorch("src", entry_script="train.py", distributed_backend="nccI")
    with pytest.raises(TypeError, match="there is no argument pip_package=. Did you mean 'pip_packages'"):
        PyTorch("src", entry_script="train.py", pip_package=["six"])
    with pytest.raises(UserErrorException, match="SKLearn: give the script, entry_script="):
        SKLearn("src")
    with pytest.raises(UserErrorException, match=r"no script none.py in the source directory src"):
        Estimator("src", entry_script="none.py").overrides(Experiment(ws, "x"))


def test_packages_of_an_estimator_become_requirements(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "src" / "more.txt").write_text("attrs\n")
    (tmp_path / "env.yml").write_text("dependencies: [python=3.7, six]\n")
    torch = PyTorch(
        "src", entry_script="train.py", framework_version="1.4", pip_packages=["six"], conda_packages=["mkl"]
    )
    assert torch.conda_dependencies.wanted().lines == ["torch==1.4.*", "torchvision", "six"]
    files = TensorFlow("src", entry_script="train.py", pip_requirements_file_path="more.txt")
    files.conda_dependencies.add_pip_package("six")
    assert files.run_config.environment.python.conda_dependencies.wanted().lines == ["tensorflow", "attrs", "six"]
    whole = PyTorch("src", entry_script="train.py", conda_dependencies_file="env.yml")
    assert whole.conda_dependencies.wanted().lines == ["six"] and whole.conda_dependencies.python_version == "3.7"
    mine = Environment("mine")
    assert Estimator("src", entry_script="train.py", environment_definition=mine).run_config.environment is mine


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"process_count_per_node": 2, "node_count": 2, "distributed_backend": "mpi"}, ["script.processes=4"]),
        ({"distributed_training": Mpi(3)}, ["script.processes=3"]),
        ({"node_count": 2, "distributed_backend": "ps"}, ["script.processes=2"]),
        ({"node_count": 1, "use_gpu": True, "vm_size": "STANDARD_NC6"}, []),
    ],
)
def test_processes_of_an_estimator_become_labrun_arguments(
    ws: Workspace, given: dict[str, Any], words: list[str]
) -> None:
    found = Estimator("src", entry_script="train.py", **given).overrides(Experiment(ws, "x"))
    assert [word for word in found if "processes" in word] == words
    assert any("LABRUN_TF_CONFIG" in word for word in found) == (given.get("distributed_backend") == "ps")


GO = """
from azureml.core import Experiment, Workspace
from azureml.train.dnn import PyTorch
from azureml.train.estimator import Estimator
from azureml.train.hyperdrive import GridParameterSampling, HyperDriveConfig, PrimaryMetricGoal, choice
from azureml.train.sklearn import SKLearn

exp = Experiment(Workspace.from_config(), "estimators")
made = SKLearn(source_directory="src", entry_script="train.py", script_params={"--rate": 2, "--fast": ""})
config = HyperDriveConfig(estimator=made, hyperparameter_sampling=GridParameterSampling({"--k": choice(1, 2)}),
    primary_metric_name="score", primary_metric_goal=PrimaryMetricGoal.MINIMIZE, max_total_runs=4)
run = exp.submit(made)
search = exp.submit(config)
run.wait_for_completion(show_output=True)
search.wait_for_completion()
best = search.get_best_run_by_primary_metric()
print("ONE", run.get_metrics(), "BEST", best.get_metrics(), best.get_details()["runDefinition"]["arguments"])
"""
TRAIN = """
import argparse
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--fast", action="store_true")
parser.add_argument("--k", type=int, default=5)
args = parser.parse_args()
Run.get_context().log("score", args.rate * args.k * (1 if args.fast else -1))
"""


def test_an_estimator_runs_alone_and_in_a_search(ws: Workspace, tmp_path: Path) -> None:
    """Over 15 s on a busy machine: a run, and a search of two."""
    draw_none(tmp_path)
    (tmp_path / "src" / "train.py").write_text(TRAIN)
    (tmp_path / "go.py").write_text(GO)
    done = lab(tmp_path, "azureml", "run", "go.py")
    assert done.returncode == 0, done.stdout + done.stderr
    words = ["--rate", "2", "--fast", "--k", "1"]
    assert f"ONE {{'score': 10.0}} BEST {{'score': 2.0}} {words}" in done.stdout
