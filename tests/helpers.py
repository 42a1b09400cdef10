"""What several test files need."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from labrun.runs import record as records
from labrun.runs import recording, tracking
from labrun.runs.record import Record


def new(run_id: str = "abcd1234", **values: object) -> Record:
    plain = {"id": run_id, "name": "test", "task": "fit", "status": records.QUEUED, "created": records.now()}
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


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "labrun", "-m", *arguments, *PLAIN], cwd=workspace, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def statuses(workspace: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]


def wait_for(condition: Callable[[], bool], timeout_s: float = 180) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def sweep_dir(workspace: Path) -> Path:
    """The only sweep's folder."""
    (folder,) = workspace.glob("multirun/*/*")
    return folder


def lab(workspace: Path, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """The command `lab` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from labrun.cli import main; main()", *arguments],
        cwd=workspace, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


def copy_database(empty_mlflow: Path, workspace: Path) -> None:
    """Give a workspace an MLflow database without waiting for it to be made."""
    place = tracking.database_path(workspace)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_mlflow, place)


def imported(importtime: str) -> set[str]:
    """The packages that `python -X importtime` saw."""
    lines = [line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:")]
    return {name.partition(".")[0] for name in lines}


def processes_of(workspace: Path) -> list[psutil.Process]:
    """The other processes that work for a workspace."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = " ".join(process.info["cmdline"] or [])
        if process.pid == os.getpid():
            continue
        if str(workspace) in told or str(workspace) in (process.info["cwd"] or ""):
            found.append(process)
    return found


def write_device_model(workspace: Path) -> None:
    """A model that prints which devices its run sees, and takes two seconds."""
    (workspace / "shows.py").write_text(
        "import os, time\nimport numpy as np\n\nclass Shows:\n    def __init__(self, number=0):\n        pass\n"
        "    def fit(self, x, y):\n        print('DEVICES', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "        time.sleep(2)\n        return self\n    def predict(self, x):\n        return np.zeros(len(x), int)\n"
    )
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "shows.yaml").write_text("_target_: shows.Shows\nnumber: 0\n")


def devices(workspace: Path) -> list[str]:
    """What the runs of a sweep printed with it, in their order."""
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
    """A model that logs `score`, step by step up to its quality, and `cost`."""
    (workspace / "climber.py").write_text(CLIMBER)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "climber.yaml").write_text(
        "_target_: climber.Climber\nquality: 0.5\nseconds: 0.0\nsteps: 5\nway: climb\nword: ''\ndepth: 0\n"
    )
