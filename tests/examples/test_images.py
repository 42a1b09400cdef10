"""`examples/images`: PNG files, streamed with augmentation and a schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from example_projects import Project
from labrun.runs.record import Record

TINY = (
    "experiment=pictures",
    "dataset.validation_size=50",
    "trainer.max_epochs=2",
    "trainer.batch_size=32",
    "model.width=4",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Project:
    project = Project("images", tmp_path_factory.mktemp("images"))
    with project.script():
        from pictures.write import TARGET, write  # type: ignore[import-not-found]

        assert write(real_data, TARGET, 300) == 360
    return project


@pytest.fixture(scope="module")
def trained(project: Project) -> tuple[Record, Path]:
    return project.run(*TINY)


def test_streaming_gives_the_same_metrics_as_memory(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = trained
    assert record.data[0].reading is not None and record.data[0].reading.in_memory is False
    assert (record.data[0].train, record.data[0].test) == (250, 60)
    held, _ = project.run(*TINY, "dataset.in_memory=true")
    assert held.metrics == record.metrics and held.signature == record.signature


def test_the_trained_model_is_scored_and_predicts(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = trained
    again, _ = project.run("task=evaluate", f"from={record.id}")
    assert again.metrics["accuracy"] == record.metrics["accuracy"]
    _, run_dir = project.run("task=predict", f"from={record.id}")
    table = pd.read_csv(run_dir / "outputs" / "predictions.csv")
    test = table[table["part"] == "test"]
    assert len(table) == 360 and (test["prediction"] == test["target"]).mean() == pytest.approx(
        record.metrics["accuracy"]
    )
    first = sorted((project.folder / "data/cifar10_png/test/airplane").glob("*.png"))[0]
    for model in project.loaded(record):
        assert model.predict(np.asarray(Image.open(first))[None]).tolist() == test["prediction"].tolist()[:1]


def test_a_killed_run_resumes_with_the_same_result(project: Project, trained: tuple[Record, Path]) -> None:
    project.kill_and_resume(trained[0], *TINY, "dataset.num_workers=1")
