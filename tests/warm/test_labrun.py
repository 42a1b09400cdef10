"""`labrun`, forked from a warm interpreter and started cold."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers import START, run_lab, run_labrun, start_labrun, start_warm, wait_for
from labrun.warm import identity


@pytest.fixture(scope="module")
def up() -> None:
    """The warm interpreter of all tests is up."""
    start_warm()
    wait_for(lambda: any(Path(os.environ["LABRUN_WARM_DIR"]).glob("*.sock")), 300)


def test_imports_of_test_files_set_no_variable_that_makes_commands_cold() -> None:
    """Libraries set variables as they are imported. With one that counts, every command of the tests would be cold."""
    now, then = ({key: value for key, value in found.items() if identity.counts(key)} for found in (os.environ, START))
    assert now == then
    assert {"KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"} <= now.keys(), "set within tests"


def commands() -> int:
    """How many commands warm interpreters have forked."""
    rows = [re.split(r"  +", line.strip()) for line in run_lab("warm", "status").stdout.splitlines()[1:]]
    return sum(int(row[2]) for row in rows)


def record(workspace: Path) -> dict[str, Any]:
    newest = max(workspace.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    return dict(json.loads(newest.read_text()))


@pytest.mark.parametrize("overrides", [[], ["model=mnist_dnn", "trainer.max_epochs=1"]], ids=["estimator", "network"])
def test_a_forked_and_a_cold_run_have_the_same_record(up: None, workspace: Path, overrides: list[str]) -> None:
    """Over 15 s: one of the two runs imports PyTorch by itself."""
    found = []
    for cold in (False, True):
        before = commands()
        listing = {"PYTHONPROFILEIMPORTTIME": "1"} if cold else None
        done = run_labrun(*overrides, "report=none", cwd=workspace, environment=listing, cold=cold)
        assert done.returncode == 0, done.stderr
        deferred = "scipy.signal" if overrides else "pandas"
        assert not re.search(rf"\| +{deferred}$", done.stderr, re.M), "the run has no use for it"
        assert cold or commands() > before
        assert ("Loading" in done.stdout) is cold
        assert "leaked" not in done.stderr, "by PyTorch's native libraries, at exit"
        found.append(record(workspace))
    for key in ("metrics", "packages", "signature", "config", "code", "data", "threads"):
        assert found[0].get(key) == found[1].get(key), key


MODEL = """
import numpy as np

class Constant:
    def __init__(self, scale=1):
        self.scale = scale
    def fit(self, x, y):
        print("THIS IS", {word!r})
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""


def test_an_edit_between_two_commands_is_seen(up: None, workspace: Path) -> None:
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "constant.yaml").write_text("_target_: constant.Constant\nscale: 1\n")
    for word in ("first", "second"):
        (workspace / "constant.py").write_text(MODEL.format(word=word))
        before = commands()
        done = run_labrun("model=constant", "report=none", cwd=workspace)
        assert f"THIS IS {word}" in done.stdout, done.stderr
        assert commands() > before


ENDING = """
import sys, weakref
import numpy as np

class Ending:
    def fit(self, x, y):
        weakref.finalize(self, print, "FINALIZED")
        sys.modules["kept"] = self
        found = [one for one in weakref.finalize._registry.values() if one.func.__module__ == "torch.library"]
        print("TORCH", "torch" in sys.modules, sum(one.atexit for one in found))
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""


def test_a_command_runs_its_own_finalizers_but_not_pytorchs(up: None, workspace: Path) -> None:
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "ending.yaml").write_text("_target_: ending.Ending\n")
    (workspace / "ending.py").write_text(ENDING)
    done = run_labrun("model=ending", "report=none", cwd=workspace)
    assert done.returncode == 0 and "TORCH True 0" in done.stdout, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("FINALIZED")


def test_the_pool_of_a_sweep_is_forked(up: None, workspace: Path) -> None:
    done = run_labrun("-m", "model.regularization=0.1,1", "report=none", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "Imported the modules of all runs" in done.stdout
    assert "Loading" not in done.stdout, "a new interpreter says what it loads"


def test_code_that_shadows_a_loaded_module_gets_a_new_interpreter(up: None, workspace: Path) -> None:
    """The frozen code has another module with the name of a loaded one, and takes precedence."""
    (workspace / "yaml.py").write_text("raise ImportError('not this one')\n")
    done = run_labrun("-m", "model.regularization=0.1,1", "report=none", cwd=workspace)
    assert done.returncode == 0, "the working folder comes last: " + done.stderr


SLEEPER = """
import os, sys, time
import numpy as np

class Sleeper:
    def __init__(self, seconds=0.0):
        self.seconds = seconds
    def fit(self, x, y):
        print("PYTORCH", "torch" in sys.modules, flush=True)
        time.sleep(self.seconds)
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""


def sleeper(workspace: Path) -> None:
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nseconds: 0.0\n")
    (workspace / "sleeper.py").write_text(SLEEPER)


def logs(workspace: Path) -> list[str]:
    return [path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log")]


@pytest.mark.parametrize("word", ["", "import torch\n"])
def test_the_pool_imports_pytorch_only_if_its_runs_need_it(up: None, workspace: Path, word: str) -> None:
    """Each run is a fork, which takes three times as long with PyTorch in memory."""
    sleeper(workspace)
    (workspace / "sleeper.py").write_text(word + SLEEPER)
    done = run_labrun("-m", "model=sleeper", "model.seconds=0,0.01", "report=none", cwd=workspace)
    assert done.returncode == 0 and "Loading" not in done.stdout, done.stdout + done.stderr
    assert all(f"PYTORCH {bool(word)}" in log for log in logs(workspace)) and len(logs(workspace)) == 2


def test_the_pool_of_a_killed_command_ends(up: None, workspace: Path) -> None:
    sleeper(workspace)
    sweep = start_labrun("-m", "model=sleeper", "model.seconds=98,99", "report=none", cwd=workspace)
    wait_for(lambda: sum("PYTORCH" in log for log in logs(workspace)) == 2)
    runs = [json.loads(path.read_text())["process"]["pid"] for path in workspace.glob("multirun/*/*/*/run.json")]
    pools = {psutil.Process(pid).ppid() for pid in runs}
    sweep.kill()
    sweep.communicate()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in {*runs, *pools}), 20)
