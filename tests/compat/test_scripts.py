"""Unmodified scripts for the Azure ML SDK v1, run by `labrun experiment=script` locally and on Slurm."""

from __future__ import annotations

import shutil
from pathlib import Path

import joblib
import pytest

from conftest import Command
from helpers import lab, statuses
from labrun.runs import context, store

SCRIPTS = Path(__file__).parent / "scripts"
AZURE = ("experiment=script", "script.azureml=true", "tracking=none")


@pytest.fixture
def sources(workspace: Path) -> Path:
    """The scripts, copied to the working folder byte by byte."""
    for name in ("cifar10", "mnist"):  # below src/: the data are called so too
        shutil.copytree(SCRIPTS / name, workspace / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return workspace


def test_a_pytorch_tutorial_here(sources: Path, few_images: Path, labrun: Command) -> None:
    run_a_pytorch_tutorial(sources, few_images, labrun, "inline")


def test_a_pytorch_tutorial_on_slurm(sources: Path, few_images: Path, labrun: Command, cluster: None) -> None:
    run_a_pytorch_tutorial(sources, few_images, labrun, "slurm")


def run_a_pytorch_tutorial(sources: Path, few_images: Path, labrun: Command, compute: str) -> None:
    done = labrun(
        *AZURE,
        f"compute={compute}",
        "script.path=src/cifar10/train.py",
        f"datastore.root={few_images.parent}",
        f"script.arguments.data_path='${{mount:{few_images.name}}}'",
        "script.arguments.learning_rate=0.003",
        "script.arguments.momentum=0.92",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, record = store.find(sources, "last")
    losses = [line["value"] for line in context.read_metrics(run_dir) if line["name"] == "loss"]
    assert record.status == "completed" and len(losses) > 3 and all(0 < loss < 5 for loss in losses)
    assert record.name == "train" and (record.job is not None) == (compute == "slurm")
    assert "loss" in lab(sources, "runs", "metrics", "last", "--plot").stdout
    assert "--learning_rate 0.003" in (run_dir / "driver.log").read_text()


def test_a_scikit_learn_tutorial_of_2018(sources: Path, few_digits: Path, labrun: Command) -> None:
    done = labrun(
        "-m",
        *AZURE,
        "script.path=src/mnist/train.py",
        f"datastore.root={few_digits.parent}",
        f"script.arguments.data-folder='${{mount:{few_digits.name}}}'",
        "script.arguments.regularization=0.5,0.8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(sources) == ["completed"] * 2
    run_dir, record = store.find(sources, "last")
    assert record.metrics["accuracy"] > 0.5 and record.metrics["regularization rate"] in (0.5, 0.8)
    model = joblib.load(run_dir / "outputs" / "sklearn_mnist_model.pkl")
    assert model.n_features_in_ == 784
    log = (run_dir / "driver.log").read_text()
    assert log.count("sklearn.externals") == 1 and log.count("np.float") == 1
    assert "outputs/sklearn_mnist_model.pkl" in lab(sources, "runs", "files", "last").stdout


def test_what_the_script_says_of_its_run(workspace: Path, labrun: Command) -> None:
    (workspace / "train.py").write_text(
        "from azureml.core import Run\nrun = Run.get_context()\nrun.tag('quality', 'fine')\n"
        "run.add_properties({'origin': 'here'})\nprint('NAMES', run.experiment.name, run.id)\n"
        "run.fail('it is no good')\n"
    )
    done = labrun(*AZURE, "script.path=train.py", "name=mine")
    assert done.returncode == 1 and "it is no good" in done.stderr
    _, record = store.find(workspace, "last")
    assert record.tags == {"quality": "fine"} and record.properties == {"origin": "here"}
    assert record.status == "failed" and f"NAMES mine {record.id}" in done.stdout


def test_a_script_cancels_its_own_run(workspace: Path, labrun: Command) -> None:
    (workspace / "train.py").write_text(
        "import time\nfrom azureml.core import Run\nRun.get_context().cancel()\ntime.sleep(60)\n"
    )
    done = labrun(*AZURE, "script.path=train.py")
    assert done.returncode == 130 and store.find(workspace, "last")[1].status == "canceled"


def test_azureml_is_there_only_where_the_config_asks_for_it(workspace: Path, labrun: Command) -> None:
    (workspace / "train.py").write_text("import azureml.core\n")
    done = labrun("experiment=script", "script.path=train.py", "tracking=none")
    assert done.returncode == 1 and "No module named 'azureml'" in done.stderr
    assert "Say script.azureml=true" in done.stderr


def test_a_script_reads_a_registered_model(workspace: Path, labrun: Command) -> None:
    """As `lab models register` keeps it."""
    assert labrun("tracking=none", "report=none").returncode == 0
    done = lab(workspace, "models", "register", "last", "--name", "digits")
    assert done.returncode == 0, done.stderr
    (workspace / "train.py").write_text(
        "from azureml.core import Model, Run\npath = Model.get_model_path('digits')\nprint('PATH', path)\n"
        "Run.get_context().log('bytes', len(open(path, 'rb').read()))\n"
    )
    done = labrun(*AZURE, "script.path=train.py")
    assert done.returncode == 0 and "model.skops" in done.stdout, done.stderr
    assert store.find(workspace, "last")[1].metrics["bytes"] > 1000
