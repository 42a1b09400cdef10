"""Preempted runs: networks save a checkpoint and resume from it, other runs restart."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from conftest import Runner
from labrun import execute
from labrun.runs.context import read_metrics
from labrun.runs.record import COMPLETED, PREEMPTED, read_record
from labrun.runs.recording import Preempted

NETWORK = (
    "model=mnist_dnn",
    "trainer.max_epochs=3",
    "trainer.batch_size=32",
    "dataset.max_samples=450",
    "dataset.validation_size=0.2",
    "trainer.log_every_n_batches=5",
    "compute=local",
    "report=none",
)


class LeaveAt(pl.Callback):
    """Preempts its own process once, after the given number of steps."""

    asked = False

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and not LeaveAt.asked:
            LeaveAt.asked = True
            os.kill(os.getpid(), signal.SIGUSR1)


class LeavesOnce:
    """A scikit-learn-like model whose first fit is interrupted."""

    asked = False

    def fit(self, x: Any, y: Any) -> LeavesOnce:
        if not LeavesOnce.asked:
            LeavesOnce.asked = True
            os.kill(os.getpid(), signal.SIGUSR1)
        return self

    def predict(self, x: Any) -> Any:
        import numpy as np

        return np.zeros(len(x), int)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(run_dir / "outputs" / "model.pt", weights_only=True)
    return loaded


def test_a_preempted_network_resumes_mid_epoch_with_the_same_result(run_here: Runner) -> None:
    _, undisturbed = run_here(*NETWORK)
    for step in (7, 9, 18):  # 9 are an epoch: in the middle of one, at the end of the first, at the end of the second
        LeaveAt.asked = False
        before = set(undisturbed.parent.glob("*/run.json"))
        with pytest.raises(Preempted):
            run_here(*NETWORK, f"+callbacks.leave={{_target_: {__name__}.LeaveAt, step: {step}}}")
        (run_dir,) = {path.parent for path in set(undisturbed.parent.glob("*/run.json")) - before}
        waiting = read_record(run_dir)
        assert (waiting.status, waiting.ended, waiting.attempts[-1].status) == ("preempted", None, "preempted")

        record = execute.execute(run_dir, capture=False)
        assert record.status == COMPLETED and len(record.attempts) == 2
        for name, value in weights(undisturbed).items():
            assert torch.equal(value, weights(run_dir)[name]), (step, name)
        lines = [(line["name"], line["step"]) for line in read_metrics(run_dir)]
        assert len(lines) == len(set(lines)), f"a metric was counted twice, after step {step}"
        assert record.metrics["accuracy"] == read_record(undisturbed).metrics["accuracy"]


def test_a_preempted_model_without_checkpoints_restarts(run_here: Runner, workspace: Path) -> None:
    drop = ("~model.regularization", "~model.solver", "~model.backend", "~model.max_iter", "~model.tol")
    LeavesOnce.asked = False
    with pytest.raises(Preempted):
        run_here(f"model._target_={__name__}.LeavesOnce", *drop)
    (run_dir,) = (path.parent for path in workspace.glob("outputs/*/*/run.json"))
    assert read_record(run_dir).status == PREEMPTED
    record = execute.execute(run_dir, capture=False)
    assert record.status == COMPLETED and len(record.attempts) == 2
