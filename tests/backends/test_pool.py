"""The pool under real faults: each leaves a correct record, and other runs are not affected."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from helpers import submitted
from labrun.backends.base import Resources
from labrun.backends.local.pool import LocalPool
from labrun.backends.local.server import Server
from labrun.backends.local.slots import Slots
from labrun.compose import composed, paths
from labrun.runs.attempts import Failure
from labrun.runs.finalize import close_ended
from labrun.runs.record import Record, process_lives, read_record, shown_status
from labrun.submission import freeze, origin
from labrun.warm import zygote

MODEL = '''
import os, signal, sys, time
import numpy as np

class Odd:
    """Does what its name says, then predicts nought."""

    def __init__(self, act="fits", seconds=0.0, once=None):
        self.act, self.seconds, self.once = act, seconds, once

    def fit(self, x, y):
        print("acting:", self.act, flush=True)
        first = self.once is None or not os.path.exists(self.once)
        if self.once:
            open(self.once, "a").write("x")
        if first:
            getattr(self, self.act)()
        time.sleep(self.seconds)
        return self

    def predict(self, x):
        return np.zeros(len(x), int)

    def fits(self):
        pass

    def raises(self):
        raise ValueError("an odd thing")

    def exits(self):
        sys.exit(3)

    def leaves(self):
        os._exit(4)

    def crashes(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def leaks(self):
        self.held = [bytearray(os.urandom(1024) * 1024) for _ in range(400)]
        time.sleep(60)

    def resists(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(60)
'''


SCRIPT = """
import os, sys, time
print("acting on", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(float(sys.argv[1]))
"""


def composed_for_a_run(*overrides: str) -> Any:
    """Return the config of a run, also made known to Hydra."""
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


@pytest.fixture
def submit(workspace: Path, registered: None) -> Callable[..., Path]:
    """Writes a run of the odd model; returns its folder."""
    config = composed_for_a_run("tracking=none", "report=none", "dataset.max_samples=30")
    plain = composed.resolved(composed.without_hydra(config), keep_environment=True)

    def write(act: str = "fits", **arguments: object) -> Path:
        values = OmegaConf.to_container(OmegaConf.create(plain))
        values["model"] = {"_target_": "odd.Odd", "act": act, **arguments}
        return submitted(workspace, origin.new_id(), config=values)

    return write


@pytest.fixture
def submit_script(workspace: Path, registered: None) -> Callable[[float], Path]:
    """Writes a run of a script, whose server imports no large library; returns its folder."""
    (workspace / "script").mkdir()
    (workspace / "script" / "acts.py").write_text(SCRIPT)

    def write(seconds: float) -> Path:
        words = ("experiment=script", "script.path=script/acts.py", f"script.positional=[{seconds}]", "tracking=none")
        plain, run_id = composed.without_hydra(composed_for_a_run(*words)), origin.new_id()
        record = freeze.freeze(plain, run_id, list(words), workspace, freeze.capture_provenance(workspace))
        run_dir = workspace / "outputs" / "test" / f"now-{run_id}"
        freeze.submit(record, run_dir)
        return run_dir

    return write


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the odd model lies."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd.py").write_text(MODEL)
    return folder


def starting(folder: Path) -> Callable[[int], Server]:
    """Starts a server that has the odd model of a folder."""
    path = [*sys.path, str(folder)]
    return lambda threads: Server(path, ["odd.Odd", "labrun.data.readers.Digits"], cwd=str(folder), threads=threads)


def process_of(pool: LocalPool) -> Any:
    """Its server's."""
    (server,) = pool.servers.values()
    return server.process


@pytest.fixture(scope="module")
def shared(module_folder: Path) -> Iterator[LocalPool]:
    """One pool for all tests that leave its server alive."""
    made = LocalPool(starting(module_folder), Slots(2))
    yield made
    made.close()


@pytest.fixture
def pool(shared: LocalPool) -> Iterator[LocalPool]:
    yield shared
    assert not shared.busy


def starting_for_scripts(threads: int) -> Server:
    return Server(sys.path, [], threads=threads)


@pytest.fixture
def own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPool]:
    """A pool for scripts whose server is a new interpreter, and may be killed."""
    monkeypatch.setattr(zygote, "available", {})
    made = LocalPool(starting_for_scripts, Slots(2))
    yield made
    made.close()


