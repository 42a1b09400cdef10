"""Helpers shared by several test files."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

from labrun.runs import recording
from labrun.runs.record import QUEUED, Record, timestamp
from labrun.tracking import feed
from labrun.tracking.base import Fed
from labrun.tracking.mlflow import client
from labrun.tracking.mlflow.tracker import MLflow

Completed = subprocess.CompletedProcess[str]
Program = Literal["labrun", "lab", "python"]
WARM = Path(__file__).parent / "bin" / "warm.py"
WORKER = WARM.with_name("worker.py")
FORKS = Path(__file__).parent / "bin" / "forks.py"
EARLY = "TESTS_BEGAN_WARM"
"""Environment variable set in a session whose commands wait for the warm interpreter."""
START: dict[str, str] = {}
"""Environment at the start of the session (`conftest`). With a test's own, others could not use the interpreter."""


def program(name: Program, *arguments: str, cold: bool = False) -> list[str]:
    """Return the command line that starts one of labrun's commands.

    Args:
        name: the command; `python` with a file as the first argument.
        arguments: its arguments.
        cold: whether to start a new interpreter, because the test is about the process itself (a signal, its memory,
            its imports, a closed stream).
    """
    if not cold:
        start_warm()
        wait_until_warm()
        return [sys.executable, str(WARM), name, *arguments]
    start = {"labrun": ["-m", "labrun"], "lab": ["-c", "from labrun.cli import main; main()"], "python": []}
    return [sys.executable, *start[name], *arguments]


def start_warm(early: bool = False) -> None:
    """Start the warm interpreter shared by all tests, once. Commands are cold until it is ready.

    Args:
        early: whether many commands will follow, so that the first ones wait for it.
    """
    place = os.environ.get("LABRUN_WARM_DIR")
    if place is None:
        return
    if early:
        os.environ[EARLY] = START[EARLY] = "1"
    with contextlib.suppress(FileExistsError):
        os.close(os.open(f"{place}/asked", os.O_CREAT | os.O_EXCL))
        subprocess.Popen(
            [sys.executable, str(WARM), "lab", "warm", "start"],
            env=START,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@functools.cache
def wait_until_warm() -> None:
    """Wait for the warm interpreter if the session started one early, because a cold command would delay it further."""
    if EARLY in os.environ:
        end = time.monotonic() + 120
        while not any(Path(os.environ["LABRUN_WARM_DIR"]).glob("*.sock")) and time.monotonic() < end:
            time.sleep(0.1)


def run_labrun(
    *arguments: str,
    cwd: Path | None = None,
    timeout: float = 600,
    environment: Mapping[str, str] | None = None,
    cold: bool = False,
) -> Completed:
    """Run `labrun` in a process to its end, with `environment` in addition to this process's."""
    return _run(program("labrun", *arguments, cold=cold), cwd, timeout, environment)


def run_cold(
    *commands: Sequence[str], imports: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None
) -> list[Completed]:
    """Run `labrun` several times, one after the other, each in a fork of a new interpreter.

    Args:
        commands: the arguments of each command.
        imports: modules to import once for all of them.
        cwd: the working folder.
        environment: environment variables in addition to this process's.
    """
    done = subprocess.run(
        [sys.executable, str(FORKS)],
        cwd=cwd,
        env={**os.environ, "PYTHONSAFEPATH": "1", "LABRUN_WARM": "0", **(environment or {})},
        input=json.dumps({"imports": imports, "commands": commands}),
        timeout=600,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    return [Completed(["labrun", *words], *one) for words, one in zip(commands, told, strict=True)]


def run_lab(
    *arguments: str,
    cwd: Path | None = None,
    timeout: float = 400,
    environment: Mapping[str, str] | None = None,
    cold: bool = False,
) -> Completed:
    """Run `lab` in a process to its end, with `environment` in addition to this process's."""
    return _run(program("lab", *arguments, cold=cold), cwd, timeout, environment)


def _run(command: list[str], cwd: Path | None, timeout: float, environment: Mapping[str, str] | None) -> Completed:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def start_labrun(
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cold: bool = False,
    **streams: Any,
) -> subprocess.Popen[str]:
    """Start `labrun` in the background. Output and errors are pipes unless `streams` says otherwise."""
    return _start(program("labrun", *arguments, cold=cold), cwd, environment, streams)


def start_lab(
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cold: bool = False,
    **streams: Any,
) -> subprocess.Popen[str]:
    """Start `lab` in the background. Output and errors are pipes unless `streams` says otherwise."""
    return _start(program("lab", *arguments, cold=cold), cwd, environment, streams)


def _start(
    command: list[str], cwd: Path | None, environment: Mapping[str, str] | None, streams: Mapping[str, Any]
) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **(environment or {})}, **{**pipes, **streams})


@contextlib.contextmanager
def as_if_started(name: str, *arguments: str, **environment: str) -> Iterator[None]:
    """In the context, make this process look as if started with these arguments; then undo its permanent changes."""
    root, before = logging.getLogger(), (list(sys.path), set(sys.modules), dict(os.environ), sys.argv)
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    sys.argv = [name, *arguments]
    os.environ.update(environment)
    forget_hydra()
    freeze, gc.freeze = gc.freeze, lambda: None  # this process continues, so its garbage must still be collected
    try:
        yield
    finally:
        forget_hydra()
        gc.freeze = freeze
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
            handler.close()
        root.handlers[:], logging.raiseExceptions = handlers, raising
        root.setLevel(level)
        sys.path[:], sys.argv = before[0], before[3]
        here = str(Path.cwd())
        for module in set(sys.modules) - before[1]:  # other tests may define these modules differently
            if str(getattr(sys.modules[module], "__file__", None) or "").startswith(here):
                del sys.modules[module]
        os.environ.clear()
        os.environ.update(before[2])


