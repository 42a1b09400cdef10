"""Networks in Lightning: same seed, same result; resuming; options as overrides; clear refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Runner
from labrun.errors import ConfigError, DataError, UnfitError
from labrun.runs import context
from labrun.runs.record import COMPLETED

pytestmark = pytest.mark.long

QUICK = ("model=mnist_dnn", "trainer.max_epochs=2", "dataset.validation_size=100", "dataset.max_samples=300")


def curve(run_dir: Path, name: str) -> list[float]:
    return [line["value"] for line in context.read_metrics(run_dir) if line["name"] == name]


def test_equal_seeds_give_equal_results_and_others_differ(run_here: Runner) -> None:
    (one, first), (two, second), (three, _) = (run_here(*QUICK, f"seed={seed}") for seed in (1, 1, 2))
    assert one.metrics == two.metrics != three.metrics
    assert curve(first, "train_loss") == curve(second, "train_loss")
    weights = [torch.load(d / "outputs" / "model.pt", weights_only=True) for d in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert one.signature == two.signature != three.signature


def test_a_network_learns_and_its_record_is_complete(run_here: Runner) -> None:
    record, run_dir = run_here(
        "model=mnist_dnn", "trainer.max_epochs=15", "model.lr=0.05", "dataset.validation_size=100", pictures=True
    )
    assert record.metrics["accuracy"] > 0.9
    assert len(curve(run_dir, "val_accuracy")) == 15
    assert {p.name for p in (run_dir / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    outputs = {p.name for p in (run_dir / "outputs").iterdir()}
    assert {"model.pt", "model.npz", "model.json", "curves.png", "samples.png", "confusion_matrix.png"} <= outputs
    counts = np.array(json.loads((run_dir / "outputs" / "confusion_matrix.json").read_text())["counts"])
    assert counts.trace() / counts.sum() == pytest.approx(record.metrics["accuracy"])


def test_a_resumed_run_ends_like_an_uninterrupted_one(run_here: Runner) -> None:
    few = ("model=mnist_dnn", "dataset.max_samples=300")
    whole, whole_dir = run_here(*few, "trainer.max_epochs=4")
    half, half_dir = run_here(*few, "trainer.max_epochs=2")
    rest, rest_dir = run_here(*few, "trainer.max_epochs=4", f"trainer.resume={half.id[:6]}")
    assert rest.parent == half.id and rest.id != half.id
    assert curve(half_dir, "train_loss") + curve(rest_dir, "train_loss") == curve(whole_dir, "train_loss")
    assert rest.metrics["accuracy"] == whole.metrics["accuracy"]
    assert rest.signature == whole.signature


def test_the_environment_can_name_the_run_to_score_or_resume(run_here: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = run_here(*QUICK)
    monkeypatch.setenv("WHICH_RUN", first.id)
    scored, _ = run_here("task=evaluate", "from=${oc.env:WHICH_RUN}")
    assert scored.parent == first.id
    more, _ = run_here(*QUICK, "trainer.max_epochs=3", "trainer.resume=${oc.env:WHICH_RUN}")
    assert more.parent == first.id


def test_resume_refuses_nothing_left_changed_settings_and_damage(run_here: Runner) -> None:
    _, run_dir = run_here("model=mnist_dnn", "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match="nothing is left to train.*has 3 at most"):
        run_here("model=mnist_dnn", "trainer.max_epochs=2", "+trainer.options.max_steps=3", "trainer.resume=last")
    with pytest.raises(ConfigError, match="nothing is left to train.*has 1 epochs"):
        run_here("model=mnist_dnn", "trainer.max_epochs=1", "trainer.resume=last")
    with pytest.raises(ConfigError, match=r"model\.units \(then 100, now 30\)"):
        run_here("model=mnist_dnn", "trainer.max_epochs=2", "model.units=30", "trainer.resume=last")
    with pytest.raises(ConfigError, match="resumes with the model"):
        run_here("model=logistic_regression", "trainer.resume=last")
    with pytest.raises(ConfigError, match=r"dataset\.split_seed \(then 0, now 3\)"):
        run_here("model=mnist_dnn", "trainer.max_epochs=2", "trainer.resume=last", "dataset.split_seed=3")
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"last\.ckpt cannot be read"):
        run_here("model=mnist_dnn", "trainer.max_epochs=2", "trainer.resume=last")


def test_evaluate_gives_the_same_score_and_refuses_a_changed_model(run_here: Runner) -> None:
    trained, run_dir = run_here(*QUICK)
    scored, _ = run_here("task=evaluate", "from=last")
    assert scored.metrics["accuracy"] == trained.metrics["accuracy"] and scored.parent == trained.id
    assert scored.config["dataset"] == trained.config["dataset"]
    path = run_dir / "outputs" / "model.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Exception, match="was changed since it was saved"):
        run_here("task=evaluate", f"from={trained.id}")


def test_evaluate_refuses_data_of_another_shape(run_here: Runner, real_data: Path) -> None:
    run_here(*QUICK)
    with pytest.raises(UnfitError, match=r"1x8x8 .*1x28x28"):
        run_here("task=evaluate", "from=last", "dataset=mnist", f"datastore.root={real_data}")


def test_optimizer_scheduler_and_augmentation_are_overrides(run_here: Runner) -> None:
    record, run_dir = run_here(
        *QUICK, "model/optimizer=adam", "model/scheduler=cosine", "dataset/augmentation=crop_flip", "model.lr=0.001"
    )
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert "betas" in state["optimizer_states"][0]["param_groups"][0]
    assert state["lr_schedulers"][0]["T_max"] == 2
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)
    assert record.status == COMPLETED


@pytest.mark.parametrize("choice", ["early_stopping", "ema", "none"])
def test_every_choice_of_callbacks_trains(run_here: Runner, choice: str) -> None:
    record, run_dir = run_here(*QUICK, f"callbacks={choice}")
    assert record.status == COMPLETED
    assert (run_dir / "checkpoints").exists() is (choice != "none")


def test_early_stopping_stops_and_scores_the_best(run_here: Runner) -> None:
    _, run_dir = run_here(
        "model=mnist_dnn",
        "trainer.max_epochs=40",
        "model.lr=0.5",
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "dataset.validation_size=100",
    )
    assert len(curve(run_dir, "val_loss")) < 40


@pytest.mark.parametrize(
    ("choice", "pattern"),
    [("csv", "csv/metrics.csv"), ("tensorboard", "tensorboard/events*"), ("wandb", "wandb/offline-run*")],
)
def test_loggers_write_below_logs(run_here: Runner, choice: str, pattern: str) -> None:
    for _ in range(2):  # in one process, as in an inline sweep: each has its own
        _, run_dir = run_here(*QUICK, f"logger={choice}")
        assert list((run_dir / "logs").glob(pattern))


def test_the_running_mean_loss_is_printed_as_in_the_tutorial(
    run_here: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        _, run_dir = run_here(
            "model=mnist_dnn",
            "trainer.max_epochs=2",
            "trainer.batch_size=4",
            "trainer.limit_train_batches=36",
            "trainer.log_every_n_batches=10",
        )
    lines = [line for line in context.read_metrics(run_dir) if line["name"] == "loss"]
    assert [line["step"] for line in lines] == [10, 20, 30, 46, 56, 66]
    assert sum(message.startswith(("[1,    ", "[2,    ")) for message in caplog.messages) == 6


def test_debug_fast_uses_one_batch_of_each_part(run_here: Runner) -> None:
    record, _ = run_here("model=mnist_dnn", "debug=fast", "trainer.batch_size=16")
    assert record.data[0].train == 16 and record.data[0].test == 16


def test_debug_overfit_drives_the_loss_to_zero(run_here: Runner) -> None:
    quick = ("trainer.batch_size=16", "model.lr=0.2", "trainer.max_epochs=40")
    record, _ = run_here("model=mnist_dnn", "debug=overfit", *quick)
    assert record.metrics["train_loss"] < 0.05


@pytest.mark.parametrize("model", ["mnist_dnn", "logistic_regression"])
def test_debug_profile_writes_a_table(run_here: Runner, model: str) -> None:
    _, run_dir = run_here(f"model={model}", "debug=profile")
    assert list((run_dir / "outputs").glob("*profile*.txt"))


class Diverges(nn.Module):
    """Its loss is not a number."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * (float("nan") if self.training else 1.0)


