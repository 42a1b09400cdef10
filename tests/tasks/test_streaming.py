"""Runs on streamed samples have the same results as in memory, in everything done with a run."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

import labrun
from conftest import Refused, Runner
from helpers import start_labrun, wait_for
from labrun.data import memory
from labrun.errors import ConfigError, DataError
from labrun.runs import comparable
from labrun.runs.groups import SampleReading

FOLDER = ("dataset=image_folder", "datastore.root=p", "dataset.validation_size=0.2")
PICTURES = (*FOLDER, "model=mnist_dnn")
LEARNING = ("trainer.max_epochs=2", "trainer.batch_size=16", "dataset/augmentation=flip")
STREAMED, HELD = "dataset.in_memory=false", "dataset.in_memory=true"


@pytest.fixture
def pictures(workspace: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, light in (("dark", 60), ("light", 200)):
        (workspace / "p" / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.normal(light, 60, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(workspace / "p" / name / f"{number}.png")
    return workspace / "p"


def predictions(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "outputs" / "predictions.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_streamed_run_equals_the_run_in_memory(run_here: Runner, pictures: Path) -> None:
    held, held_dir = run_here(*PICTURES, *LEARNING, HELD)
    streamed, run_dir = run_here(*PICTURES, *LEARNING, STREAMED, "dataset.num_workers=1", pictures=True)
    assert streamed.metrics == held.metrics and streamed.signature == held.signature
    assert streamed.data[0].reading == SampleReading(False, "dataset.in_memory=false")
    assert dataclasses.replace(streamed.data[0], reading=held.data[0].reading) == held.data[0]
    assert comparable.mixture([held, streamed], "accuracy") is None
    for name in ("confusion_matrix.json", "model.pt"):
        assert (run_dir / "outputs" / name).read_bytes() == (held_dir / "outputs" / name).read_bytes()
    assert (run_dir / "outputs" / "samples.png").is_file()

    on, _ = run_here(*PICTURES, *LEARNING, STREAMED, "trainer.max_epochs=3", f"trainer.resume={held.id}")
    whole, _ = run_here(*PICTURES, *LEARNING, HELD, "trainer.max_epochs=3")
    assert on.metrics == whole.metrics
    scored, _ = run_here("task=evaluate", f"from={held.id}", *FOLDER, STREAMED)
    assert scored.metrics["accuracy"] == held.metrics["accuracy"]
    assert scored.data[0].reading is not None and scored.data[0].reading.in_memory is False
    _, one = run_here("task=predict", f"from={streamed.id}", *FOLDER, HELD)
    _, other = run_here("task=predict", f"from={held.id}", *FOLDER, STREAMED)
    assert predictions(one) == predictions(other) and len(predictions(one)) == 120
    x = np.asarray(Image.open(pictures / "dark" / "0.png"))[None]
    assert labrun.load_model(run_dir).predict_proba(x) == pytest.approx(labrun.load_model(held_dir).predict_proba(x))


def test_arrays_over_the_memory_limit_are_streamed(
    run_here: Runner, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.savez_compressed("t.npz", X=x, y=x.sum(axis=1))
    table = ("dataset=npz", "dataset.path=t.npz", "datastore.root=.", "dataset.regression=true", "model=mnist_dnn")
    few = (*table, "trainer.max_epochs=2", "dataset.validation_size=50")
    held, _ = run_here(*few)
    assert held.data[0].reading is not None and held.data[0].reading.in_memory
    monkeypatch.setattr(memory, "limit", lambda compute: memory.Limit(5000, "its cgroup's limit"))
    streamed, _ = run_here(*few)
    assert streamed.metrics == held.metrics
    assert streamed.data[0].reading == SampleReading(
        False, "its arrays take 9.4 KB, and the limit is 2.4 KB, half of the run's memory (its cgroup's limit)"
    )
    _, one = run_here("task=predict", f"from={held.id}", *table[:-1], HELD)
    _, other = run_here("task=predict", f"from={held.id}", *table[:-1], STREAMED)
    assert predictions(one) == predictions(other) and len(predictions(one)) == 200


def test_a_table_is_scored_and_predicted_as_in_memory(run_here: Runner, workspace: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 2))
    table = pd.DataFrame({"patient_id": np.arange(300) + 70, "a": x[:, 0], "b": x[:, 1]})
    table.assign(ill=np.where(x[:, 0] > x[:, 1], "yes", "no")).to_parquet("t.parquet")
    table.to_parquet("new.parquet")
    source = ("dataset=csv", "dataset.path=t.parquet", "datastore.root=.")
    held, _ = run_here(*source, "model=mnist_dnn", "trainer.max_epochs=2", HELD)
    streamed, _ = run_here(*source, "model=mnist_dnn", "trainer.max_epochs=2", STREAMED)
    assert streamed.metrics == held.metrics and streamed.signature == held.signature
    scored, _ = run_here("task=evaluate", f"from={held.id}", *source, STREAMED)
    assert scored.metrics["accuracy"] == held.metrics["accuracy"]
    new = ("dataset=csv", "dataset.path=new.parquet", "datastore.root=.")
    _, one = run_here("task=predict", f"from={held.id}", *new, HELD)
    _, other = run_here("task=predict", f"from={held.id}", *new, STREAMED)
    assert predictions(one) == predictions(other) and predictions(one)[0]["patient_id"] == "70"


def test_models_that_need_arrays_in_memory_are_refused(run_here: Runner, refused_here: Refused, pictures: Path) -> None:
    few = ("dataset=image_folder", "datastore.root=p", STREAMED)
    for model in ("logistic_regression", "pipeline"):
        told = refused_here(*few, f"model={model}")
        assert "takes arrays in memory, and only networks take samples from the disk" in told
    (pictures.parent / "made.py").write_text(
        "def forest(num_classes):\n    from sklearn.ensemble import RandomForestClassifier\n\n"
        "    return RandomForestClassifier()\n"
    )
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/forest.yaml").write_text("_target_: made.forest\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(pictures.parent))
        with pytest.raises(ConfigError, match="forest takes arrays in memory"):
            run_here(*few, "model=forest")
    Path("t.csv").write_text("a,b\n" + "1,x\n2,y\n" * 10)
    with pytest.raises(DataError, match="dataset.in_memory=false"):
        run_here("dataset=csv", "dataset.path=t.csv", "datastore.root=.", "model=mnist_dnn", STREAMED)
    assert "expected true, false or auto" in refused_here(*PICTURES, "dataset.in_memory=maybe")


def test_no_reader_survives_kill_9(pictures: Path) -> None:
    """Torch's loaders check their parent every five seconds, once they have started."""
    begun = start_labrun(
        *PICTURES,
        STREAMED,
        "dataset.num_workers=2",
        "trainer.max_epochs=100000",
        "tracking=none",
        "callbacks=none",
        cwd=pictures.parent,
    )
    found: list[psutil.Process] = []
    runs: list[psutil.Process] = []

    def reads() -> bool:
        for claim in pictures.parent.glob("outputs/*/*/attempts/1"):
            with contextlib.suppress(ValueError):  # it is being written
                runs[:] = [psutil.Process(json.loads(claim.read_text())["pid"])]
                found[:] = runs[0].children(recursive=True)
        metrics = pictures.parent.glob("outputs/*/*/metrics.jsonl")
        has_trained = any('"name": "train_loss"' in path.read_text() for path in metrics)  # so both have started
        return has_trained and len(found) >= 3  # the sidecar, and two that read

    wait_for(reads)
    runs[0].kill()
    assert begun.wait(timeout=60) == -signal.SIGKILL
    _, alive = psutil.wait_procs(found, timeout=20)
    assert not alive
