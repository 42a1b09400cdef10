"""Monitoring, checkpoints, logging and tests of training: the best and the last epoch, all metrics, NaN."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from conftest import Command, Refused, Runner
from labrun import execute
from labrun.errors import ConfigError, RunFailedError
from labrun.runs import context, recording, store
from labrun.runs.groups import NotFinite, Training
from labrun.runs.record import COMPLETED, FAILED, QUEUED, cannot_write, read_record, write_record
from labrun.tasks.networks.checkpoints import plain_checkpoints
from labrun.tasks.packages import Package

pytestmark = pytest.mark.long

SMALL = ("model=mnist_dnn", "dataset.max_samples=120", "trainer.batch_size=20", "report=none")
VALIDATED = "dataset.validation_size=0.25"


def own(name: str) -> tuple[str, ...]:
    """Overrides that choose a class of this file."""
    return (*SMALL, f"model._target_={__name__}.{name}", "~model.units")


def lines(run_dir: Path, name: str) -> list[tuple[int, float, int | None]]:
    """Steps, values and epochs of a metric."""
    return [
        (line["step"], line["value"], line.get("epoch"))
        for line in context.read_metrics(run_dir)
        if line["name"] == name
    ]


def checkpoint_epoch(run_dir: Path, name: str) -> int:
    """Of which epoch, from 1 on, a checkpoint is."""
    content = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return int(content["epoch"]) + 1


def is_one_file(run_dir: Path) -> bool:
    """Whether the best and the last checkpoint are the same file."""
    return os.path.samefile(*(run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")))


class Linear(pl.LightningModule):
    """One layer, with its own training step."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Plateau(Linear):
    """Its scheduler watches a metric that it does not log."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "odd loss"}}


class Said(Linear):
    """Logs the same values in every run, by epoch: up to the fourth, and down again."""

    NAMES = ("val/acc", "val_err", "odd")
    VALUES = (0.1, 0.2, 0.3, 0.9, 0.5, 0.4)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        value = self.VALUES[self.current_epoch]
        self.log_dict(dict(zip(self.NAMES, (value, 1 - value, value), strict=True)))


class Namesake(Said):
    """Logs a metric of its validation under labrun's name for the test score."""

    NAMES = ("accuracy", "val_err", "odd")


def test_a_metric_named_like_the_test_score_is_reported(run_here: Runner, caplog: pytest.LogCaptureFixture) -> None:
    record, run_dir = run_here(*own("Namesake"), VALIDATED, "trainer.monitor=val_err", "trainer.max_epochs=2")
    assert "own code has logged accuracy, which is labrun's name for the score of the test split" in caplog.text
    assert record.metrics["accuracy"] == lines(run_dir, "accuracy")[-1][1]
    caplog.clear()
    run_here(*own("Said"), VALIDATED, "trainer.monitor=val_err", "trainer.max_epochs=2")
    assert "own code has logged" not in caplog.text


# ---- the metric's direction


@pytest.mark.parametrize(("monitor", "mode"), [("val/acc", "max"), ("val_err", "min")])
def test_the_best_epoch_is_kept_and_early_stopping_is_patient(
    run_here: Runner, caplog: pytest.LogCaptureFixture, monitor: str, mode: str
) -> None:
    with caplog.at_level("INFO"):
        record, run_dir = run_here(
            *own("Said"),
            VALIDATED,
            f"trainer.monitor={monitor}",
            "callbacks=early_stopping",
            "trainer.max_epochs=6",
            "callbacks.early_stopping.patience=1",
        )
    assert checkpoint_epoch(run_dir, "best") == 4 and checkpoint_epoch(run_dir, "last") == 5
    words = {"max": "the larger the better", "min": "the smaller the better"}[mode]
    assert f"Watching {monitor}: {words}" in caplog.messages
    assert record.config["trainer"]["monitor_mode"] == mode
    assert record.training is not None and record.training.as_json() == {
        "epochs": 5,
        "tested": 4,
        "why": f"the best by {monitor} ({words})",
        "stopped_early": {"epoch": 5, "monitor": monitor, "patience": 1},
    }
    assert record.metrics["val/acc"] == pytest.approx(0.9)


def test_a_callbacks_own_metric_has_its_own_direction(run_here: Runner) -> None:
    _, run_dir = run_here(
        *own("Said"),
        VALIDATED,
        "trainer.monitor=val_err",
        "callbacks=early_stopping",
        "trainer.max_epochs=6",
        "callbacks.early_stopping.monitor=val/acc",
        "callbacks.early_stopping.patience=1",
    )
    assert checkpoint_epoch(run_dir, "last") == 5