def until_done(pool: LocalPool, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while pool.busy:
        pool.poll(0.1)
        assert time.monotonic() < end, "the pool did not finish"


def until(pool: LocalPool, condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        pool.poll(0.05)
        assert time.monotonic() < end, "waited in vain"


def status(run_dir: Path) -> str:
    return read_record(run_dir).status


def error(run_dir: Path) -> Failure:
    found = read_record(run_dir).error
    assert found is not None
    return found


def acting(run_dir: Path) -> bool:
    log = run_dir / "driver.log"
    return log.exists() and "acting" in log.read_text()


def test_runs_are_isolated_and_logged(pool: LocalPool, submit: Callable[..., Path]) -> None:
    runs = [submit("fits", seconds=0.05) for _ in range(6)]
    for run in runs:
        pool.submit(run, Resources())
    until_done(pool)
    found = [read_record(run) for run in runs]
    assert {record.status for record in found} == {"completed"}
    assert len({record.process.pid for record in found if record.process}) == 6
    assert all("acting: fits" in (run / "driver.log").read_text() for run in runs)
    assert all((run / "heartbeat").exists() for run in runs)


FAULTS = {
    "raises": ("failed", "ValueError", "an odd thing"),
    "exits": ("failed", "SystemExit", "exit code 3"),
    "leaves": ("failed", "Exited", "exit code 4"),
    "crashes": ("failed", "Crashed", "SIGSEGV"),
}


def test_every_fault_affects_only_its_run_and_is_reported(pool: LocalPool, submit: Callable[..., Path]) -> None:
    runs = {act: submit(act) for act in FAULTS}
    neighbours = [submit("fits", seconds=0.2) for _ in range(3)]
    for run in [*runs.values(), *neighbours]:
        pool.submit(run, Resources())
    until_done(pool)
    for act, (end, kind, words) in FAULTS.items():
        assert status(runs[act]) == end
        assert error(runs[act]).type == kind and words in error(runs[act]).message
    assert [status(run) for run in neighbours] == ["completed"] * 3


def test_kill_9_of_a_run_fails_that_run_alone(pool: LocalPool, submit: Callable[..., Path]) -> None:
    victim, neighbour = submit("fits", seconds=60), submit("fits", seconds=0.5)
    pool.submit(victim, Resources())
    pool.submit(neighbour, Resources())
    until(pool, lambda: acting(victim))
    os.kill(read_record(victim).process.pid, signal.SIGKILL)  # type: ignore[index]
    until_done(pool)
    assert status(victim) == "failed" and "SIGKILL" in error(victim).message
    assert status(neighbour) == "completed"


def test_a_run_over_its_time_or_memory_fails_with_the_reason(pool: LocalPool, submit: Callable[..., Path]) -> None:
    slow, leaky = submit("fits", seconds=60), submit("leaks")
    pool.submit(slow, Resources(timeout_s=2))
    pool.submit(leaky, Resources(mem_gb=0.3))
    until_done(pool)
    assert status(slow) == "failed" and "compute.timeout_min" in error(slow).message
    assert status(leaky) == "failed" and "compute.mem_gb=0.3" in error(leaky).message


def test_a_dead_server_is_restarted_with_its_runs(own_pool: LocalPool, submit_script: Callable[[float], Path]) -> None:
    runs = [submit_script(1.0) for _ in range(4)]
    for run in runs:
        own_pool.submit(run, Resources())
    until(own_pool, lambda: acting(runs[0]) and acting(runs[1]))
    process_of(own_pool).kill()
    until_done(own_pool)
    found = [read_record(run) for run in runs]
    assert [record.status for record in found] == ["completed"] * 4
    assert [len(record.attempts) for record in found] == [2, 2, 1, 1]
    assert found[0].attempts[0].reason == "the fork server died"


def test_an_interrupt_while_a_run_is_finalized_loses_nothing(
    pool: LocalPool, submit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, interrupted = close_ended, []

    def once(*arguments: Any) -> Record:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("labrun.backends.local.pool.close_ended", once)
    run = submit("crashes")
    pool.submit(run, Resources())
    with pytest.raises(KeyboardInterrupt):
        until_done(pool)
    until_done(pool)
    assert interrupted and status(run) == "failed"


def test_a_failed_run_is_retried_and_keeps_the_reason(
    pool: LocalPool, submit: Callable[..., Path], tmp_path: Path
) -> None:
    once, always = submit("crashes", once=str(tmp_path / "mark")), submit("raises")
    for run in (once, always):
        pool.submit(run, Resources(retries=2))
    until_done(pool)
    first, second = read_record(once), read_record(always)
    assert first.status == "completed" and len(first.attempts) == 2 and "SIGSEGV" in first.attempts[0].reason
    assert second.status == "failed" and len(second.attempts) == 3


def test_a_request_cancels_one_run_and_the_others_continue(pool: LocalPool, submit: Callable[..., Path]) -> None:
    one, other, waiting = submit("fits", seconds=60), submit("fits", seconds=3), submit("fits")
    for run in (one, other, waiting):
        pool.submit(run, Resources())
    (waiting / "requests" / "cancel").touch()
    until(pool, lambda: acting(one))
    (one / "requests" / "cancel").touch()
    until_done(pool, 30)
    assert [status(one), status(other), status(waiting)] == ["canceled", "completed", "canceled"]
    assert read_record(waiting).attempts == []


def test_cancel_at_once_ends_a_run_that_ignores_cancel(pool: LocalPool, submit: Callable[..., Path]) -> None:
    polite, stubborn, waiting = submit("fits", seconds=60), submit("resists"), submit("fits")
    for run in (polite, stubborn, waiting):
        pool.submit(run, Resources())
    until(pool, lambda: acting(polite) and acting(stubborn))
    pool.cancel_all()
    until(pool, lambda: status(polite) == "canceled", 20)
    pool.cancel_all(at_once=True)
    until_done(pool, 20)
    assert [status(run) for run in (polite, stubborn, waiting)] == ["canceled"] * 3
    assert [read_record(run).reason for run in (polite, waiting)] == ["canceled", "canceled before it began"]


def test_a_hanging_server_does_not_block_the_runs(own_pool: LocalPool, submit_script: Callable[[float], Path]) -> None:
    """Over 15 s: the pool waits some seconds before it considers the server hung."""
    first, second = submit_script(0), submit_script(0)
    own_pool.submit(first, Resources())
    until_done(own_pool)
    os.kill(process_of(own_pool).pid, signal.SIGSTOP)
    own_pool.submit(second, Resources())
    own_pool.poll(0.1)
    own_pool.cancel_all()
    until_done(own_pool)
    assert [status(first), status(second)] == ["completed", "canceled"]


def test_runs_die_with_their_supervisor(own_pool: LocalPool, submit_script: Callable[[float], Path]) -> None:
    run = submit_script(60)
    own_pool.submit(run, Resources())
    until(own_pool, lambda: acting(run))
    process = read_record(run).process
    own_pool.close()
    end = time.monotonic() + 10
    while process_lives(process):
        assert time.monotonic() < end
        time.sleep(0.05)
    record: Record = read_record(run)
    assert record.status == "running" and shown_status(run, record) == "lost"


def test_each_slot_has_its_own_device(submit_script: Callable[[float], Path]) -> None:
    pool = LocalPool(starting_for_scripts, Slots(2, gpus=["3", "5"]))
    runs = [submit_script(1) for _ in range(2)]
    for run in runs:
        pool.submit(run, Resources(gpus=1))
    until_done(pool)
    pool.close()
    assert {(run / "driver.log").read_text().split("acting on ")[1][0] for run in runs} == {"3", "5"}
