"""Control scripts in the style of the SDK's tutorials, started in every way, in the pool and on Slurm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import joblib
import nbformat
import pytest
from nbclient import NotebookClient

import labrun
from helpers import draw_none, lab

TUTORIALS = Path(__file__).parent / "tutorials"
SCRIPTS = Path(__file__).parent / "scripts"
DAY1 = ("01-create-workspace", "02-create-compute", "03-run-hello", "04-run-pytorch", "05-upload-data")
LIGHT = """
import argparse, os
from azureml.core import Run

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder", "--data_path", dest="folder")
parser.add_argument("--learning_rate")
parser.add_argument("--momentum")
parser.add_argument("--regularization", type=float, default=0.25)
args = parser.parse_args()
run = Run.get_context()
print("Data folder:", os.listdir(args.folder))
for loss in (4, 3, 2, 1):
    run.log("loss", loss)
run.log("last batch", 1)
run.log("accuracy", 1 - args.regularization)
for name in ("cifar_net.pth", "sklearn_mnist_model.pkl"):
    with open(f"outputs/{name}", "w") as file:
        file.write(2000 * "x")
"""
"""A training script in place of those that import PyTorch or scikit-learn, with their arguments, metrics and files."""
REMOVED = [
    "labrun: sklearn.externals.joblib was removed in scikit-learn 0.23; using the package joblib instead",
    "labrun: np.float was removed in NumPy 1.24; using the builtin float instead",
]


def lay_out(name: str, folder: Path, script: str | None = None, data: Path | None = None) -> Path:
    """A tutorial's folder with its training script and its data."""
    shutil.copytree(TUTORIALS / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    draw_none(folder)
    if script is not None:
        shutil.copytree(
            SCRIPTS / script, folder / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    if data is not None:
        shutil.copytree(data, folder / "data", dirs_exist_ok=True)
    return folder


def run(folder: Path, file: str, *options: str) -> str:
    done = lab(folder, "azureml", "run", *options, file)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("compute", ["local", "slurm"])
def test_the_programs_of_the_first_day_run(
    compute: str, tmp_path: Path, few_images: Path, request: pytest.FixtureRequest
) -> None:
    """Six programs: each submits a run and ends, and the last three train. `test_scripts` trains with PyTorch."""
    if compute == "slurm":
        request.getfixturevalue("cluster")
    folder = lay_out("day1", tmp_path / "project", "cifar10", few_images)
    (folder / "src" / "fit.py").write_text(
        "from azureml.core import Run\nRun.get_context().log_list('loss', [1] * 3)\n"
    )
    (folder / "src" / "train.py").write_text(LIGHT)
    for name in [*DAY1, "06-run-pytorch-data"]:
        printed = run(folder, f"{name}.py", "--compute", compute)
    assert "Submitted to compute cluster" in printed
    runs = {one.name: one for one in labrun.runs(root=folder)}
    assert set(runs) == {"day1-experiment-hello", "day1-experiment-train", "day1-experiment-data"}
    for one in runs.values():
        details = one.wait_for_completion(timeout_s=240)
        assert details["status"] == "completed", one.log_text()[-2000:]
        assert one.config["compute"]["target"] == compute and (one.record.job is not None) == (compute == "slurm")
    assert "hello world!" in runs["day1-experiment-hello"].log_text()
    assert len(runs["day1-experiment-train"].get_metrics()["loss"]) == 3
    data = runs["day1-experiment-data"]
    losses = data.get_metrics()["loss"]
    assert len(losses) > 3 and all(0 < loss < 5 for loss in losses) and data.record.data, (
        "the record says what was read"
    )
    assert "--learning_rate 0.003" in data.log_text()
    assert json.loads((folder / ".azureml" / "config.json").read_text())["workspace_name"] == "day-one"


def test_images_are_uploaded_and_mounted_and_a_model_is_registered(tmp_path: Path, few_images: Path) -> None:
    """Runs twice, to get second versions. `test_scripts` runs the script with PyTorch."""
    folder = lay_out("cifar10", tmp_path / "project", "cifar10", few_images)
    (folder / "src" / "train.py").write_text(LIGHT)
    printed = run(folder, "control.py")
    assert "cifar images 1 2" in printed and "Completed" in printed and "train.py Completed inputs" in printed
    assert "cifar10\t1\t{" in printed and "1 ['cifar10']" in printed
    assert (folder / "model" / "outputs" / "cifar_net.pth").stat().st_size > 1000
    record = labrun.get_run("last", root=folder).record
    assert record.data[0].version and record.tags == {"kind": "tutorial"}
    again = run(folder, "control.py")
    assert "cifar10\t2\t{" in again, "the second model is the second version"


def test_the_notebook_of_2018_with_estimator_widget_and_search_runs(tmp_path: Path, few_digits: Path) -> None:
    """Over 15 s: a single fit by scikit-learn and a search of two. Each paragraph of the program is a cell."""
    folder = lay_out("mnist", tmp_path / "project", "mnist", few_digits)
    cells = ["%load_ext labrun.azureml", *(folder / "control.py").read_text().split("\n\n")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, kernel_name="python3", timeout=400)
    client.execute(cwd=str(folder))
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.outputs)
    shown = [o.get("data", {}).get("text/html", "") for cell in notebook.cells for o in cell.outputs]
    assert any("sklearn-mnist" in page for page in shown)
    alone, *searched = sorted(labrun.runs(root=folder), key=lambda one: one.record.created)
    assert len(searched) == 2
    for one in (alone, *searched):
        assert one.metrics["accuracy"] > 0.8 and one.metrics["regularization rate"] in (0.8, 0.1, 0.5)
        assert [line for line in one.log_text().splitlines() if line.startswith("labrun:")] == REMOVED
    model = joblib.load(Path(alone.folder) / "outputs" / "sklearn_mnist_model.pkl")
    assert model.n_features_in_ == 784
    assert "outputs/sklearn_mnist_model.pkl" in lab(folder, "runs", "files", "last").stdout
    assert "2 runs" in printed, "the space has two values: none is tried twice"
    assert "'accuracy': 0." in printed and "outputs/sklearn_mnist_model.pkl" in printed
    assert "'--regularization', '0.1'" in printed or "'--regularization', '0.5'" in printed
    assert "sklearn_mnist\tsklearn_mnist:1\t1" in printed


def test_an_estimator_with_custom_settings_runs(tmp_path: Path) -> None:
    folder = lay_out("chainer", tmp_path / "project")
    printed = run(folder, "control.py")
    assert "Creating a new compute target..." in printed and "Type: azureml.scriptrun" in printed
    assert "{'Batch size': 64, 'Epochs': 3, 'Accuracy': [0.5, " in printed


def test_automl_runs_on_the_users_machine(tmp_path: Path) -> None:
    """Two iterations with two folds and two models: a search builds every candidate model before it starts."""
    folder = lay_out("automl", tmp_path / "project")
    (folder / "project").mkdir()
    (folder / "get_data.py").rename(folder / "project" / "get_data.py")
    printed = run(folder, "control.py")
    assert "ITERATION" in printed and "PREDICTED " in printed and "REGISTERED digits:1" in printed
    assert "'norm_macro_recall'" in printed and "ITERATIONS [0, 1]" in printed
    files = printed.split("FILES ")[1].splitlines()[0]
    assert (
        "'outputs/conda_env_v_1_0_0.yml', 'outputs/model.pkl'" in files and "'outputs/scoring_file_v_1_0_0.py'" in files
    )
    assert 'SCORED {"result": [0]}' in printed and "'scikit-learn'" in printed.split("PACKAGES ")[1]
    assert "STEPS datatransformer 64\nOF mydsvm AutoML 2\n" in printed
    assert float(printed.rpartition("PREDICTED ")[2].split()[0]) > 0.5
    assert len(list(labrun.runs(root=folder))) >= 2