def test_a_metric_without_a_direction_is_refused_if_one_is_needed(refused_here: Refused) -> None:
    said = refused_here("model=mnist_dnn", "trainer.monitor=odd")
    assert "trainer.monitor=odd" in said and "trainer.monitor_mode=max or trainer.monitor_mode=min" in said
    said = refused_here("model=mnist_dnn", "callbacks=early_stopping", "callbacks.early_stopping.monitor=odd")
    assert "callbacks.early_stopping.mode=max" in said
    said = refused_here("-m", "model=mnist_dnn", "model.lr=0.1,0.2", "sweep.metric=odd")
    assert "sweep.goal=maximize or sweep.goal=minimize" in said
    said = refused_here("-m", "model=mnist_dnn", "model.lr=interval(0.1,0.2)", "sweep=random", "sweep.metric=odd")
    assert "sweep.goal=maximize" in said
    assert "monitor_mode=max" in refused_here("model=mnist_dnn", "trainer.monitor_mode=max")


def test_a_metric_without_a_direction_is_accepted_if_none_is_needed(run_here: Runner) -> None:
    record, _ = run_here(*SMALL, "trainer.monitor=odd", "callbacks=none", "trainer.max_epochs=1")
    assert record.status == COMPLETED
    record, _ = run_here("trainer.monitor=odd", "sweep.metric=odd")  # a logistic regression, and no sweep
    assert record.status == COMPLETED


def test_an_explicit_direction_takes_precedence_and_is_recorded(run_here: Runner, workspace: Path) -> None:
    common = (*own("Said"), VALIDATED, "trainer.monitor=odd")
    first, first_dir = run_here(*common, "trainer.monitor_mode=max", "trainer.max_epochs=4")
    assert checkpoint_epoch(first_dir, "best") == 4
    assert first.directions == {"odd": "max"}
    second, _ = run_here(*common, "trainer.monitor_mode=max", "trainer.max_epochs=2")
    assert store.find(workspace, "best:odd")[1].id == first.id
    assert store.find(workspace, "best:odd:min")[1].id == second.id


# ---- the last epoch


def test_resuming_from_the_last_checkpoint_keeps_the_best_one(run_here: Runner) -> None:
    common = (*own("Said"), VALIDATED, "trainer.monitor=val/acc")
    first, first_dir = run_here(*common, "trainer.max_epochs=5")
    assert (checkpoint_epoch(first_dir, "best"), checkpoint_epoch(first_dir, "last")) == (4, 5)
    assert not is_one_file(first_dir)
    rest, rest_dir = run_here(*common, "trainer.max_epochs=6", "trainer.resume=last")
    assert [epoch for _, _, epoch in lines(rest_dir, "val/acc")] == [6]
    assert (checkpoint_epoch(rest_dir, "best"), checkpoint_epoch(rest_dir, "last")) == (4, 6)
    assert rest.training is not None and (rest.training.tested, rest.training.epochs) == (4, 6)
    assert rest.metrics["val/acc"] == pytest.approx(0.9)
    assert rest.metrics["accuracy"] == first.metrics["accuracy"]


