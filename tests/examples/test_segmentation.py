"""`examples/segmentation`: pixel-wise classes, a plain network, a map-style data set."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from example_projects import Project
from labrun.runs.context import read_metrics
from labrun.runs.record import Record

TINY = ("experiment=pixels", "dataset.train.count=64", "trainer.max_epochs=2", "trainer.batch_size=16", "model.width=4")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project("segmentation", tmp_path_factory.mktemp("segmentation"))


@pytest.fixture(scope="module")
def trained(project: Project) -> tuple[Record, Path]:
    return project.run(*TINY)


def test_the_metrics_of_the_config_are_recorded(project: Project, trained: tuple[Record, Path]) -> None:
    record, run_dir = trained
    assert {name for name in record.metrics if not name.startswith(("train", "val"))} == {
        "test_loss",
        "iou",
        "accuracy",
    }
    losses = [line["value"] for line in read_metrics(run_dir) if line["name"] == "train_loss"]
    assert losses[1] < losses[0]
    again, _ = project.run("task=evaluate", f"from={record.id}", "dataset=noisy_digits", "dataset.test.count=64")
    assert again.metrics["iou"] == pytest.approx(record.metrics["iou"])


def test_a_prediction_is_a_class_for_each_pixel(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = trained
    _, run_dir = project.run("task=predict", f"from={record.id}", "dataset=noisy_digits", "dataset.test.count=2")
    table = pd.read_csv(run_dir / "outputs" / "predictions.csv")
    pixels = json.loads(table["prediction"][0])
    assert len(table) == 2 and len(pixels) == 16 and {len(row) for row in pixels} == {16}
    with project.script():
        from shapes.data import NoisyDigits  # type: ignore[import-not-found]

        picture, _ = NoisyDigits("test")[0]
    for model in project.loaded(record):
        assert model.predict(picture[None])[0].tolist() == pixels


def test_a_killed_run_resumes_with_the_same_result(project: Project, trained: tuple[Record, Path]) -> None:
    project.kill_and_resume(trained[0], *TINY)
