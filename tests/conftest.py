"""Fixtures that all tests share: the real data, a workspace of one's own, the command, and runs in this process."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase
from xdist.scheduler import LoadScopeScheduling

import servers
from labrun import app, execute
from labrun.launch import conf, freeze
from labrun.runs import tracking
from labrun.runs.record import Record
from servers import Server

# With it, each process that a test starts would compile torch anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# With more threads than cores, OpenMP's busy waiting makes each run ten times slower.
os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", KMP_BLOCKTIME="0")

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Runner = Callable[..., tuple[Record, Path]]


class Together(LoadScopeScheduling):
    """What one of several workers (`-n`) takes: a test, or all that share the cluster or a module's fixture."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        if "slurm" in nodeid:
            return "slurm"
        return file if _shares(file) else nodeid


@functools.cache
def _shares(file: str) -> bool:
    return 'scope="module"' in (Path(__file__).parent.parent / file).read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """As many as cores, but not so many that they fill the memory."""
    return min(os.cpu_count() or 1, 8)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real MNIST and CIFAR-10."""
    place = os.environ.get("LABRUN_TEST_DATA")
    if not place or not Path(place).is_dir():
        pytest.skip("needs the real MNIST and CIFAR-10: set LABRUN_TEST_DATA to their folder")
    return Path(place).resolve()


@pytest.fixture(scope="session")
def cluster() -> None:
    """A Slurm cluster that answers. Tests that use it have "slurm" in their name (see `Together`)."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("needs a Slurm cluster: tests/cluster/start-slurm starts one")


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if servers.azurite_command() is None:
        pytest.skip("needs the Azure emulator: tests/storage/install fetches it")
    with servers.azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it, to copy: making one takes three seconds of processor time."""
    root = tmp_path_factory.mktemp("mlflow")
    tracking.connect(root, tracking.database_uri(root))
    return tracking.database_path(root)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[str]:
    """The address of an MLflow server. The tests share it: each has runs and models of its own there."""
    tracking.quiet()
    with servers.mlflow(tmp_path_factory.mktemp("server"), empty_mlflow) as address:
        yield address


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    for name in ("LABRUN_ROOT", "LABRUN_RUN_DIR", "LABRUN_DEBUG", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def labrun(workspace: Path) -> Command:
    """The command `labrun` in a process of its own, in the workspace."""

    def run(*arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "labrun", *arguments],
            capture_output=True, text=True, timeout=timeout, check=False, cwd=workspace,
            env={**os.environ, **environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def registered() -> None:
    """What `labrun` makes known to Hydra at its start."""
    app.register()


@pytest.fixture
def run_here(workspace: Path, registered: None) -> Runner:
    """One run in this process, as `labrun` would do it, without MLflow and pictures unless asked for."""

    def run(*overrides: str, pictures: bool = False) -> tuple[Record, Path]:
        run_id = freeze.new_id()
        with initialize_config_dir(str(conf.conf_dir()), version_base="1.3"):
            config = compose("config", ["tracking=none", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        run_dir = workspace / "outputs" / "test" / f"now-{run_id}"
        plain, around = freeze.without_hydra(config), freeze.look_around(workspace)
        record = freeze.freeze(plain, run_id, list(overrides), workspace, around)
        freeze.submit(record, run_dir)
        return execute.execute(run_dir, capture=False, pictures=pictures), run_dir

    return run


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """No test leaves variables, an initialized Hydra, or a version that Hydra was told to be like, behind."""
    before = dict(os.environ)
    _forget_hydra()
    yield
    _forget_hydra()
    os.environ.clear()
    os.environ.update(before)


def _forget_hydra() -> None:
    GlobalHydra.instance().clear()
    Singleton._instances.pop(VersionBase, None)