KILLED = """
import os
import signal

import torch
from pytorch_lightning import LightningModule
from torch import nn


class Killed(LightningModule):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", [0.9, 0.2, 0.3, 0.4, 0.5][self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_epoch_start(self):
        if self.current_epoch == 3 and os.environ.get("LABRUN_ATTEMPT") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_attempt_resumes_after_the_last_complete_epoch(labrun: Command, workspace: Path) -> None:
    """Over 15 s: its run is killed, so it needs its own pool."""
    (workspace / "mine.py").write_text(KILLED)
    done = labrun(
        "-m",
        *SMALL,
        "model._target_=mine.Killed",
        "~model.units",
        VALIDATED,
        "trainer.max_epochs=5",
        "trainer.monitor=val/acc",
        "compute.retries=1",
        "seed=1",
        "tracking=none",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run_dir,) = (path.parent for path in workspace.glob("multirun/*/*/0/run.json"))
    record = read_record(run_dir)
    assert [attempt.number for attempt in record.attempts] == [1, 2]
    every = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    told = [(line["attempt"], line["epoch"]) for line in every if line["name"] == "val/acc"]
    assert told == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    assert record.training is not None and record.training.tested == 1
    assert record.metrics["val/acc"] == pytest.approx(0.9)  # of the epoch that was tested, in another attempt
    assert "after epoch 3" in (run_dir / "driver.log").read_text()


def test_equal_checkpoints_share_a_file_and_survive_a_kill(run_here: Runner, workspace: Path) -> None:
    common = (*own("Said"), VALIDATED, "trainer.monitor=val/acc")
    _, run_dir = run_here(*common, "trainer.max_epochs=4")
    best = run_dir / "checkpoints" / "best.ckpt"
    assert is_one_file(run_dir)
    files = plain_checkpoints(Package(), best.parent)
    for left in (b"half of it", None):
        partial = best.with_name("last.ckpt.partial")
        os.link(best, partial) if left is None else partial.write_bytes(left)
        files.save_checkpoint({"epoch": 6, "global_step": 0}, best.with_name("last.ckpt"))
        assert (checkpoint_epoch(run_dir, "best"), checkpoint_epoch(run_dir, "last")) == (4, 7)


def test_a_run_in_a_linked_folder_resumes(run_here: Runner, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "real").mkdir()
    (workspace / "linked").symlink_to(workspace / "real")
    _, run_dir = run_here(*own("Said"), VALIDATED, "trainer.monitor=val/acc", "trainer.max_epochs=5")
    moved = workspace / "linked" / "run"
    run_dir.rename(workspace / "real" / "run")
    record = read_record(moved)
    record.status = QUEUED
    record.config["trainer"]["max_epochs"] = 6
    write_record(moved, record)
    again = execute.execute(moved, capture=False, pictures=False)
    assert again.training is not None and (again.training.tested, again.training.epochs) == (4, 6)
    assert {path.name for path in (moved / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_an_attempt_after_the_last_epoch_only_tests_the_model(run_here: Runner, workspace: Path) -> None:
    """The process was killed during scoring, so nothing is left to train."""
    record, run_dir = run_here(*own("Said"), VALIDATED, "trainer.monitor=val/acc", "trainer.max_epochs=5")
    before = dict(record.metrics)
    record.status, record.metrics, record.training = QUEUED, {}, None
    write_record(run_dir, record)
    again = execute.execute(run_dir, capture=False, pictures=False)
    assert len(again.attempts) == 2 and again.metrics == before
    assert again.training is not None and (again.training.tested, again.training.epochs) == (4, 5)


def test_the_last_checkpoint_can_be_turned_off(run_here: Runner) -> None:
    _, run_dir = run_here(*SMALL, "trainer.max_epochs=1", "callbacks.checkpoint.save_last=false")
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["best.ckpt"]


# ---- what a module logs


class Logs(Linear):
    """Logs in all the ways that Lightning has."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        self.log("train/both", loss, on_step=True, on_epoch=True)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        self.log("quiet", loss, logger=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def on_train_epoch_end(self) -> None:
        self.log("at_end", float(self.current_epoch))
        assert self.logger is not None
        self.logger.log_metrics({"by_hand": 1.5})
        self.logger.experiment.add_scalar("written", 2.5, self.global_step)
        self.logger.experiment.add_figure("nothing", None)