def forget_hydra() -> None:
    """Reset Hydra's global state: its configs, and the `version_base` in effect."""
    GlobalHydra.instance().clear()
    for kept in (VersionBase, HydraConfig):
        Singleton._instances.pop(kept, None)


def call_here(main: Callable[[], None], name: Program, *arguments: str, **environment: str) -> int:
    """Run one of labrun's commands in this process, and return its exit code."""
    with as_if_started(name, *arguments, **environment):
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def new(run_id: str = "abcd1234", **values: object) -> Record:
    plain = {"id": run_id, "name": "test", "task": "fit", "status": QUEUED, "created": timestamp()}
    return Record(**{**plain, "config": {"trainer": {}}, **values})  # type: ignore[arg-type]


def submitted(tmp_path: Path, run_id: str = "abcd1234", **values: object) -> Path:
    run_dir = tmp_path / "outputs" / "test" / f"now-{run_id}"
    recording.create(run_dir, new(run_id, **values))
    return run_dir


SLEEPER = """
import time
import numpy as np

class Sleeper:
    def __init__(self, seconds=0.0, number=0):
        self.seconds, self.number = seconds, number
    def fit(self, x, y):
        print("VERSION one", flush=True)
        time.sleep(self.seconds)
        if self.number < 0:
            raise ValueError(f"number {self.number} is below zero")
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""
PLAIN = ("tracking=none", "report=none", "dataset.max_samples=50")


def write_model(workspace: Path) -> None:
    (workspace / "sleeper.py").write_text(SLEEPER)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nseconds: 0.0\nnumber: 0\n")


def start(workspace: Path, *arguments: str, cold: bool = False) -> subprocess.Popen[str]:
    """Start a plain sweep in the background."""
    return start_labrun("-m", *arguments, *PLAIN, cwd=workspace, cold=cold)


def statuses(workspace: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]


def wait_for(condition: Callable[[], bool], timeout_s: float = 180) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def sweep_dir(workspace: Path) -> Path:
    """Return the folder of the only sweep."""
    (folder,) = workspace.glob("multirun/*/*")
    return folder


def lab(workspace: Path, *arguments: str, timeout: float = 400) -> Completed:
    """Run the command `lab` in a process to its end."""
    return run_lab(*arguments, cwd=workspace, timeout=timeout)


def copy_database(empty_mlflow: Path, workspace: Path) -> None:
    """Give a workspace a copy of an empty MLflow database, which is faster than creating one."""
    place = client.database_path(workspace)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_mlflow, place)


def draw_none(workspace: Path) -> None:
    """Have the runs of a workspace draw no pictures, for commands that a test cannot pass `report=none`."""
    settings = workspace / "conf" / "local" / "default.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("# @package _global_\nreport: none\n")


def imported(importtime: str) -> set[str]:
    """Return the packages listed by `python -X importtime`."""
    lines = [line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:")]
    return {name.partition(".")[0] for name in lines}


def processes_of(workspace: Path) -> list[psutil.Process]:
    """Return the other processes that work for a workspace."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = " ".join(process.info["cmdline"] or [])
        if process.pid == os.getpid():
            continue
        if str(workspace) in told or str(workspace) in (process.info["cwd"] or ""):
            found.append(process)
    return found


def write_device_script(workspace: Path) -> tuple[str, ...]:
    """Write a script that prints the devices visible to its run for two seconds; return the words for its run."""
    (workspace / "shows.py").write_text(
        "import os, time\nprint('DEVICES', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\ntime.sleep(2)\n"
    )
    return ("experiment=script", "script.path=shows.py", "tracking=none", "report=none")


def devices(workspace: Path) -> list[str]:
    """Return the devices that the runs of a sweep printed, in order of the runs."""
    logs = [path.read_text() for path in sorted(workspace.glob("multirun/*/*/*/driver.log"))]
    return [line.split()[1] for log in logs for line in log.splitlines() if line.startswith("DEVICES")]


CLIMBER = """
import time
import numpy as np
from labrun.runs import context

class Climber:
    def __init__(self, quality=0.5, seconds=0.0, steps=5, way='climb', word='', depth=0):
        self.quality, self.seconds, self.steps, self.way = quality, seconds, steps, way
    def fit(self, x, y):
        if self.way == 'crash':
            raise ValueError('this way is broken')
        for step in range(1, self.steps + 1):
            time.sleep(self.seconds / self.steps)
            known = {"no number": float("nan"), "infinite": float("inf")}
            value = known.get(self.way, self.quality * step / self.steps)
            context.log('score', value, step)
            context.log('cost', 1 - self.quality ** 2, step)
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""


def write_climber(workspace: Path) -> None:
    """Write a model that logs `cost`, and a `score` that rises step by step to its quality."""
    (workspace / "climber.py").write_text(CLIMBER)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "climber.yaml").write_text(
        "_target_: climber.Climber\nquality: 0.5\nseconds: 0.0\nsteps: 5\nway: climb\nword: ''\ndepth: 0\n"
    )


def mlflow_sync(root: Path, uri: str | None = None, **options: Any) -> Fed:
    """Update MLflow from the records: the workspace's own database, or a server."""
    return feed.sync(root, MLflow(), uri or client.database_uri(root), **options)


@contextlib.contextmanager
def installed(folder: Path, forget: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the context, make a package count as installed, in this process and in those it starts.

    Args:
        folder: folder with the package and its `.dist-info`.
        forget: clears a registry's cache of entry points.
        monkeypatch: pytest's fixture.
    """
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    forget()
    yield
    forget()
