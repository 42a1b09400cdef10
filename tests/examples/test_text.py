"""`examples/text`: an iterable data set, a LightningModule's own steps, text from `predict_step`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import labrun
from example_projects import SMALL_TEXT, Project
from labrun.runs.context import read_metrics
from labrun.runs.record import Record

TINY = ("experiment=chars", *SMALL_TEXT)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project("text", tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def trained(project: Project) -> tuple[Record, Path]:
    return project.run(*TINY, "trainer.max_epochs=3")


def test_training_lowers_the_loss_and_records_the_best_epoch(trained: tuple[Record, Path]) -> None:
    record, run_dir = trained
    assert 1 < record.metrics["test/perplexity"] < 101, "better than each of the characters alike"
    assert record.training is not None and "the best by val/perplexity" in record.training.why
    losses = [line["value"] for line in read_metrics(run_dir) if line["name"] == "train/loss"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert record.data[0].signed_by == "fingerprint()"


def test_the_trained_model_is_scored_and_writes_text(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = trained
    again, _ = project.run("task=evaluate", f"from={record.id}", "experiment=chars", *SMALL_TEXT[:2], *SMALL_TEXT[-1:])
    assert again.metrics["test/perplexity"] == pytest.approx(record.metrics["test/perplexity"])
    _, run_dir = project.run("task=predict", f"from={record.id}", "experiment=chars", 'dataset.predict.texts=["if "]')
    table = pd.read_csv(run_dir / "outputs" / "predictions.csv")
    assert table["beginning"].tolist() == ["if "]
    assert table["text"][0].startswith("if ") and len(table["text"][0]) == 8
    with project.script():
        best = labrun.load_model("run:best:val/perplexity")
    for model in (best, *project.loaded(record)):
        assert model.model.write("if ") == table["text"][0]


def test_a_killed_run_resumes_with_the_same_result(project: Project, trained: tuple[Record, Path]) -> None:
    project.kill_and_resume(trained[0], *TINY, "trainer.max_epochs=3")