def test_every_metric_of_a_module_is_recorded_by_epoch(run_here: Runner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        record, run_dir = run_here(
            *own("Logs"), VALIDATED, "trainer.max_epochs=3", "trainer.monitor=val/loss", "trainer.evaluate=last"
        )
    for name in ("train/loss", "train/both", "train/mean", "val/loss", "at_end", "by_hand", "written"):
        assert [(step, epoch) for step, _, epoch in lines(run_dir, name)] == [(1, 1), (2, 2), (3, 3)], name
    assert set(record.metrics) == {
        "train/loss",
        "train/both",
        "train/mean",
        "val/loss",
        "at_end",
        "by_hand",
        "written",
        "accuracy",
        "test_loss",
    }
    header = next(text for text in caplog.messages if text.startswith("epoch "))
    assert all(name in header.split() for name in ("train/loss", "train/both", "train/mean", "val/loss"))
    assert "train/both_epoch" not in header


def test_log_every_n_batches_applies_to_a_users_module(run_here: Runner) -> None:
    """An epoch has six batches."""
    _, run_dir = run_here(
        *own("Logs"), VALIDATED, "trainer.max_epochs=2", "trainer.monitor=val/loss", "trainer.log_every_n_batches=2"
    )
    assert [(step, epoch) for step, _, epoch in lines(run_dir, "train/loss")] == [
        (2, 1),
        (4, 1),
        (6, 1),
        (8, 2),
        (10, 2),
        (12, 2),
    ]
    assert [step for step, _, _ in lines(run_dir, "train/both_step")] == [2, 4, 6, 8, 10, 12]
    assert [step for step, _, _ in lines(run_dir, "train/both")] == [1, 2]
    _, run_dir = run_here(
        *own("Logs"), VALIDATED, "trainer.max_epochs=2", "trainer.monitor=val/loss", "trainer.log_every_n_batches=50"
    )
    assert [(step, epoch) for step, _, epoch in lines(run_dir, "train/loss")] == [(6, 1), (12, 2)]


def test_several_validations_in_an_epoch_are_distinguished(run_here: Runner) -> None:
    """An epoch has six batches, with a validation after every three."""
    for chosen in (SMALL, (*own("Logs"), "trainer.monitor=val/loss")):
        record, run_dir = run_here(
            *chosen, VALIDATED, "trainer.max_epochs=2", "+trainer.options.val_check_interval=0.5"
        )
        name = "val_loss" if chosen is SMALL else "val/loss"
        found = lines(run_dir, name)
        assert [(step, epoch) for step, _, epoch in found] == [(3, 1), (6, 1), (9, 2), (12, 2)]
        assert record.metrics[name] == min(value for _, value, _ in found)


MONITOR = "'+callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateMonitor, logging_interval: %s}'"


@pytest.mark.parametrize(("interval", "steps"), [("epoch", [1, 2, 3]), ("null", [1, 2, 3]), ("step", [5, 11, 17])])
def test_the_learning_rate_monitor_works_with_labruns_networks(
    run_here: Runner, interval: str, steps: list[int]
) -> None:
    _, run_dir = run_here(
        *SMALL, VALIDATED, "trainer.max_epochs=3", "model/scheduler=cosine", (MONITOR % interval).strip("'")
    )
    found = lines(run_dir, "lr-SGD")
    assert [value for _, value, _ in found] == sorted((value for _, value, _ in found), reverse=True)
    assert len({value for _, value, _ in found}) == 3
    assert [epoch for _, _, epoch in found] == [1, 2, 3]
    assert [step for step, _, _ in found] == steps


def test_callbacks_that_need_a_logger_get_one(run_here: Runner) -> None:
    record, run_dir = run_here(
        *SMALL,
        "trainer.max_epochs=2",
        "+callbacks.stats={_target_: pytorch_lightning.callbacks.DeviceStatsMonitor, cpu_stats: true}",
        "logger=csv",
    )
    assert any("cpu_percent" in name for name in record.metrics)
    assert list((run_dir / "logs").glob("csv/metrics.csv"))


# ---- which epoch is tested


def test_the_best_epoch_is_tested_if_there_is_a_validation_part(run_here: Runner) -> None:
    common = (*own("Said"), VALIDATED, "trainer.monitor=val/acc", "trainer.max_epochs=6")
    best, _ = run_here(*common)
    last, _ = run_here(*common, "trainer.evaluate=last")
    assert best.training is not None and best.training.tested == 4
    assert last.training == Training(6, 6, "the last")
    assert (best.metrics["val/acc"], last.metrics["val/acc"]) == (pytest.approx(0.9), pytest.approx(0.4))
    assert best.metrics["test_loss"] > last.metrics["test_loss"]  # the weights are those of the fourth epoch, too
    without, _ = run_here(*SMALL, "trainer.max_epochs=2")
    assert without.training == Training(2, 2, "the last")


def test_the_summary_names_the_tested_epoch(run_here: Runner, capfd: pytest.CaptureFixture[str]) -> None:
    run_here(*SMALL, VALIDATED, "trainer.max_epochs=2")
    out = capfd.readouterr().out
    shown = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("  epoch ")]
    assert len(shown) == 1 and shown[0].endswith(" of 2, the best by val_loss (the smaller the better)")


# ---- NaN


