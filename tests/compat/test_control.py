"""Control scripts and notebooks of the SDK: their submissions, for each way to start them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import labrun
from conftest import Command
from helpers import draw_none, lab
from labrun.azureml import compute, names, overrides
from labrun.azureml.compute import AmlCompute, ComputeTarget
from labrun.azureml.environment import PythonSection
from labrun.azureml.estimators import Estimator
from labrun.azureml.experiment import Experiment
from labrun.azureml.run import Run
from labrun.azureml.script_inputs import ScriptInputs
from labrun.azureml.script_run_config import ScriptRunConfig
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml import finder, notice, runner
from labrun.compat.azureml.exceptions import (
    ActivityFailedException,
    ComputeTargetException,
    ExperimentExecutionException,
    NotInLabrun,
    UserErrorException,
)

TRAIN = """
import argparse
import os
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--text")
args = parser.parse_args()
run = Run.get_context()
run.log("rate", args.rate)
run.log_list("list", [1])
run.log_row("table", x=1, y=2.5)
run.log_row("table", x=3, y=4.5)
run.log("text", args.text)
with open("outputs/model.txt", "w") as file:
    file.write("model")
print("inside", run.get_metrics())
assert os.environ["AZUREML_RUN_ID"] == run.id and os.environ["AZUREML_ARM_PROJECT_NAME"] == "day1"
"""
SUBMIT = """
import urllib
from azureml.core import Experiment, Run, ScriptRunConfig, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException

urllib.request  # the SDK has imported it
ws = Workspace.from_config()
try:
    target = ComputeTarget(workspace=ws, name="cpu-cluster")
except ComputeTargetException:
    settings = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=4)
    target = ComputeTarget.create(ws, "cpu-cluster", settings)
target.wait_for_completion(show_output=True)
text = "${x} it's, [a]"
config = ScriptRunConfig(".\\\\src", "train.py", ["--rate", 0.5, "--text", text], compute_target=target)
run = Experiment(ws, "day1").submit(config, tags={"mine": "1"})
"""
READ = """
import os
from azureml.core import Dataset

os.makedirs("data/rows", exist_ok=True)
open("data/rows/a.csv", "w").write("a,b\\n1,2\\n3,4\\n")
table = Dataset.Tabular.from_delimited_files((ws.get_default_datastore(), "rows")).register(ws, "rows")
print(Dataset.get_by_name(ws, "rows").to_pandas_dataframe().shape)
"""
LOOK_BACK = """
import json, os

run.wait_for_completion(show_output=True)
run.download_file("outputs/model.txt", "copy.txt")
run.download_file("azureml-logs/70_driver_log.txt", "log.txt")
run.download_files("user_logs", "logs")
logs = [open("log.txt").read(), open("logs/user_logs/std_log.txt").read()]
logs.append(run.get_details_with_logs()["logFiles"]["azureml-logs/70_driver_log.txt"])
model = run.register_model("day1", "outputs/model.txt", {"a": "b"}, None, "ScikitLearn", "1.0", "told")
facts = {
    "metrics": run.get_metrics(),
    "status": [run.status, run.get_status(), run.get_details()["status"]],
    "arguments": run.get_details()["runDefinition"]["arguments"],
    "files": run.get_file_names(),
    "tags": run.tags,
    "type": run.type,
    "number": run.number,
    "model": [model.name, model.version, model.model_framework, model.model_framework_version, model.description],
    "again": Run.get(ws, run.id) == run and Run(run.experiment, run.id) == run,
    "isinstance": isinstance(run, Run),
    "all": [one.id == run.id for one in run.experiment.get_runs()],
    "logs": [logs[0] == text and "inside" in text for text in logs],
    "error": "error" in run.get_details(),
    "sockets": [name for name in os.listdir(".") if "ipc" in name],
    "nodes": target.get_status().serialize()["scaleSettings"]["maxNodeCount"],
}
json.dump(facts, open("facts.json", "w"))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A control script's folder."""
    return written(tmp_path_factory.mktemp("control"))


def written(folder: Path) -> Path:
    draw_none(folder)
    (folder / "src").mkdir()
    (folder / "src" / "train.py").write_text(TRAIN)
    return folder


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    (folder / "facts.json").unlink()
    return found


