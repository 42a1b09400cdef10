"""Fixtures for all tests: the real data, a private workspace, the commands, and runs in this process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import getpass
import logging
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from xdist.scheduler import LoadScopeScheduling

import far
import helpers
import kinds
import servers
from helpers import Completed, Program, call_here, forget_hydra, run_labrun
from labrun import app, cli, execute
from labrun.app.resolvers import register
from labrun.compose import composed, paths
from labrun.config import hydra_versions
from labrun.runs.record import Record
from labrun.submission import freeze, origin
from labrun.tracking.mlflow import client
from servers import Server

# Collections during the imports of all test modules would take a third of the time.
gc.disable()
# With it set, each process that a test starts would compile torch's modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# With more threads than cores, busy waiting makes a run with OpenMP or OpenBLAS ten times slower.
os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", KMP_BLOCKTIME="0", OPENBLAS_NUM_THREADS="1")
# Lightning, scikit-learn and PyTorch set these on import. Commands before and after that, in the test that is the first
# to import one of them in its process, would need different warm interpreters and therefore start cold.
os.environ.update(PYTORCH_NVML_BASED_CUDA_CHECK="1", KMP_DUPLICATE_LIB_OK="True", KMP_INIT_AT_FORK="FALSE")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{getpass.getuser()}")
# Commands are forks of one warm interpreter, which the processes of a session (`-n`) share.
IS_FIRST = "PYTEST_XDIST_WORKER" not in os.environ
if IS_FIRST and not helpers.START:
    # Put this environment's commands first, as `uv run` does: PATH is part of a warm interpreter's identity.
    if os.environ["PATH"].split(os.pathsep)[0] != str(Path(sys.executable).parent):
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ.update(LABRUN_WARM="1", LABRUN_WARM_DIR=tempfile.mkdtemp(prefix="labrun-tests-"))
    os.environ["XDG_STATE_HOME"] = os.environ["LABRUN_WARM_DIR"]  # holds the key that seals trained models
if not IS_FIRST:
    atexit.register(os._exit, 0)  # a worker's last act: native libraries would report what `gc.freeze` kept as leaks
if not helpers.START:  # the tests that name this file import it a second time, after other libraries
    helpers.START.update(os.environ)

MANY = 20
"""Number of tests with processes from which it pays to start the warm interpreter at once."""

Command = Callable[..., Completed]
Refused = Callable[..., str]
Runner = Callable[..., tuple[Record, Path]]


GROUPS = {
    "tests/storage/": "stores",
    "tests/tracking/": "mlflow",
    "tests/registry/": "mlflow",
    "tests/remote/": "far",
    "[remote]": "far",
}
"""Groups of tests that share servers and so run in one worker, by a part of their ids. Each group takes minutes."""
LONG = ("slurm", *dict.fromkeys(GROUPS.values()))


class Together(LoadScopeScheduling):
    """Scheduler for several workers (`-n`): tests that share a cluster, servers or a module's fixture stay together."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(nodeid)


def _scope(nodeid: str) -> str:
    file = nodeid.split("::")[0]
    if kinds.takes_the_cluster(nodeid):
        return "slurm"
    group = next((group for part, group in GROUPS.items() if part in nodeid), None)
    return group or (file if _shares(file) else nodeid)