class Diverges(Linear):
    """Its weights are NaN from the third epoch on."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.current_epoch >= 2 else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))


def test_a_training_that_ends_in_nan_is_reported(
    run_here: Runner, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    record, _ = run_here(*own("Diverges"), VALIDATED, "trainer.max_epochs=4")
    assert record.status == COMPLETED and record.training is not None
    assert record.training.not_finite == NotFinite(3, "the loss is NaN")
    assert record.training.tested == 2 and math.isfinite(record.metrics["val_loss"])
    assert "The training ended in NaN or infinity: the loss is NaN, since epoch 3" in capfd.readouterr().out
    assert any(message.startswith("Epoch 3: the loss is NaN") for message in caplog.messages)


@pytest.mark.parametrize("epochs", [1, 4])
def test_on_nan_fail_ends_the_training_at_once(run_here: Runner, workspace: Path, epochs: int) -> None:
    if epochs == 1:
        record, _ = run_here(*own("Diverges"), "trainer.max_epochs=1", "trainer.on_nan=fail")
        assert record.status == COMPLETED
        return
    with pytest.raises(RunFailedError, match=r"the loss is NaN in epoch 3, batch 1, and trainer\.on_nan=fail"):
        run_here(*own("Diverges"), VALIDATED, "trainer.max_epochs=4", "trainer.on_nan=fail")
    (path,) = workspace.glob("outputs/*/*/run.json")
    record = read_record(path.parent)
    assert record.status == FAILED and "the loss is NaN" in record.reason


class Infinite(Said):
    """What is to be large is infinite at first, NaN in the middle."""

    VALUES = (math.inf, 0.2, 0.3, math.nan, 0.1, 0.1)


def test_nan_and_infinity_are_never_the_best(run_here: Runner) -> None:
    _, run_dir = run_here(*own("Infinite"), VALIDATED, "trainer.monitor=val/acc", "trainer.max_epochs=5")
    assert (checkpoint_epoch(run_dir, "best"), checkpoint_epoch(run_dir, "last")) == (3, 5)
    record, run_dir = run_here(*own("Infinite"), VALIDATED, "trainer.monitor=val/acc", "trainer.max_epochs=1")
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    assert record.training == Training(1, 1, "the last")


# ---- no best


def test_a_sweep_without_the_metric_has_no_best_run(labrun: Command, workspace: Path) -> None:
    done = labrun(
        "-m",
        "model=mnist_dnn",
        "trainer.max_epochs=1",
        "dataset.max_samples=120",
        "model.lr=0.1,0.2",
        "sweep.metric=val_accuracy",
        "tracking=none",
        "compute=inline",
    )
    assert done.returncode == 0, done.stderr
    assert "no best run: no run logged val_accuracy. They logged accuracy, test_loss, train_accuracy, train_loss" in (
        done.stdout
    )
    assert not list(workspace.glob("multirun/*/*/*/outputs/*.png"))


def test_a_sweep_optimizes_the_monitored_metric(labrun_here: Command) -> None:
    shown = labrun_here("-m", "model=mnist_dnn", "model.lr=0.1,0.2", "trainer.monitor=odd")
    assert "trainer.monitor=odd" in shown.stderr


@pytest.mark.parametrize("target", ["Alike", "Half"])
def test_a_class_that_resembles_a_lightning_module_is_refused(run_here: Runner, target: str) -> None:
    with pytest.raises(ConfigError, match="is neither a pytorch_lightning.LightningModule nor"):
        run_here(*own(target))


class Half(nn.Module):
    """A plain network with its own optimizer, which labrun would not call."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Alike(Half):
    """All of a LightningModule but its base."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError


def test_a_partial_checkpoint_on_a_full_disk_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 101376 vs 101280")  # noqa: B904 - as torch does it

    monkeypatch.setattr(torch, "save", save)
    (tmp_path / "last.ckpt").write_bytes(b"whole")
    with pytest.raises(RuntimeError, match="unexpected pos") as caught:
        plain_checkpoints(Package(), tmp_path).save_checkpoint({}, tmp_path / "last.ckpt")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]
    trouble = recording.disk_trouble(caught.value)
    assert trouble is not None and "Free some space" in cannot_write(tmp_path, trouble)


class Loads(Linear):
    """Has its own batches, which are not used, and its own test step, which is."""

    def train_dataloader(self) -> Any:
        raise AssertionError("labrun has given it batches")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("seen", float(len(batch[0])))


def test_progress_bars_and_summaries_in_the_config_are_shown(
    run_here: Runner, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("RichProgressBar", "TQDMProgressBar", "RichModelSummary", "ModelSummary")
    for name in names:
        record, _ = run_here(
            *SMALL, "trainer.max_epochs=1", f"+callbacks.x._target_=pytorch_lightning.callbacks.{name}"
        )
        assert record.status == "completed"
    assert "Epoch 0" in capfd.readouterr().out


def test_averaged_weights_are_tested(run_here: Runner) -> None:
    averaging = "+callbacks.swa={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.01}"
    record, _ = run_here(*SMALL, VALIDATED, "trainer.max_epochs=2", averaging)
    assert record.training is not None and record.training.why == "averaged by StochasticWeightAveraging"
    record, _ = run_here(*SMALL, VALIDATED, "trainer.max_epochs=2", averaging, "trainer.evaluate=best")
    assert record.training is not None and "the best by val_loss" in record.training.why


@pytest.mark.parametrize(
    "model, overrides, watched",
    [
        ("Said", (VALIDATED, "trainer.monitor=val_f1"), "val_f1"),
        ("Said", ("callbacks=early_stopping", "trainer.monitor=val_f1"), "val_f1"),
        ("Plateau", ("callbacks=none",), "odd loss"),
    ],
    ids=["checkpoint", "early stopping", "scheduler"],
)
def test_a_metric_that_is_watched_but_not_logged_is_named(
    run_here: Runner, model: str, overrides: tuple[str, ...], watched: str
) -> None:
    with pytest.raises(ConfigError, match=f"a callback or scheduler watches '{watched}', which the model does not log"):
        run_here(*own(model), *overrides, "trainer.max_epochs=1")


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu"])
def test_a_missing_accelerator_is_named(run_here: Runner, accelerator: str) -> None:
    missing = {"gpu": not torch.cuda.is_available() and not torch.backends.mps.is_available()}
    missing |= {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if not missing.get(accelerator, True):
        pytest.skip("it is here")
    with pytest.raises(ConfigError, match=f"trainer.accelerator={accelerator}: Lightning finds none here"):
        run_here(*SMALL, f"trainer.accelerator={accelerator}")


def test_trainer_options_with_a_key_of_their_own_are_refused(run_here: Runner) -> None:
    for option, words in (
        ("max_epochs=2", "trainer.options.max_epochs: labrun sets this itself"),
        ("enable_checkpointing=false", "trainer.options.enable_checkpointing: .*callbacks=none"),
        ("logger=false", "trainer.options.logger: .*the record's own stays"),
        ("nonsense=1", "Lightning's Trainer refused: .*nonsense"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_here(*SMALL, f"+trainer.options.{option}")


def test_several_best_checkpoints_are_kept_in_separate_files(run_here: Runner) -> None:
    common = (*SMALL, VALIDATED, "trainer.max_epochs=5", "model.lr=0.5", "trainer.evaluate=best")
    one, _ = run_here(*common)
    record, run_dir = run_here(*common, "callbacks.checkpoint.save_top_k=3")
    assert record.training == one.training and record.metrics == one.metrics
    files = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert len(files) == 4 and {name for name in files if not name.startswith("best-epoch=")} == {"last.ckpt"}


def test_early_stopping_after_the_first_epoch_is_reported(run_here: Runner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        record, _ = run_here(
            *SMALL, VALIDATED, "trainer.max_epochs=9", "model.lr=1e9", "callbacks=early_stopping", "trainer.on_nan=warn"
        )
    assert any("Stopped early, after epoch 1 of 9" in text for text in caplog.messages)
    assert record.training is not None and record.training.stopped_early is not None
    assert record.training.stopped_early.epoch == 1


def test_options_without_effect_on_a_model_without_epochs_are_reported(labrun_here: Command) -> None:
    done = labrun_here("trainer.max_epochs=3", "logger=csv", "dataset.max_samples=50", "tracking=none", "report=none")
    assert done.returncode == 0
    assert "trainer.max_epochs, logger: no effect with model=logistic_regression" in done.stderr


class Stops(Linear):
    """Brings a callback that watches a metric of the validation."""

    def configure_callbacks(self) -> Any:
        return [pl.callbacks.EarlyStopping("val/acc", mode="max")]


@pytest.mark.filterwarnings("error:.*could not find the monitored key")
def test_a_module_that_logs_no_loss_can_be_resumed(run_here: Runner) -> None:
    _, run_dir = run_here(*own("Linear"), "trainer.max_epochs=1")
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["last.ckpt"]
    record, again = run_here(*own("Linear"), "trainer.max_epochs=2", "trainer.resume=last")
    assert record.status == "completed" and checkpoint_epoch(again, "last") == 2


def test_hooks_that_labrun_does_not_call_are_reported(run_here: Runner, caplog: pytest.LogCaptureFixture) -> None:
    record, _ = run_here(*own("Loads"), "trainer.max_epochs=1")
    assert any("has its own train_dataloader" in text for text in caplog.messages)
    assert "accuracy" in record.metrics and record.metrics["seen"] > 0
    with pytest.raises(ConfigError, match=r"watches 'val/acc'.*needs dataset\.validation_size"):
        run_here(*own("Stops"), "trainer.max_epochs=1")
