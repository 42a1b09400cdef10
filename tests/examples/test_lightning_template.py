"""`examples/lightning_template`: the template's configs and modules, with the results of its own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from example_projects import Project
from labrun.runs.context import read_metrics
from labrun.runs.record import Record

QUIET = ("experiment=example", "~callbacks.rich_progress_bar", "~callbacks.model_summary", "trainer.max_epochs=3")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project("lightning_template", tmp_path_factory.mktemp("lightning_template"))


@pytest.fixture(scope="module")
def trained(project: Project) -> tuple[Record, Path]:
    return project.run(*QUIET, "trainer.threads=1")


def test_every_value_that_the_module_logs_is_recorded(trained: tuple[Record, Path]) -> None:
    record, run_dir = trained
    parts = {f"{part}/{what}" for part in ("train", "val", "test") for what in ("loss", "acc")}
    assert set(record.metrics) == parts | {"val/acc_best"}
    lines = read_metrics(run_dir)
    known = {name: [line["value"] for line in lines if line["name"] == name] for name in ("val/acc", "val/acc_best")}
    assert known["val/acc_best"] == [max(known["val/acc"][: epoch + 1]) for epoch in range(3)]
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir())[-1] == "last.ckpt"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_templates_own_loop_gives_the_same_metrics(project: Project, trained: tuple[Record, Path]) -> None:
    with project.script():
        expected = _template_loop(project.folder)
    for name in ("val/acc", "val/acc_best", "test/acc", "test/loss"):
        assert trained[0].metrics[name] == expected[name], name


def _template_loop(folder: Path) -> dict[str, float]:
    """Train and test as the template's train.py does."""
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pl.seed_everything(12345, workers=True)
    data = instantiate(_config(folder, "dataset", data_dir="elsewhere/", batch_size=64))
    sizes = {"lin1_size": 128, "lin2_size": 256, "lin3_size": 64}
    module = instantiate(_config(folder, "model", optimizer={"lr": 0.002}, net=sizes))
    keep = ModelCheckpoint("elsewhere/", "epoch_{epoch:03d}", "val/acc", mode="max", auto_insert_metric_name=False)
    trainer = pl.Trainer(
        max_epochs=3,
        gradient_clip_val=0.5,
        accelerator="cpu",
        devices=1,
        callbacks=[keep, EarlyStopping("val/acc", patience=100, mode="max")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, datamodule=data)
        trained = {name: float(value) for name, value in trainer.callback_metrics.items()}
        trainer.test(module, datamodule=data, ckpt_path=keep.best_model_path, weights_only=False, verbose=False)
    finally:
        torch.set_num_threads(before)
    return trained | {name: float(value) for name, value in trainer.callback_metrics.items()}


def _config(folder: Path, group: str, **changes: Any) -> Any:
    return OmegaConf.merge(OmegaConf.load(folder / "conf" / group / "mnist.yaml"), changes)


def test_the_trained_model_is_scored_and_predicts(project: Project, trained: tuple[Record, Path]) -> None:
    record, _ = trained
    again, _ = project.run("task=evaluate", f"from={record.id}", "experiment=example")
    assert again.metrics["test/loss"] == pytest.approx(record.metrics["test/loss"], rel=1e-6)
    with project.script():
        from src.data.mnist_datamodule import MNISTDataModule

        data = MNISTDataModule()
        data.setup()
        images, labels = data.data_test[:][0], data.data_test[:][1]
    for model in project.loaded(record):
        scores = torch.as_tensor(model.predict((images, labels)))
        assert (scores.argmax(1) == labels).float().mean() == pytest.approx(record.metrics["test/acc"])


def test_predictions_cover_the_test_part(project: Project, trained: tuple[Record, Path]) -> None:
    _, run_dir = project.run("task=predict", f"from={trained[0].id}", "experiment=example")
    table = pd.read_csv(run_dir / "outputs" / "predictions.csv")
    assert len(table) == 300 and {f"prediction_{place}" for place in range(10)} <= set(table)


def test_a_killed_run_resumes_with_the_same_result(project: Project, trained: tuple[Record, Path]) -> None:
    project.kill_and_resume(trained[0], *QUIET, "trainer.threads=1")
