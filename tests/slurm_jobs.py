"""Helpers for the tests with a real Slurm cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import start_labrun, wait_for
from labrun.runs.context import read_metrics
from labrun.runs.record import Record, read_record

SLURM = ("compute=slurm", "tracking=none", "report=none")
NETWORK = (*SLURM, "model=mnist_dnn", "trainer.batch_size=16", "dataset.max_samples=1000")
"""A small network with some ninety steps per epoch, and a few epochs per second."""


@pytest.fixture(autouse=True)
def no_jobs_left(workspace: Path, cluster: None) -> Iterator[None]:
    yield
    if squeue():
        subprocess.run(["scancel", *squeue()], check=False)
    wait_for(lambda: not squeue(), 60)


def squeue(field: str = "%T") -> dict[str, str]:
    """Return the jobs submitted from this folder, each with a field of squeue, such as its state."""
    command = ["squeue", "-h", "-r", "-o", f"%i {field} %Z"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return {
        job: shown for job, shown, folder in (line.split(maxsplit=2) for line in lines) if Path(folder) == Path.cwd()
    }


def release_requeued() -> None:
    """Have Slurm start a requeued job at once, which it would otherwise hold back for two minutes."""
    for job, why in squeue("%r").items():
        if why == "BeginTime":
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)


def all_records(workspace: Path) -> list[Record]:
    """Return the records of the only sweep's runs."""
    return [read_record(path.parent) for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]


def single(workspace: Path) -> Record:
    (path,) = workspace.glob("outputs/*/*/run.json")
    return read_record(path.parent)


def begin(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    return start_labrun(*arguments, cwd=workspace)


def has_begun(workspace: Path) -> bool:
    """Whether the single run has started."""
    return bool(list(workspace.glob("outputs/*/*/run.json"))) and single(workspace).status == "running"


def is_running(workspace: Path) -> bool:
    """Whether the single run has started to train."""
    paths = list(workspace.glob("outputs/*/*/run.json"))
    return bool(paths) and read_record(paths[0].parent).status == "running" and bool(read_metrics(paths[0].parent))


def finished(process: subprocess.Popen[str], timeout_s: float = 150) -> tuple[str, str]:
    out, err = process.communicate(timeout=timeout_s)
    assert "Traceback" not in err, err
    return out, err


def write_script(workspace: Path, text: str) -> tuple[str, str]:
    (workspace / "train.py").write_text(text)
    return ("experiment=script", "script.path=train.py")


SLEEPING = "import sys, time\nprint('VERSION one', flush=True)\ntime.sleep(float(sys.argv[1]))\n"


def sleeping(workspace: Path, seconds: float) -> tuple[str, ...]:
    """Write a script that sleeps, and return the words for its run on Slurm. Its job imports no large library."""
    return (*write_script(workspace, SLEEPING), f"script.positional=[{seconds}]", *SLURM)


NET = """
import pytorch_lightning as pl, torch

class Net(pl.LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
"""


def write_failing(workspace: Path, before: str) -> None:
    """Write a network, `model=failing`, whose module begins with `before`, which may raise an error."""
    (workspace / "failing.py").write_text(before + NET)
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "failing.yaml").write_text("_target_: failing.Net\n")