@functools.cache
def _shares(file: str) -> bool:
    return 'scope="module"' in (Path(__file__).parent.parent / file).read_text(encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Start the warm interpreter at once if many tests may run, and have it fork the workers (`-n`)."""
    is_parallel = IS_FIRST and config.getoption("numprocesses", None)
    if is_parallel and config.option.markexpr != "unit" and all(Path(place).is_dir() for place in config.args):
        helpers.start_warm(early=True)
        if sys.platform == "linux":
            python = shlex.join([sys.executable, str(helpers.WORKER)])
            config.option.tx = [f"popen//python={python}" for _ in config.option.tx]
            _restore_environment()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the warm interpreter at the end of the session."""
    if not IS_FIRST:
        gc.freeze()  # pytest now collects garbage twice, which would take ten seconds of a worker that imported it all
        return
    gc.unfreeze()  # otherwise native libraries report what was frozen as leaks
    place = Path(os.environ["LABRUN_WARM_DIR"])
    if (place / "asked").exists():
        subprocess.run([sys.executable, helpers.WARM, "lab", "warm", "stop"], capture_output=True, check=False)
    shutil.rmtree(place, ignore_errors=True)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    config.option.loadscopereorder = False  # they are in order: see below
    return Together(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """Return five workers for two cores, because many tests only wait; at most 8, to limit memory."""
    return min(5 * (os.cpu_count() or 1) // 2, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind, and sort the slowest first, so that none is left for the end."""
    found: dict[pytest.Item, str] = {item: kinds.kind(item) for item in items if isinstance(item, pytest.Function)}
    for item, kind in found.items():
        item.add_marker(kind)
    if sum(not kinds.starts_none(kind) for kind in found.values()) > MANY:  # else a test's own first command starts it
        helpers.start_warm(early=True)

    def place(item: pytest.Item) -> tuple[int, int, bool]:
        scope = _scope(item.nodeid)
        long = LONG.index(scope) if scope in LONG else len(LONG)
        return long, kinds.KINDS.index(found.get(item, "unit")), not _shares(item.nodeid.split("::")[0])

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remove environment variables set by imports of test files: with them, commands would need another interpreter."""
    _restore_environment()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def _restore_environment() -> None:
    for name in set(os.environ) - set(helpers.START):
        del os.environ[name]


@pytest.fixture(scope="session")
def plain_hydra() -> None:
    """Skip tests of applications that do not use labrun's command where Hydra itself cannot start."""
    if sys.version_info >= (3, 14) and hydra_versions.is_1_3():
        pytest.skip("Hydra 1.3 cannot start on Python 3.14: argparse refuses its help of --shell-completion")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real MNIST and CIFAR-10 data."""
    place = os.environ.get("LABRUN_TEST_DATA")
    if not place or not Path(place).is_dir():
        pytest.skip("needs the real MNIST and CIFAR-10: set LABRUN_TEST_DATA to their folder")
    return Path(place).resolve()


@pytest.fixture(scope="session")
def cluster() -> None:
    """A working Slurm cluster. Tests that submit jobs to it are recognized by name: see `kinds.takes_the_cluster`."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("needs a Slurm cluster: tests/cluster/start-slurm starts one")


@pytest.fixture(scope="session")
def far_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[far.Far]:
    """A remote machine with a real sshd: see `far`."""
    if (why := far.why_unavailable()) is not None:
        pytest.skip(why)
    with far.machine(tmp_path_factory.mktemp("far")) as machine:
        yield machine


@pytest.fixture
def box(workspace: Path, far_machine: far.Far, monkeypatch: pytest.MonkeyPatch) -> far.Far:
    """The remote machine, known as `box`; `compute=remote` uses its pool."""
    far_machine.make_known(workspace, monkeypatch)
    return far_machine


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if servers.azurite_command() is None:
        pytest.skip("needs the Azure emulator: tests/storage/install fetches it")
    with servers.azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def empty_mlflow() -> Path:
    """An empty MLflow database to copy: creating one takes three seconds of CPU time, so all workers share it."""
    root = Path(os.environ["LABRUN_WARM_DIR"]) / "mlflow"
    database = client.database_path(root)
    if not database.exists():  # it appears when it is complete
        client.connect(root, client.database_uri(root))
    return database


@pytest.fixture(scope="session")
def read_migrations_once() -> None:
    """Let MLflow read its sixty migrations once, not for 50 ms for each database that it opens in this process."""
    from mlflow.store.db import utils

    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)


@pytest.fixture
def no_migrations(empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow make a new database in this process from an empty one, not with a second of migrations."""
    from mlflow.store.db import utils

    def copy(engine: Any) -> None:
        shutil.copy(empty_mlflow, engine.url.database)
        with contextlib.closing(sqlite3.connect(engine.url.database)) as database, database:
            database.execute("UPDATE experiments SET creation_time = ?", (time.time_ns() // 10**6,))

    monkeypatch.setattr(utils, "_initialize_tables", copy)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """The database of `mlflow_server`."""
    return Path(shutil.copy(empty_mlflow, tmp_path_factory.mktemp("server") / "server.db"))


@pytest.fixture(scope="session")
def mlflow_server(mlflow_database: Path) -> Iterator[str]:
    """The address of an MLflow server shared by the tests, each with its own runs and models."""
    client.quiet()
    with servers.mlflow(mlflow_database) as address:
        yield address


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, as the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("LABRUN_ROOT", "LABRUN_RUN_DIR", "LABRUN_DEBUG", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def labrun(workspace: Path) -> Command:
    """The command `labrun`, run in a process to its end, in the workspace."""

    def run(*arguments: str, timeout: float = 600, cold: bool = False, **environment: str) -> Completed:
        return run_labrun(*arguments, cwd=workspace, timeout=timeout, environment=environment, cold=cold)

    return run


@pytest.fixture
def registered() -> None:
    """Register labrun's resolvers with Hydra, as `labrun` does at start."""
    register()


@pytest.fixture
def labrun_here(workspace: Path, registered: None, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command `labrun` in this process, for tests of its output and refusals; to run something, use `labrun`."""
    return _here(app.main, "labrun", capfd)


@pytest.fixture
def lab_here(workspace: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command `lab` in this process, in the workspace."""
    return _here(cli.main, "lab", capfd)


def _here(main: Callable[[], None], name: Program, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str, **environment: str) -> Completed:
        capfd.readouterr()
        code = call_here(main, name, *arguments, **environment)
        out, err = capfd.readouterr()
        return Completed([name, *arguments], code, out, err)

    return run


@pytest.fixture
def refused_here(labrun_here: Command) -> Refused:
    """Run `labrun` with a mistake, check that it writes no run, and return its message."""

    def there() -> set[Path]:
        return {*Path().glob("outputs/*/*/run.json"), *Path().glob("multirun/*/*/*/run.json")}

    def refused(*arguments: str, **environment: str) -> str:
        before = there()
        done = labrun_here(*arguments, **environment)
        assert done.returncode in (1, 2), done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert there() == before
        return done.stderr

    return refused


@pytest.fixture
def run_here(workspace: Path, registered: None) -> Runner:
    """Execute one run in this process as `labrun` does, by default without MLflow and pictures."""

    def run(*overrides: str, pictures: bool = False) -> tuple[Record, Path]:
        run_id = origin.new_id()
        with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
            config = compose("config", ["tracking=none", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        run_dir = workspace / "outputs" / "test" / f"now-{run_id}"
        plain, around = composed.without_hydra(config), freeze.capture_provenance(workspace)
        record = freeze.freeze(plain, run_id, list(overrides), workspace, around)
        freeze.submit(record, run_dir)
        return execute.execute(run_dir, capture=False, pictures=pictures), run_dir

    return run


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Restore environment variables, log handlers and Hydra's global state after each test."""
    before, root = dict(os.environ), logging.getLogger()
    handlers = list(root.handlers)
    forget_hydra()
    paths.set_home(None)
    yield
    forget_hydra()
    root.handlers[:] = handlers
    os.environ.clear()
    os.environ.update(before)
