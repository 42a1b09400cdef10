"""Unmodified scripts for the Azure ML SDK v1, run by `labrun experiment=script`. Others: see `test_tutorials`."""

from __future__ import annotations

import shutil
from pathlib import Path

from conftest import Command
from helpers import lab
from labrun.runs import context, store

SCRIPTS = Path(__file__).parent / "scripts"
AZURE = ("experiment=script", "script.azureml=true", "tracking=none", "report=none")


def test_a_pytorch_tutorial_trains(workspace: Path, few_images: Path, labrun: Command) -> None:
    """In the pool, with PyTorch's optimizer and the worker processes of a loader."""
    # below src/: the data are called so too
    shutil.copytree(SCRIPTS / "cifar10", workspace / "src" / "cifar10", ignore=shutil.ignore_patterns("__pycache__"))
    done = labrun(
        *AZURE,
        "compute=local",
        "script.path=src/cifar10/train.py",
        f"datastore.root={few_images.parent}",
        f"script.arguments.data_path='${{mount:{few_images.name}}}'",
        "script.arguments.learning_rate=0.003",
        "script.arguments.momentum=0.92",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, record = store.find(workspace, "last")
    lines = list(context.read_metrics(run_dir))
    losses = [(line["step"], line["value"]) for line in lines if line["name"] == "loss"]
    assert [step for step, _ in losses] == [0, 1, 2, 3] and all(1 < value < 4 for _, value in losses)
    assert len([line for line in lines if line["name"] == "last batch"]) == 2, "a tensor can be logged"
    assert (run_dir / "outputs" / "cifar_net.pth").stat().st_size > 100_000
    assert record.status == "completed" and record.name == "train" and record.job is None
    assert "loss" in lab(workspace, "runs", "metrics", "last", "--plot").stdout
    log = (run_dir / "driver.log").read_text()
    assert "--learning_rate 0.003" in log and "Finished Training\n" in log


def test_tags_properties_and_failure_of_a_script_are_recorded(workspace: Path, labrun: Command) -> None:
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


def test_azureml_is_importable_only_if_the_config_enables_it(workspace: Path, labrun: Command) -> None:
    (workspace / "train.py").write_text("import azureml.core\n")
    done = labrun("experiment=script", "script.path=train.py", "tracking=none")
    assert done.returncode == 1 and "No module named 'azureml'" in done.stderr
    assert "Set script.azureml=true" in done.stderr


def test_a_script_reads_a_registered_model(workspace: Path, labrun: Command) -> None:
    """It was registered by `lab models register`."""
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