def check(found: dict[str, Any]) -> None:
    table = {"x": [1, 3], "y": [2.5, 4.5]}
    assert found["metrics"] == {"rate": 0.5, "list": 1, "table": table, "text": "${x} it's, [a]"}
    assert found["status"] == ["Completed"] * 3 and found["tags"] == {"mine": "1"}
    assert found["arguments"] == ["--rate", "0.5", "--text", "${x} it's, [a]"]
    assert {"driver.log", "outputs/model.txt"} <= set(found["files"]) and "run.json" not in found["files"]
    assert found["type"] == "azureml.scriptrun" and found["again"] and found["isinstance"]
    assert found["model"][0] == "day1" and found["nodes"] == 4 and found["all"][0]
    assert found["logs"] == [True] * 3 and not found["error"] and not found["sockets"]


def test_a_control_script_submits_a_run_and_registers_its_model(project: Path) -> None:
    (project / "go.py").write_text(SUBMIT + LOOK_BACK)
    done = lab(project, "azureml", "run", "go.py")
    assert done.returncode == 0, done.stderr
    found = facts(project)
    check(found)
    assert (
        found["number"] == 1
        and found["model"] == ["day1", 1, "ScikitLearn", "1.0", "told"]
        and (project / "copy.txt").read_text() == "model"
    )
    assert f"inside {found['metrics']}" in done.stdout, "inside and outside, the metrics are the same"
    assert done.stderr.count("stands for compute=local, at most 4 runs at once") == 1
    record = labrun.get_run("last", root=project).record
    assert record.config["compute"]["max_parallel"] == 4 and record.config["compute"]["target"] == "local"


def test_a_run_outlives_the_script_that_submits_it(project: Path) -> None:
    (project / "leave.py").write_text(SUBMIT + READ)
    done = lab(project, "azureml", "run", "leave.py")
    assert done.returncode == 0 and "stands for" not in done.stderr, "the target is in the table by now"
    assert done.stdout.endswith("(2, 2)\n") and "Mounting" not in done.stdout, "what it prints is its own"
    run = labrun.get_run("last", root=project)
    assert run.wait_for_completion(timeout_s=120)["status"] == "completed"


def test_a_failing_control_script_shows_pythons_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "go.py").write_text(
        "from azureml.core import Experiment, Workspace\n"
        "run = Experiment(Workspace.from_config(), 'x').start_logging(snapshot_directory=None)\n"
        "open('absent.csv')\n"
    )
    done = lab(tmp_path, "azureml", "run", "go.py")
    assert done.returncode == 1 and 'go.py", line 3, in <module>\n' in done.stderr
    assert "FileNotFoundError: [Errno 2] No such file or directory: 'absent.csv'" in done.stderr
    assert "lab:" not in done.stderr and [run.status for run in labrun.runs(root=tmp_path)] == ["failed"]


def test_a_control_script_submits_a_run_on_slurm(tmp_path: Path, cluster: None) -> None:
    project = written(tmp_path)  # of its own: the target is created here, too
    (project / "go.py").write_text(SUBMIT + LOOK_BACK)
    done = lab(project, "azureml", "run", "--compute", "slurm", "go.py")
    assert done.returncode == 0, done.stderr
    check(facts(project))
    assert labrun.get_run("last", root=project).config["compute"]["target"] == "slurm"


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return [SUBMIT, "from azureml.widgets import RunDetails\nRunDetails(run).show()\nrun", LOOK_BACK]


def test_a_notebook_is_executed_and_saved(project: Path, cells: list[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in [*cells, "1 / 0"]])
    nbformat.write(notebook, project / "book.ipynb")
    # From another folder than the notebook's, which is where its kernel works.
    done = lab(project / "src", "azureml", "run", "../book.ipynb", "--output", "../done.ipynb")
    assert done.returncode != 0 and "book.ipynb: cell 4 failed: ZeroDivisionError" in done.stderr
    check(facts(project))
    saved = nbformat.read(project / "done.ipynb", as_version=4)
    shown, table = (output["data"]["text/html"] for output in saved.cells[1].outputs)
    assert ("day1" in shown and "Completed" in shown + table) or "Running" in table or "Queued" in table
    assert "Streaming driver.log" in saved.cells[2].outputs[0]["text"]
    assert nbformat.read(project / "book.ipynb", as_version=4).cells[0].execution_count is None


