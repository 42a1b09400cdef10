"""Predictions of networks trained on loaders, in files and in scripts, and the data they belong to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, get_worker_info
from torchvision.datasets import ImageFolder

import labrun
import loader_parts
from conftest import Command
from labrun.config.schema import LearningSettings
from labrun.data import loaders
from labrun.errors import UnfitError
from labrun.runs import context
from labrun.runs.cards import PROBABILITIES, Card, CardKind, TargetKind
from labrun.runs.record import Record, read_record
from labrun.tasks import outputs
from labrun.tasks.networks import batch_sources
from labrun.tasks.networks.learner import LossAndMetrics
from labrun.tasks.networks.record_logger import RecordLogger

DATA = """
defaults: [torch, _self_]
name: dicts
train: {_target_: loader_parts.Dicts, first: 0, last: 300}
test: {_target_: loader_parts.Dicts, first: "${dataset.vars.begin}", last: 500}
vars: {begin: 400}
"""
MODEL = """
_target_: loader_parts.TakesPixels
metrics:
  each: {_target_: torchmetrics.classification.MulticlassAccuracy, average: none}
  curve: {_target_: torchmetrics.classification.MulticlassF1Score}
"""


def newest() -> tuple[Record, Path]:
    path = max(Path().glob("outputs/*/*/run.json"), key=lambda one: one.stat().st_mtime_ns)
    return read_record(path.parent), path.parent


def test_a_plain_classifier_predicts_classes_and_its_data_can_be_changed(labrun_here: Command, workspace: Path) -> None:
    """Over 15 s on a busy machine: Lightning is imported, and six commands share one training."""
    for name, text in (("dataset/dicts", DATA), ("model/pixels", MODEL)):
        path = workspace / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    quiet = ("tracking=none", "report=none")
    done = labrun_here("dataset=dicts", "model=pixels", "trainer.max_epochs=2", *quiet)
    assert done.returncode == 0, done.stderr
    trained, run_dir = newest()
    assert {"each_0", "each_9", "train_each_3", "curve"} <= set(trained.metrics), "one number per class"

    model, batch = labrun.load_model(run_dir), next(iter(DataLoader(loader_parts.Dicts(400, 410), 10)))
    said = model.predict(batch)
    assert said.shape == (10,) and said.tolist() == model.predict({"pixels": batch["pixels"]}).tolist()
    assert model.predict_proba(batch).argmax(axis=1).tolist() == said.tolist()

    # What refers to a changed key changes with it; the rest is the run's own, and not that of digits, the default.
    done = labrun_here("task=predict", f"from={trained.id}", "dataset.vars.begin=490", *quiet)
    assert done.returncode == 0, done.stderr
    predicted, there = newest()
    assert predicted.config["dataset"]["test"]["first"] == 490 and predicted.config["dataset"]["train"]["last"] == 300
    with open(there / "outputs" / "predictions.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 10
    labrun_here("task=evaluate", f"from={trained.id}", "+dataset.test.path=conf/model/pixels.yaml", *quiet)
    assert newest()[0].config["dataset"]["test"]["path"] == "conf/model/pixels.yaml"
    done = labrun_here("task=evaluate", f"from={trained.id}", "dataset.bacth_size=3", *quiet)
    assert done.returncode == 2 and "Did you mean 'dataset.batch_size'" in done.stderr, done.stderr
    done = labrun_here("task=evaluate", "from=f0000000", "dataset.vars.begin=3", *quiet)
    assert done.returncode == 2 and "no run is called 'f0000000'" in done.stderr, done.stderr
    done = labrun_here(
        "-m", "task=evaluate", f"from={trained.id}", "dataset.vars.begin=480,490", "compute=inline", *quiet
    )
    found = [read_record(path.parent) for path in sorted(Path().glob("multirun/*/*/*/run.json"))]
    assert [one.config["dataset"]["test"]["first"] for one in found] == [480, 490], done.stderr


def card_of(learns: TargetKind, **more: Any) -> Card:
    return Card({}, "model.pt", "0" * 64, CardKind.NETWORK, learns=learns, **more)


def test_scores_are_read_along_the_axis_of_their_classes() -> None:
    likely = np.array([[0.1, 0.9, 0.2, 0.3], [0.8, 0.2, 0.1, 0.9]])  # 2 classes at 4 places
    second, last = card_of(TargetKind.CLASSES, classes_last=False), card_of(TargetKind.CLASSES, classes_last=True)
    assert outputs.predicted(likely[None], second).tolist() == [[1, 0, 0, 1]]
    assert outputs.predicted(likely.T[None], last).tolist() == [[1, 0, 0, 1]]
    assert outputs.predicted(likely.T[None], card_of(TargetKind.CLASSES)).tolist() == [[1, 0, 0, 1]], "an older card"
    assert outputs.probabilities(likely[None], second).shape == (1, 4, 2)
    named = card_of(TargetKind.CLASSES, classes_last=True, class_names=("no", "yes"))
    assert outputs.predicted(np.array([[0.1, 2.0]]), named).tolist() == ["yes"]
    scores, labels = np.array([[-1.0, 0.6]]), card_of(TargetKind.LABELS)
    assert outputs.predicted(scores, labels).tolist() == [[0, 1]]
    assert outputs.probabilities(scores, labels)[0, 0] == pytest.approx(0.2689, abs=1e-4)
    sure = card_of(TargetKind.LABELS, gives=PROBABILITIES)
    assert outputs.predicted(np.array([[0.4, 0.6]]), sure).tolist() == [[0, 1]]
    assert outputs.predicted(np.array([[1.5], [2.5]]), card_of(TargetKind.QUANTITY)).tolist() == [1.5, 2.5]


def inferred(scores: torch.Tensor, target: torch.Tensor, loss: str | None = None) -> LossAndMetrics:
    lesson = LossAndMetrics(LearningSettings({"_target_": f"torch.nn.{loss}"} if loss else None), None, None)
    lesson.infer(scores, target, computes_own=False)
    return lesson


def test_square_scores_are_read_along_the_axis_seen_before(caplog: pytest.LogCaptureFixture) -> None:
    likely, target = torch.randn(2, 5, 7), torch.randint(5, (2, 7))  # (N, classes, places)
    square = (likely[..., :5], target[:, :5])
    lesson = inferred(likely, target)
    for one in ((likely, target), square):
        assert lesson.loss_of(*one) == torch.nn.functional.cross_entropy(*one)
        assert lesson.measured(lesson.metrics["accuracy"], *one)[0].equal(one[0])
    assert "taken as" not in caplog.text
    lesson = inferred(*square)
    assert "(2, 5, 5), are taken as (N, places, classes)" in caplog.text
    assert lesson.loss_of(*square) == torch.nn.functional.cross_entropy(square[0].movedim(-1, 1), square[1])
    lesson.loss_of(likely, target)
    assert lesson.loss_of(*square) == torch.nn.functional.cross_entropy(*square) and not lesson.classes_last
    assert "read along the wrong axis" in caplog.text
    saved = LossAndMetrics(LearningSettings(), None, None)
    saved.known_last = False
    saved.infer(*square, computes_own=False)
    assert saved.loss_of(*square) == torch.nn.functional.cross_entropy(*square)


def test_shapes_of_equal_size_are_refused_unless_flattened() -> None:
    target = torch.rand(4, 3, 2, 5)
    lesson = inferred(target, target)
    for shape in ((4, 30), (4, 3, 10), (4, 3, 1, 2, 5), (120,)):
        assert lesson.loss_of(target.reshape(shape), target) == 0
        assert lesson.loss_of(target, target.reshape(shape)) == 0
    for shape in ((4, 2, 5, 3), (4, 5, 6), (6, 20), (4, 3, 5)):
        with pytest.raises(UnfitError, match="the shapes must be the same, or one must be the other flattened"):
            lesson.loss_of(torch.rand(shape), target)


def test_whole_numbers_are_classes_labels_or_quantities() -> None:
    counts, bits, scores = torch.tensor([3, 0, 7, 1]), torch.tensor([1, 0, 0, 1]), torch.rand(4, 1)
    for target in (counts, counts[:, None], counts[:, None].expand(4, 2)):
        given = scores.expand(4, 2) if target.shape == (4, 2) else scores
        lesson = inferred(given, target)
        assert lesson.kind == "quantity"
        assert lesson.loss_of(given, target) == ((given - target.reshape(given.shape)) ** 2).mean()
    assert [inferred(scores, bits).kind, inferred(scores, bits, "MSELoss").kind] == ["labels", "quantity"]
    assert inferred(torch.rand(4, 8), counts).kind == "classes"
    with pytest.raises(UnfitError, match="CrossEntropyLoss takes a score for each class, but the network returns"):
        inferred(scores, counts, "CrossEntropyLoss")


def test_classes_are_counted_as_batches_contain_them(tmp_path: Path) -> None:
    for place, folder in enumerate("aab"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / folder / f"{place}.png")
    counted = {}
    for name, transform in (("as stored", None), ("turned", lambda y: 1 - y), ("a tensor", torch.tensor)):
        whole = ImageFolder(tmp_path, target_transform=transform)
        counted[name] = batch_sources._counted(Subset(Subset(whole, [2, 1, 0]), [0, 1, 2]))
    assert counted == {"as stored": [2, 1], "turned": [1, 2], "a tensor": [2, 1]}


def test_balanced_weights_are_refused_for_several_targets_per_sample() -> None:
    likely, target, weights = torch.randn(2, 5, 7), torch.randint(5, (2, 7)), torch.ones(5)
    LossAndMetrics(LearningSettings(class_weight=[1.0] * 5), None, weights).infer(likely, target, computes_own=False)
    with pytest.raises(UnfitError, match="the target holds 7 for each: give a weight for each class"):
        LossAndMetrics(LearningSettings(class_weight="balanced"), None, weights).infer(
            likely, target, computes_own=False
        )


def test_values_of_a_test_epoch_keep_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    monkeypatch.setattr(context, "log", lambda name, value, *_: found.update({name: value}))
    logger = RecordLogger(tmp_path)
    logger.position.in_validation = True
    logger.log_metrics({"test/loss_step": 1.0, "test/acc_step/dataloader_idx_1": 4.0, "epoch": 0}, 0)
    logger.position.in_validation = False
    of_two = {"test/acc_epoch/dataloader_idx_1": 5.0}
    logger.log_metrics({"test/loss_epoch": 2.0, "test/seconds_per_step": 3.0, **of_two, "epoch": 0}, 0)
    assert found == {"test/loss": 2.0, "test/seconds_per_step": 3.0, "test/acc/dataloader_idx_1": 5.0}


class Whole(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


class Shared(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        place = get_worker_info()
        return iter(range(place.id if place else 0, 4, place.num_workers if place else 1))


def test_a_stream_that_every_worker_reads_whole_is_reported() -> None:
    assert loaders.read_more_than_once(DataLoader(Whole(), num_workers=2), 2) == ["workers", "processes"]
    assert loaders.read_more_than_once(DataLoader(Shared(), num_workers=2), 2) == ["processes"]
    assert loaders.read_more_than_once(DataLoader(Whole()), 1) == []
    assert loaders.read_more_than_once(DataLoader(torch.arange(3), num_workers=2), 2) == []  # type: ignore[arg-type]
