"""Commands, processes and environments of control scripts: the current interpreter, or a built one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import labrun
from helpers import lab
from labrun.azureml import environment, installed
from labrun.azureml.conda_dependencies import CondaDependencies
from labrun.azureml.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from labrun.azureml.environment import Environment
from labrun.azureml.estimators import Estimator, Nccl
from labrun.azureml.experiment import Experiment
from labrun.azureml.run_configuration import RunConfiguration
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import notice
from labrun.compat.azureml.exceptions import NotInLabrun, UserErrorException
from labrun.submission import conda


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    monkeypatch.setattr(notice, "_printed", set())
    return Workspace.from_config()


def test_packages_are_added_changed_and_written_as_a_conda_file(tmp_path: Path) -> None:
    made = (
        CondaDependencies.create(["--no-deps"], None, ["scikit-learn=0.20"], python_version="3.6.2") if False else None
    )
    made = CondaDependencies.create(pip_packages=["azureml-sdk", "six==1.0"], conda_packages=["scikit-learn=0.20"])
    assert made.python_version is None
    made.set_python_version("3.6.2")
    made.set_python_version("3.7")
    for one in ("six==1.1", "Six==1.2"):
        made.add_pip_package(one)
    made.add_conda_package("scikit-learn")
    made.add_channel("pytorch")
    made.set_pip_index_url("https://example.org")
    assert list(made.conda_packages) == ["python=3.7", "scikit-learn"] and made.get_python_version() == "3.7"
    assert list(made.pip_packages) == ["azureml-sdk", "Six==1.2"] and list(made.conda_channels)[-1] == "pytorch"
    assert made.save_to_file(tmp_path, "mine.yml") == "mine.yml"
    again = CondaDependencies(tmp_path / "mine.yml")
    assert again.as_dict() == made.as_dict() and again.serialize_to_string() == made.serialize_to_string()
    assert again.wanted() == conda.Requirements(
        "==3.7.*", ["scikit-learn", "--index-url https://example.org", "Six==1.2"]
    )
    again.remove_pip_package("six")
    again.remove_conda_package("scikit-learn")
    assert list(again.pip_packages) == ["azureml-sdk"] and list(again.conda_packages) == ["python=3.7"]
    for text, message in (
        ("- six\n", "write keys, such as"),
        ("dependencies: six\n", "its `dependencies` is not a list"),
    ):
        (tmp_path / "bad.yml").write_text(text)
        with pytest.raises(UserErrorException, match=f"is not a conda file: {message}"):
            CondaDependencies(tmp_path / "bad.yml")


def test_environments_are_registered_with_versions(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# ours\nsix==1.17.0  # pinned\n")
    made = Environment.from_pip_requirements("mine", "requirements.txt")
    made.environment_variables["A"] = "1"
    assert made.register(ws).version == made.register(ws).version == "1"
    made.python.conda_dependencies.add_pip_package("attrs")
    assert made.register(ws).version == made.version == "2"
    first, newest = Environment.get(ws, "mine", version="1"), Environment.get(ws, name="mine")
    assert [list(one.python.conda_dependencies.pip_packages) for one in (first, newest)] == [
        ["six==1.17.0"],
        ["six==1.17.0", "attrs"],
    ]
    assert newest.environment_variables == {"A": "1"} and ws.environments["mine"].version == "2"
    copy = newest.clone("other")
    copy.environment_variables["A"] = "2"
    assert (copy.name, copy.version, newest.environment_variables["A"]) == ("other", None, "1")
    newest.save_to_directory("saved")
    assert Environment.load_from_directory("saved").environment_variables == {"A": "1"}
    with pytest.raises(UserErrorException, match=r"'mine' of version 3. Registered: mine"):
        Environment.get(ws, "mine", "3")
    with pytest.raises(UserErrorException, match="can not start with the prefix"):
        Environment("AzureML-mine").register(ws)
    with pytest.raises(NotInLabrun, match="interpreter_path = '/path/to/envs/base/bin/python'"):
        Environment.from_existing_conda_environment("x", "base")


@pytest.mark.parametrize(
    ("name", "packages", "python"),
    [
        ("AzureML-Minimal", [], None),
        ("AzureML-sklearn-0.24-ubuntu18.04-py37-cpu", ["scikit-learn==0.24.*"], "3.7"),
        ("AzureML-Scikit-learn-0.20.3", ["scikit-learn==0.20.3.*"], None),
        ("AzureML-Scikit-learn0.24-Cuda11-OpenMpi4.1.0-py36", ["scikit-learn==0.24.*"], "3.6"),
        ("AzureML-ACPT-pytorch-1.11-py38-cuda11.3-gpu", ["torch==1.11.*", "torchvision"], "3.8"),
        ("AzureML-Tutorial", ["scikit-learn", "pandas"], None),
    ],
)
def test_curated_environments_have_the_packages_of_their_names(
    ws: Workspace, name: str, packages: list[str], python: str | None
) -> None:
    found = Environment.get(ws, name).python.conda_dependencies
    theirs = list(found.pip_packages)
    assert set(packages) <= set(theirs) and theirs[0] == "azureml-defaults" and found.python_version == python


def test_differences_of_the_current_interpreter_are_reported_once(ws: Workspace, capsys: Any) -> None:
    made = Environment("told")
    made.docker.enabled = True
    made.python.conda_dependencies = CondaDependencies.create(
        pip_packages=["no-such-package-of-labrun==1", "hydra-core==0.1", "pytest", "azureml-defaults"],
        conda_packages=["scikit-learn"],
        python_version="3.6",
    )
    assert made.labrun_overrides(ws) == made.labrun_overrides(ws) == []
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, lines
    assert lines[0].startswith("labrun: docker of the environment 'told' is not used")
    assert "lists no-such-package-of-labrun, missing from" in lines[1] and sys.executable in lines[1]
    present = f"Python {'.'.join(map(str, sys.version_info[:3]))} for python==3.6.*"
    assert present in lines[2] and "for hydra-core==0.1;" in lines[2] and "pytest" not in lines[2]
    assert installed.compared(conda.Requirements(None, ["pytest>=1", "x ; python_version<'3'", "-r a.txt"])) == ([], [])


def test_an_environment_becomes_labrun_arguments(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Environment("words")
    made.environment_variables = {"A": "b c"}
    variable = ["+compute.environment.A='b c'"]
    assert made.labrun_overrides(ws) == variable
    monkeypatch.setenv(environment.VARIABLE, "build")
    assert made.labrun_overrides(ws) == variable, "it names no packages"
    made.python.conda_dependencies.add_pip_package("six")
    (built, *rest) = made.labrun_overrides(ws)
    file = Path(built.partition("=")[2].strip("'"))
    assert rest == variable and conda.read(file, azureml=True).lines == ["six"]
    made.python.user_managed_dependencies = True
    assert made.labrun_overrides(ws) == variable
    made.python.interpreter_path = "/usr/bin/python3"
    assert made.labrun_overrides(ws) == ["script.python='/usr/bin/python3'", *variable]
    monkeypatch.setenv(environment.VARIABLE, "any")
    with pytest.raises(UserErrorException, match=f"{environment.VARIABLE}=any: choose current"):
        environment.environment_mode()


GO = """
from azureml.core import Environment, Experiment, ScriptRunConfig, Workspace