def test_the_extension_turns_a_plain_kernel_into_labruns(project: Path, cells: list[str]) -> None:
    first = "try:\n    import azureml\nexcept ImportError:\n    print('none')"
    texts = [first, "%load_ext labrun.azureml", *cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in texts])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(project)}}).execute()
    assert notebook.cells[0].outputs[0]["text"] == "none\n"
    check(facts(project))


# In this process


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    monkeypatch.delenv("LABRUN_WORKSPACE", raising=False)
    return Workspace.from_config()


def test_a_workspace_takes_its_names_from_config_json(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (ws.name, ws.folder) == (tmp_path.name, tmp_path)
    Workspace("an-id", "a-group", "mine").write_config()
    (tmp_path / "below").mkdir()
    os.chdir(tmp_path / "below")
    found = Workspace.from_config()
    assert (found.name, found.resource_group, found.subscription_id) == ("mine", "a-group", "an-id")
    assert found.folder == tmp_path and "mine" in repr(found) and list(Workspace.list()) == [tmp_path.name]
    assert found.get_details()["name"] == "mine" and found.webservices == {}
    with pytest.raises(NotInLabrun, match="lab runs rm"):
        found.delete()
    with pytest.raises(NotInLabrun, match="Workspace.diagnose is part of Azure ML"):
        found.diagnose()
    assert not hasattr(found, "connections")
    monkeypatch.delenv("LABRUN_ROOT")
    monkeypatch.setattr(notice, "_printed", set())
    Workspace.from_config()
    told = f"the workspace is {tmp_path}/below, but config.json is in {tmp_path}: set LABRUN_ROOT={tmp_path} to give"
    assert told in capsys.readouterr().err


def test_compute_targets_are_found_in_the_config_and_in_the_table(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ComputeTargetException, match="name nobody not found"):
        ComputeTarget(workspace=ws, name="nobody")
    made = ComputeTarget.create(ws, "cluster", AmlCompute.provisioning_configuration("STANDARD_D2", max_nodes=3))
    again = AmlCompute(ws, "cluster")
    assert type(ComputeTarget(ws, "cluster")) is AmlCompute and again.vm_size == made.vm_size == "STANDARD_D2"
    assert made.provisioning_state == "Succeeded" and list(ws.compute_targets) == ["cluster"]
    assert (
        compute.overrides(made, ws) == compute.overrides("cluster", ws) == ["compute=local", "compute.max_parallel=3"]
    )
    assert compute.overrides(None, ws) == compute.overrides("local", ws) == ["compute=local"]
    made.update(max_nodes=2)
    assert compute.overrides("cluster", ws)[1] == "compute.max_parallel=2"
    monkeypatch.setenv(compute.VARIABLE, "slurm")
    assert compute.overrides("cluster", ws)[0] == compute.overrides("unheard-of", ws)[0] == "compute=slurm"
    assert compute.overrides("gpu", ws) == ["compute=gpu"], "a choice of conf/compute is what it says"
    made.delete()
    assert ws.compute_targets == {}
    with pytest.raises(ComputeTargetException, match="pass the result of AmlCompute.provisioning_configuration"):
        ComputeTarget.create(ws, "cluster", None)
    with pytest.raises(ComputeTargetException, match="max_nodes must be at least 1, and at least min_nodes"):
        ComputeTarget.create(ws, "cluster", AmlCompute.provisioning_configuration(min_nodes=2, max_nodes="1"))
    with pytest.raises(NotInLabrun, match=r"AmlCompute\.list_usages is part of Azure ML"):
        AmlCompute.list_usages(ws)
    assert not hasattr(Run, "no_such_thing") and ws.compute_targets == {}


def test_failed_and_interrupted_runs_raise_the_errors_of_the_sdk(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("import sys, time\ntime.sleep(60) if len(sys.argv) > 1 else 1 / 0\n")
    slow = Experiment(ws, "x").submit(ScriptRunConfig("src", "train.py", ["slow"]))
    bad = Experiment(ws, "x").submit(ScriptRunConfig("src", "train.py"))
    threading.Timer(2, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(ExperimentExecutionException, match="the run is still executing"):
        slow.wait_for_completion(show_output=True)
    assert slow.get_status() == "Running"
    slow.cancel()
    assert slow.wait_for_completion()["status"] == "Canceled" and "error" not in slow.get_details()
    with pytest.raises(ActivityFailedException, match="ZeroDivisionError: division by zero"):
        bad.wait_for_completion()
    error = bad.wait_for_completion(raise_on_error=False)["error"]["error"]
    assert bad.get_status() == "Failed" and error["code"] == "UserError" and "ZeroDivision" in error["message"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ws: Experiment(ws, "a b"), "'a b' is invalid"),
        (lambda ws: Experiment(ws, "x").submit(3), "submit a ScriptRunConfig"),
        (lambda ws: ScriptRunConfig("."), "give either script= and arguments=, or command="),
        (lambda ws: Experiment(ws, "x").submit(ScriptRunConfig(".", "no.py")), "there is no script no.py"),
        (lambda ws: Experiment(ws, "x").submit(notebook(ws, ["--rate", 1])), "a.ipynb is a notebook, .* no arguments"),
        (lambda ws: Experiment(ws, "x").submit(notebook(ws, python="python3.9")), "labrun's own interpreter"),
        (lambda ws: ScriptRunConfig(".", "a.py", "--rate 1"), "arguments='--rate 1': give a list"),
        (lambda ws: ScriptRunConfig(".", "a.py", run_config="local"), r"run_config='local': give RunConfiguration"),
        (lambda ws: ScriptRunConfig(".", "a.py", environment="AzureML-Minimal"), "give an Environment"),
        (lambda ws: ScriptRunConfig(".", "a.py", compute_target=3), "compute_target=3: give a name"),
        (lambda ws: Estimator(".", entry_script="a.py", script_params=["--a"]), "script_params=.*: give a dictionary"),
        (lambda ws: Run(Experiment(ws, "x"), "nobody"), "no run is called 'nobody'"),
    ],
)
def test_mistakes_are_reported(ws: Workspace, call: Any, message: str) -> None:
    with pytest.raises(UserErrorException, match=message):
        call(ws)


def notebook(ws: Workspace, arguments: Any = (), python: str | None = None) -> ScriptRunConfig:
    """A notebook as a script, in a folder below the source's."""
    cell = nbformat.v4.new_code_cell(
        "from azureml.core import Run\nRun.get_context().log('x', 2)\nopen('outputs/made.txt', 'w').close()\n"
        "print('in', Run.get_context().id)"
    )
    (ws.folder / "books").mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), ws.folder / "books" / "a.ipynb")
    made = ScriptRunConfig(".", "books/a.ipynb", list(arguments))
    if python is not None:
        made.run_config.environment.python.user_managed_dependencies = True
        made.run_config.environment.python.interpreter_path = python
    return made