def test_a_nan_loss_is_recorded(run_here: Runner) -> None:
    record, run_dir = run_here(
        "model=mnist_dnn", f"model._target_={__name__}.Diverges", "~model.units", "trainer.max_epochs=1"
    )
    assert math.isnan(curve(run_dir, "train_loss")[0])
    assert record.status == COMPLETED


class FiveScores(nn.Module):
    """Always gives five scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def test_a_wrong_number_of_scores_is_refused(run_here: Runner) -> None:
    with pytest.raises(UnfitError, match=r"returns \(1, 5\) scores, but must return \(1, 10\)"):
        run_here("model=mnist_dnn", f"model._target_={__name__}.FiveScores", "~model.units")


def test_a_wrong_input_size_is_refused(run_here: Runner, real_data: Path) -> None:
    with pytest.raises(UnfitError, match="whose samples are 1x28x28"):
        run_here(
            "model=mnist_dnn",
            f"model._target_={__name__}.FiveScores",
            "~model.units",
            "dataset=mnist",
            f"datastore.root={real_data}",
        )


def test_evaluate_best_without_checkpoints_is_refused(run_here: Runner) -> None:
    with pytest.raises(ConfigError, match="callbacks=none keeps none"):
        run_here("model=mnist_dnn", "callbacks=none", "trainer.evaluate=best")
