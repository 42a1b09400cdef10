"""`examples/time_series`: a LightningDataModule, a picture drawn by the module, the network alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from torch import Tensor

from example_projects import Project
from labrun.runs.record import Record

TINY = ("experiment=sunspots", "trainer.max_epochs=2", "model.hidden=8")
PLAIN = (*TINY, "model=gru", "trainer.monitor=val_mae")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    pytest.importorskip("statsmodels")
    return Project("time_series", tmp_path_factory.mktemp("time_series"))


@pytest.fixture(scope="module")
def trained(project: Project) -> tuple[Record, Path]:
    return project.run(*TINY)


def test_the_forecast_is_scored_and_drawn(project: Project, trained: tuple[Record, Path]) -> None:
    record, run_dir = trained
    assert 0 < record.metrics["test/mae"] < record.metrics["test/rmse"] < 200
    assert (run_dir / "outputs" / "forecasts.png").stat().st_size > 10_000
    again, evaluated = project.run("task=evaluate", f"from={record.id}", "dataset=sunspots")
    assert again.metrics["test/mae"] == pytest.approx(record.metrics["test/mae"])
    assert (evaluated / "outputs" / "forecasts.png").is_file(), "next to the scores, not in the first run's folder"


def test_predictions_have_one_column_per_year(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = trained
    _, run_dir = project.run("task=predict", f"from={record.id}", "dataset=sunspots", "predictions=parquet")
    table = pd.read_parquet(run_dir / "outputs" / "predictions.parquet")
    assert [name for name in table if name.startswith("forecast")] == [f"forecast_{year}" for year in range(5)]
    assert table["true_4"].tolist() == pytest.approx([2.9]), "2008"
    known, coming = _last_years(project)
    for model in project.loaded(record):
        for forecast in (model.predict((known, coming))["forecast"], model.model(known)):
            assert forecast[0].tolist() == pytest.approx([table[f"forecast_{year}"][0] for year in range(5)], rel=1e-5)


def _last_years(project: Project) -> list[Tensor]:
    """Return the batch that `task=predict` gets from the DataLoader."""
    with project.script():
        from forecast.data import Sunspots  # type: ignore[import-not-found]

        data = Sunspots()
        data.setup("predict")
        batch: list[Tensor] = next(iter(data.predict_dataloader()))
    return batch


def test_the_network_trained_alone_gives_the_same_result(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = project.run(*PLAIN)
    assert set(record.metrics) >= {"train_loss", "val_mae", "val_rmse", "test_loss", "mae", "rmse"}
    assert record.metrics["mae"] == pytest.approx(trained[0].metrics["test/mae"], rel=1e-4)


def test_a_killed_run_resumes_with_the_same_result(project: Project, trained: tuple[Record, Path]) -> None:
    project.kill_and_resume(trained[0], *TINY)