def test_a_notebook_submitted_as_a_script_is_saved_with_its_outputs(ws: Workspace) -> None:
    script = notebook(ws)
    # Its command has variables of its own, and would leave a warm interpreter of its own behind.
    script.run_config.environment.environment_variables["LABRUN_WARM"] = "0"
    run = Experiment(ws, "book").submit(script)
    run.wait_for_completion()
    assert run.get_metrics() == {"x": 2} and {"outputs/a.ipynb", "outputs/made.txt"} <= set(run.get_file_names())
    run.download_file("outputs/a.ipynb", "saved.ipynb")
    (cell,) = nbformat.read("saved.ipynb", as_version=4).cells
    assert cell.outputs[0]["text"] == f"in {run.id}\n"


def test_a_kernel_is_installed(lab_here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    done = lab_here("azureml", "kernel", "--name", "mine")
    assert done.returncode == 0 and "installed the kernel mine" in done.stdout
    spec = json.loads((tmp_path / "kernels" / "mine" / "kernel.json").read_text())
    assert spec["argv"][:3] == [sys.executable, "-m", "labrun.azureml.kernel"]
    refused = lab_here("azureml", "kernel", "--name", "../mine")
    assert refused.returncode != 0 and "--name '../mine': use ASCII letters" in refused.stderr
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
    refused = lab_here("azureml", "kernel")
    assert refused.returncode != 0 and "labrun-azureml cannot be installed" in refused.stderr


@pytest.mark.parametrize("text", ["plain", "a'b", "\\", "[1,2]", "1e-3", "null", "${x}", "a=b", "", "ä b\tc", "true"])
def test_arguments_stay_text(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from labrun.config import exact

    (parsed,) = OverridesParser.create().parse_overrides(
        [overrides.override("key", [text, 0.5, None, {"a: k=(1)": text}])]
    )
    found: Any = parsed.value()
    assert [exact.shown(str(found[0])), *found[1:3], exact.shown(str(found[3]["a: k=(1)"]))] == [text, 0.5, None, text]


def test_every_supported_name_is_defined() -> None:
    for name in names.MODULES:
        assert names.find("azureml.core", name) is not None


def test_nothing_called_azureml_is_importable_elsewhere() -> None:
    assert runner.SITE not in sys.path
    with pytest.raises(ImportError):
        __import__("azureml")


def test_mlflow_in_a_control_script_starts_runs_of_labrun(tmp_path: Path) -> None:
    """Over 15 s on a busy machine: MLflow's client and pandas are imported, and three runs started."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "MLmodel").write_text("flavors: {}\n")
    (tmp_path / "go.py").write_text(
        "import mlflow, mlflow.azureml\nfrom azureml.core import Experiment, Model, Workspace\n"
        "try:\n    mlflow.azureml.deploy('m')\nexcept Exception as error:\n    print(error)\n"
        "ws = Workspace.from_config()\nmlflow.set_tracking_uri(ws.get_mlflow_tracking_uri())\n"
        "experiment = Experiment(workspace=ws, name='by-mlflow')\nmlflow.set_experiment(experiment.name)\n"
        "with mlflow.start_run():\n    mlflow.log_metric('loss', 3.0, step=1)\n"
        "    mlflow.log_metric('loss', 2.0, step=2)\n"
        "    mlflow.log_param('rate', 0.1)\n    mlflow.set_tag('a', 'b')\n"
        "    open('note.txt', 'w').write('x')\n    mlflow.log_artifact('note.txt')\n"
        "    open('MLmodel', 'w').write('flavors: {}')\n    mlflow.log_artifact('MLmodel', 'net')\n"
        "    own = mlflow.active_run().info.run_id\n"
        "    mlflow.register_model(f'runs:/{own}/net', 'early')\n"
        "late = mlflow.register_model(f'runs:/{own}/net', 'late', tags={'c': 'd'})\n"
        "print('models', late.version, [(m.name, m.version, m.tags) for m in Model.list(ws)])\n"
        "try:\n    with mlflow.start_run():\n        1 / 0\nexcept ZeroDivisionError:\n    pass\n"
        "failed, run = experiment.get_runs()\n"
        "print(failed.status, run.status, run.get_metrics(), run.tags, run.get_file_names())\n"
        "with mlflow.start_run() as here:\n    mlflow.log_artifacts('m', 'model')\n"
        "    early = mlflow.register_model(f'runs:/{here.info.run_id}/model', 'mine')\n"
        "later = mlflow.register_model(f'runs:/{here.info.run_id}/model', 'mine', tags={'c': 'd'})\n"
        "client = mlflow.MlflowClient()\n"
        "print([v.version for v in client.search_model_versions(\"name='mine'\")], early.version, later.version,\n"
        "    client.get_model_version('mine', '2').tags, Model(ws, 'mine').tags, Model(ws, 'mine', version=1).run.id)\n"
        "print(open(mlflow.artifacts.download_artifacts('models:/mine/2') + '/MLmodel').read().strip())\n"
        "own = experiment.start_logging(snapshot_directory=None)\n"
        "own.log('loss', 1); own.log('loss', 5); own.complete()\n"
        "back = mlflow.get_run(own.id)\n"
        "print(back.info.status, back.data.metrics, [m.value for m in client.get_metric_history(own.id, 'loss')])\n"
        "found = mlflow.search_runs(filter_string='metrics.loss < 9', order_by=['metrics.loss DESC'])\n"
        "print(found['metrics.loss'].tolist(), found['run_id'].tolist()[0] == own.id)\n"
        "try:\n    mlflow.get_run('0' * 32)\nexcept mlflow.exceptions.MlflowException as error:\n    print(error)\n"
    )
    done = lab(tmp_path, "azureml", "run", "go.py")
    assert done.returncode == 0, done.stderr
    assert "deploy() is part of Azure ML and not of labrun. Instead: score with `lab models predict`" in done.stdout
    assert "models 1 [('late', 1, {'c': 'd'}), ('early', 1, {})]" in done.stdout
    begun = labrun.runs(root=tmp_path)[1].id
    assert f"['2', '1'] 1 2 {{'c': 'd'}} {{'c': 'd'}} {begun}\nflavors: {{}}\n" in done.stdout
    assert "FINISHED {'loss': 5.0} [1.0, 5.0]\n[5.0, 2.0] True\n" in done.stdout
    assert "RESOURCE_DOES_NOT_EXIST: no run is called '00000000'" in done.stdout
    assert "Failed Completed {'loss': [3.0, 2.0]} {'a': 'b'}" in done.stdout and "outputs/note.txt" in done.stdout


def test_minor_names_behave_as_in_the_sdk(ws: Workspace, tmp_path: Path) -> None:
    def sdk(name: str, module: str = "azureml.core") -> Any:
        return finder.find(module, name)

    store = ws.get_default_datastore()
    assert isinstance(store, sdk("AbstractDatastore")) and not isinstance(store, sdk("AzureBlobDatastore"))
    with pytest.raises(NotInLabrun, match="Datastore.get"):
        sdk("AzureBlobDatastore")(ws, "x")
    path = sdk("DataPath")(store, "a/b")
    reference = sdk("DataReference").create("given", path_on_datastore="a")
    assert path.datastore_name == store.name and reference.path_on_datastore == "a"
    assert sdk("DataPath").create_from_data_reference(reference).path_on_datastore == "a"
    binding = sdk("DataPathComputeBinding", "azureml.data.datapath")(mode="upload")
    assert path.create_data_reference("n", binding).mode == "upload" and path.create_data_reference("n").mode == "mount"
    told = sdk("DataReferenceConfiguration", "azureml.core.runconfig")(store.name, "download", "a", overwrite=True)
    inputs = ScriptInputs({store.name: told})
    assert inputs.argument(str(store.as_download())) == f"${{mount:{store.name}/a}}"
    vault = ws.get_default_keyvault()
    vault.set_secret("own-secret", "x")
    assert {"name": "own-secret"} in vault.list_secrets()
    vault.delete_secret("own-secret")
    assert vault.list_secrets() == []
    assert (ws.DEFAULT_CPU_CLUSTER_NAME, ws.DEFAULT_GPU_CLUSTER_NAME) == ("cpu-cluster", "gpu-cluster")
    (tmp_path / "a.csv").write_text("x\n1\n")
    rows = sdk("Dataset").Tabular.from_delimited_files("a.csv")
    assert isinstance(rows, sdk("AbstractDataset", "azureml.data.abstract_dataset"))
    Experiment(ws, "named").tag("a", "b")
    kinds = sdk("ViewType", "azureml.core.experiment")
    assert [one.name for one in Experiment.list(ws, view_type=kinds.All)] == ["named"]
    assert Experiment.list(ws, view_type=kinds.ArchivedOnly) == [] and Experiment(ws, "named").identity == "named"
    assert Experiment.from_directory(".").name == tmp_path.name
    Experiment(ws, "named").remove_tags("a")
    assert Experiment(ws, "named").tags == {}
    assert (ws.private_endpoints, ws.list_connections()) == ({}, {})
    assert list(Run.list_by_compute(AmlCompute.create(ws, "box", AmlCompute.provisioning_configuration()))) == []
    models = sdk("SupportedModels", "azureml.train.automl.constants")
    assert (models.Classification.KNearestNeighborsClassifier, models.Regression.XGBRegressor) == (
        "KNN",
        "XGBoostRegressor",
    )
    assert sdk("Metric", "azureml.automl.core.shared.constants").AUCWeighted == "AUC_weighted"
    told = sdk("BanditPolicy", "azureml.train.hyperdrive")(2, slack_factor=0.1).to_json()
    assert told["policy"] == {
        "name": "Bandit",
        "properties": {"evaluation_interval": 2, "slack_factor": 0.1, "delay_evaluation": 0},
    }
    assert isinstance(sdk("PythonEnvironment", "azureml.core.environment")(), PythonSection)