ws = Workspace.from_config()
env = Environment.from_conda_specification("mine", "environment.yml")
env.environment_variables = {"SETTING": "a secret"}
env.register(ws)
env.build(ws).wait_for_completion(show_output=True)
config = ScriptRunConfig("src", "train.py", environment=Environment.get(ws, "mine"))
run = Experiment(ws, "built").submit(config)
run.wait_for_completion()
print(run.get_metrics())
"""
TRAIN = """
import os, six
from azureml.core import Run

Run.get_context().log_list("found", [six.__version__, len(os.environ["SETTING"])])
"""


def test_an_environment_is_built_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text(TRAIN)
    (tmp_path / "environment.yml").write_text("dependencies: [six=1.16, {pip: [azureml-defaults]}]\n")
    (tmp_path / "go.py").write_text(GO)
    done = lab(tmp_path, "azureml", "run", "--environments", "build", "go.py")
    assert done.returncode == 0, done.stderr
    assert "Environment mine: built\n{'found': ['1.16.0', 8]}\n" in done.stdout
    assert "a secret" not in (labrun.get_run("last", root=tmp_path).folder / "run.json").read_text()


class Data:
    """As a data set has it."""

    labrun_alias = "rows"

    def labrun_mount(self) -> str:
        return "${mount:rows@1}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python train.py --rate 0.5", ["script.path='./train.py'", "script.positional=['--rate','0.5']"]),
        (
            ["python", "train.py", "--d", Data()],
            ["script.path='./train.py'", "script.positional=['--d','${mount:rows@1}']"],
        ),
        ("echo $A && python train.py", ["script.command='echo $A && python train.py'"]),
        ("bash run.sh ${A}", [r"script.command='bash run.sh \${A}'"]),
        (["bash", "run.sh", Data(), 3], [r"script.command='bash run.sh \'${mount:rows@1}\' 3'"]),
    ],
)
def test_a_command_becomes_labrun_arguments(ws: Workspace, tmp_path: Path, command: Any, words: list[str]) -> None:
    (tmp_path / "train.py").touch()
    config = ScriptRunConfig(command=command)
    assert config.overrides(Experiment(ws, "x"))[3 : 3 + len(words)] == words


@pytest.mark.parametrize(
    ("config", "words", "told"),
    [
        (
            PyTorchConfiguration(process_count=2, node_count=2),
            ["script.processes=2"],
            "node_count=2: a script runs on one",
        ),
        (MpiConfiguration(3), ["script.processes=3"], "mpirun -n 3 python SCRIPT.py"),
        (PyTorchConfiguration(), [], ""),
    ],
)
def test_processes_become_labrun_arguments(
    ws: Workspace, config: Any, words: list[str], told: str, capsys: Any
) -> None:
    (ws.folder / "train.py").touch()
    found = ScriptRunConfig(script="train.py", distributed_job_config=config).overrides(Experiment(ws, "x"))
    assert [word for word in found if "processes" in word] == words and told in capsys.readouterr().err


RANK = """
import os, socket
from azureml.core import Run

rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
meeting = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
assert os.environ["AZ_BATCH_MASTER_NODE"] == "%s:%d" % meeting and os.environ["OMPI_COMM_WORLD_SIZE"] == "4"
if rank == 0:
    with socket.create_server(("", meeting[1])) as server:
        for _ in range(count - 1):
            server.accept()
else:
    import time
    for _ in range(600):
        try:
            socket.create_connection(meeting).close()
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise SystemExit("nobody there")
Run.get_context().log("rank%d on %s" % (rank, os.environ["NODE_RANK"]), local)
if os.environ.get("FAILS") == str(rank):
    raise SystemExit("this one fails")
"""


def test_a_script_runs_in_processes_on_several_machines(
    ws: Workspace, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 15 s: two jobs on Slurm, one after the other, in each of which two machines start an interpreter."""
    (ws.folder / "train.py").write_text(RANK)
    config = ScriptRunConfig(
        ".",
        "train.py",
        compute_target="slurm",
        distributed_job_config=PyTorchConfiguration(process_count=4, node_count=2),
    )
    run = Experiment(ws, "x").submit(config)
    run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Completed", run._work.log_text()
    assert run.get_metrics() == {"rank0 on 0": 0, "rank1 on 0": 1, "rank2 on 1": 0, "rank3 on 1": 1}
    config.run_config.environment.environment_variables["FAILS"] = "3"
    bad = Experiment(ws, "x").submit(config)
    bad.wait_for_completion(raise_on_error=False)
    assert bad.get_status() == "Failed", "a process of another machine than the first failed"


def test_node_counts_and_tensorflow_workers_become_labrun_arguments(ws: Workspace) -> None:
    (ws.folder / "train.py").touch()
    (ws.folder / "conf" / "compute").mkdir(parents=True)
    (ws.folder / "conf" / "compute" / "mine.yaml").write_text("defaults:\n  - slurm\n  - _self_\npartition: x\n")

    def words(config: Any, target: str) -> list[str]:
        made = ScriptRunConfig(script="train.py", distributed_job_config=config, compute_target=target)
        return made.overrides(Experiment(ws, "x"))

    for target in ("slurm", "mine"):
        assert {"script.processes=2", "compute.nodes=2"} <= set(words(MpiConfiguration(2, node_count=2), target))
        assert "script.processes=4" in words(MpiConfiguration(4), target)
        assert not any("gpus_per_run" in word for word in words(MpiConfiguration(4), target))
        with pytest.raises(UserErrorException, match="process_count=3 on node_count=2 machines: give a multiple of 2"):
            words(PyTorchConfiguration(process_count=3, node_count=2), target)
        given = RunConfiguration()
        given.node_count = 2
        with pytest.raises(UserErrorException, match=rf"node_count=2 on compute={target}, but one process: give the"):
            ScriptRunConfig(script="train.py", run_config=given, compute_target=target).overrides(Experiment(ws, "x"))
        given.communicator = "ParameterServer"
        with pytest.raises(UserErrorException, match="TensorFlow's workers run on one machine"):
            ScriptRunConfig(script="train.py", run_config=given, compute_target=target).overrides(Experiment(ws, "x"))
    (ws.folder / "conf" / "compute" / "large.yaml").write_text("defaults:\n  - slurm_gpu\n  - _self_\npartition: x\n")
    for target in ("gpu", "slurm_gpu", "large"):
        assert "compute.gpus_per_run=4" in words(MpiConfiguration(4), target), "a GPU for each process"
    old = Estimator(".", entry_script="train.py", node_count=2, distributed_training=Nccl(), compute_target="slurm")
    assert {"script.processes=1", "compute.nodes=2"} <= set(old.overrides(Experiment(ws, "x")))
    found = words(TensorflowConfiguration(worker_count=3), "local")
    assert "script.processes=3" in found and any(word.startswith("+compute.environment.LABRUN_TF") for word in found)
    assert TensorflowConfiguration().parameter_server_count == RunConfiguration().tensorflow.parameter_server_count == 1
    with pytest.raises(UserErrorException, match="no parameter servers"):
        words(TensorflowConfiguration(worker_count=2, parameter_server_count=1), "local")
