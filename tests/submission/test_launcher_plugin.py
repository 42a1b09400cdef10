"""The launcher in Hydra: Hydra's contract suites, and the fast composition equals the full one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.types import RunMode
from omegaconf import OmegaConf

from helpers import program
from hydra_plugins.labrun_launcher._compose import Composer
from hydra_plugins.labrun_launcher.launcher import LabrunLauncher
from labrun.compose import paths


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
