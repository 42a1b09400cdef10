"""Each run of a sweep gets the resources that it requests: cores, GPUs, threads, variables of any size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conftest import Command, Refused
from helpers import PLAIN, Completed, program
from labrun.runs.record import read_record

SHOWS = """
import os, time
import numpy as np

class Shows:
    def __init__(self, seconds=0.0, number=0):
        self.seconds = seconds
    def fit(self, x, y):
        from threadpoolctl import threadpool_info
        pools = sorted({pool["num_threads"] for pool in threadpool_info()})
        print("SEEN", os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), pools[-1],
              len(os.environ.get("BIG", "")), flush=True)
        time.sleep(self.seconds)
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""


def write(workspace: Path) -> None:
    (workspace / "shows.py").write_text(SHOWS)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "shows.yaml").write_text("_target_: shows.Shows\nseconds: 0.0\nnumber: 0\n")


def seen(workspace: Path) -> list[list[str]]:
    """What the newest sweep's runs printed, or a single run's, in their order: GPUs, OMP_NUM_THREADS, threads, BIG."""
    folder = max([*workspace.glob("multirun/*/*"), *workspace.glob("outputs/[!.]*/*")], key=lambda p: p.stat().st_mtime)
    logs = [path.read_text() for path in sorted([*folder.glob("*/driver.log"), *folder.glob("driver.log")])]
    return [line.split()[1:] for log in logs for line in log.splitlines() if line.startswith("SEEN")]


def spans(workspace: Path) -> list[tuple[int, str, str]]:
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    return [(record.config["compute"]["cpus_per_run"], str(record.started), str(record.ended)) for record in found]


def test_runs_get_the_cores_and_variables_they_request(labrun: Command, workspace: Path) -> None:
    write(workspace)
    big = "+compute.environment.BIG=" + 100_000 * "x"  # more than a message holds
    done = labrun("-m", "model=shows", "model.seconds=1", "compute.cpus_per_run=1,2", "seed=1,2", big, *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[1:] for line in seen(workspace)] == [["1", "1", "100000"]] * 2 + [["2", "2", "100000"]] * 2
    all_of_them = spans(workspace)
    for _, begun, _ in all_of_them:
        at_once = [cpus for cpus, a, b in all_of_them if a <= begun < b]
        assert sum(at_once) <= max(2, *at_once), "no more than the cores"


def test_runs_see_the_gpus_they_request(labrun_here: Command, workspace: Path) -> None:
    """No GPU is used: only the visible devices of each run are checked."""
    (workspace / "shows.py").write_text(
        "import os, sys, time\nprint('SEEN', os.environ['CUDA_VISIBLE_DEVICES'])\ntime.sleep(float(sys.argv[1]))\n"
    )
    script = ("-m", "experiment=script", "script.path=shows.py", "tracking=none", "report=none")
    values = (*script, "compute=gpu")
    at_once = "script.positional=[0]"
    done = labrun_here(*values, at_once, "compute.gpus_per_run=1,2", CUDA_VISIBLE_DEVICES="4,5,6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[0].count(",") for line in seen(workspace)] == [0, 1]
    done = labrun_here(*script, at_once, "compute=local,gpu", CUDA_VISIBLE_DEVICES="4,5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[0] for line in seen(workspace)] == ["4,5", "4"]
    three = ("script.positional=[1]", "compute.runs_per_gpu=3", "seed=1,2,3")
    done = labrun_here(*values, *three, CUDA_VISIBLE_DEVICES="7")
    assert done.returncode == 0 and "; 3 at once" in done.stdout, done.stdout + done.stderr
    assert [line[0] for line in seen(workspace)] == ["7"] * 3


def test_a_run_uses_as_many_threads_as_it_has_cores(labrun: Command, workspace: Path) -> None:
    write(workspace)
    for target in ("inline", "local"):
        done = labrun("model=shows", f"compute={target}", "compute.cpus_per_run=1", *PLAIN)
        assert done.returncode == 0 and seen(workspace)[0][1:3] == ["1", "1"], done.stdout + done.stderr
        own = "+compute.environment.OMP_NUM_THREADS=2"
        assert labrun("model=shows", f"compute={target}", "compute.cpus_per_run=1", own, *PLAIN).returncode == 0
        assert seen(workspace)[0][1:3] == ["2", "2"], "the user's setting takes precedence"


def test_inline_runs_cannot_be_concurrent(refused_here: Refused) -> None:
    assert "compute.max_parallel=2" in refused_here("-m", "seed=1,2", "compute=inline", "compute.max_parallel=2")


RANKS = """
import os
import torch
from torch import nn

class Ranks(nn.Linear):
    told = False
    def __init__(self, input_shape, num_classes):
        super().__init__(torch.Size(input_shape).numel(), num_classes)
    def forward(self, x):
        if self.training and not Ranks.told and torch.distributed.is_initialized():
            Ranks.told = True
            names = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "RANK", "WORLD_SIZE")
            print("SEEN", *(os.environ[name] for name in names), flush=True)
        return super().forward(x.flatten(1))
"""


WITH_GPUS = """
import os, sys

os.environ["CUDA_VISIBLE_DEVICES"] = sys.argv.pop(1)
from labrun.app import main

main()
"""


def with_gpus(workspace: Path, gpus: str, *arguments: str) -> Completed:
    """Run `labrun` with these GPUs, in the warm interpreter, which has been started without them."""
    (workspace / "with_gpus.py").write_text(WITH_GPUS)
    command = program("python", "with_gpus.py", gpus, *arguments)
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240, check=False)


def test_each_gpu_of_a_run_has_its_own_process(workspace: Path) -> None:
    """Two concurrent runs of two GPUs each: the devices of their four processes, which train on the CPU, with gloo.

    Over 15 s if the machine is busy: four processes train.
    """
    write(workspace)
    (workspace / "ranks.py").write_text(RANKS)
    (workspace / "conf" / "model" / "ranks.yaml").write_text("_target_: ranks.Ranks\n")
    two = ("model=ranks", "compute=gpu", "compute.gpus_per_run=2", "trainer.accelerator=cpu", "callbacks=none")
    done = with_gpus(workspace, "4,5,6,7", "-m", *two, "trainer.max_epochs=1", "seed=1,2", *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [sorted(folder.glob("driver*.log")) for folder in sorted(workspace.glob("multirun/*/*/[0-9]"))]
    found = [
        [line.split()[1:] for log in run for line in log.read_text().splitlines() if "SEEN" in line] for run in logs
    ]
    pairs = sorted(run[0][0] for run in found)
    assert pairs == ["4,5", "6,7"] and all(one[0] == run[0][0] for run in found for one in run)
    assert [sorted(line[1:] for line in run) for run in found] == [[["0", "0", "2"], ["1", "1", "2"]]] * 2
    assert read_record(logs[0][0].parent).config["compute"]["tasks_per_node"] == 2
    done = with_gpus(workspace, "4,5", "model=shows", "compute=gpu", "compute.gpus_per_run=2", *PLAIN)
    assert done.returncode == 0 and seen(workspace)[0][0] == "4,5", "what is not a network has one process"


def test_more_processes_than_gpus_are_refused(
    refused_here: Refused, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    wish = ("model=mnist_dnn", "compute=gpu", "compute.gpus_per_run=2", "compute.tasks_per_node=3")
    assert "each process of a run needs its own GPU" in refused_here(*wish)
