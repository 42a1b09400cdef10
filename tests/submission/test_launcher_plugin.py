"""The launcher in Hydra: Hydra's contract suites, and the fast composition equals the full one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.types import RunMode
from omegaconf import OmegaConf

from helpers import program
from hydra_plugins.labrun_launcher.launcher import LabrunLauncher
from labrun.compose import paths
from labrun.submission.composer import Composer
from labrun.submission.plain_app import jobs
from labrun.submission.plain_app.job import Ended


def test_hydra_discovers_the_launcher() -> None:
    assert LabrunLauncher.__name__ in [plugin.__name__ for plugin in Plugins.instance().discover()]


@pytest.mark.process
@pytest.mark.parametrize("launcher_name, overrides", [("labrun", [])])
class TestContract(LauncherTestSuite):
    """What every launcher of Hydra must do."""


@pytest.mark.process
@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=labrun"])])
class TestIntegration(IntegrationTestSuite):
    """The same through real applications, in the warm interpreter."""

    def generate_custom_cmd(self) -> Callable[..., list[str]]:
        """Return the function that changes the command `python FILE`."""
        return lambda command, filename: [*program("python"), *command[1:]]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("later", ["trainer={max_epochs: 5}", "trainer.max_epochs=7", "trainer.batch_size=7"])
def test_fast_composition_respects_the_order_of_overrides(later: str) -> None:
    search_path = create_config_search_path(f"file://{paths.conf_dir()}")
    loader = Hydra.create_main_hydra2(task_name="labrun", config_search_path=search_path).config_loader
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    composer = Composer(loader, master)
    for number, epochs in enumerate((1, 2)):
        overrides = [f"trainer.max_epochs={epochs}", later]
        assert composer.compose(overrides, number).trainer == loader.load_sweep_config(master, overrides).trainer


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "override, told",
    [
        ("trainer.max_epoch=5", "trainer.max_epoch: no such key. Did you mean 'trainer.max_epochs'?"),
        ("trainer.max_epoch.deep=5", "trainer.max_epoch.deep: no such key"),
        ("+trainer.max_epochs=5", "Could not append to config. An item is already at 'trainer.max_epochs'"),
    ],
)
def test_the_key_that_a_job_does_not_have_is_named(override: str, told: str) -> None:
    search_path = create_config_search_path(f"file://{paths.conf_dir()}")
    loader = Hydra.create_main_hydra2(task_name="labrun", config_search_path=search_path).config_loader
    composer = Composer(loader, loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN))
    overrides = ["trainer.batch_size=7", override]
    with pytest.raises(HydraException) as caught:
        composer.compose(overrides, 0)
    assert told in str(composer.refusal(caught.value, overrides))


def job(folder: Path, *outcomes: bytes) -> SimpleNamespace:
    """Return what submitit shows of a job whose tasks have left these results."""
    for task, outcome in enumerate(outcomes):
        (folder / f"{task}.pkl").write_bytes(outcome)
    tasks = [SimpleNamespace(paths=SimpleNamespace(result_pickle=folder / f"{n}.pkl")) for n in range(len(outcomes))]
    return SimpleNamespace(num_tasks=len(tasks), task=tasks.__getitem__)


def test_a_result_of_a_job_that_cannot_be_read_is_its_failure(tmp_path: Path) -> None:
    config = OmegaConf.create({"hydra": {"overrides": {"task": ["x=1"]}}})
    fine = pickle.dumps(("success", Ended(status=JobStatus.COMPLETED, _return_value=3)))
    trace = pickle.dumps(("error", "Traceback (most recent call last):\n  File ...\nValueError: - You can check x\n\n"))
    assert jobs._ended(job(tmp_path, fine, fine), config, 4, None).return_value == 3
    for outcomes, told in (
        ((fine, trace), "job 4 (x=1): ValueError: - You can check x"),
        ((b"cnowhere\nThing\n.",), "job 4 (x=1): ModuleNotFoundError: No module named 'nowhere'"),
    ):
        ended = jobs._ended(job(tmp_path, *outcomes), config, 4, None)
        assert ended.status == JobStatus.FAILED and str(ended._return_value) == told


@pytest.mark.usefixtures("registered")
def test_fast_composition_equals_hydras() -> None:
    search_path = create_config_search_path(f"file://{paths.conf_dir()}")
    loader = Hydra.create_main_hydra2(task_name="labrun", config_search_path=search_path).config_loader
    master = loader.load_configuration("config", ["model=mnist_dnn"], run_mode=RunMode.MULTIRUN)
    composer = Composer(loader, master)
    for number, lr in enumerate(("0.1", "0.01", "null", "1e-3")):
        overrides = ["model=mnist_dnn", f"model.lr={lr}", "trainer.max_epochs=3"]
        expected = loader.load_sweep_config(master, overrides)
        expected.hydra.job.num = number
        expected.hydra.job.id = str(number)
        found = composer.compose(overrides, number)
        assert OmegaConf.to_container(found) == OmegaConf.to_container(expected)
    other = composer.compose(["model=cifar10_cnn", "model.lr=0.1", "trainer.max_epochs=3"], 9)
    assert other.model.name == "cifar10_cnn"
