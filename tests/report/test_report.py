"""Readable pictures: the right size, not empty, and none without data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labrun.errors import RecordError
from labrun.report import axes, figures, formatting, pictures
from labrun.report.pictures import Pictures


def looks_drawn(path: Path) -> bool:
    pixels = np.asarray(Image.open(path).convert("L"))
    return min(pixels.shape) > 200 and pixels.std() > 5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_of_samples_is_drawn(tmp_path: Path, channels: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, channels, 9, 12), dtype=np.uint8)
    y = np.arange(40) % 3
    path = figures.sample_grid(x, y, ["a", "b", "a long class name"], 255, tmp_path / "s.png", "title")
    assert looks_drawn(path)


def test_training_and_validation_curves_share_a_plot(tmp_path: Path) -> None:
    lines = [
        {"name": name, "step": step, "value": 1 / (step + 1)}
        for name in ("loss", "train_loss", "val_loss", "val_accuracy")
        for step in range(4)
    ]
    path = figures.learning_curves(lines, tmp_path / "c.png", "title")
    assert path is not None and looks_drawn(path)
    assert figures.learning_curves(lines[:1], tmp_path / "none.png", "title") is None
    assert not (tmp_path / "none.png").exists()


def test_quantities_and_units_of_metrics_follow_their_names_and_steps() -> None:
    names = ("train_loss", "val/loss", "loss/valid", "lossTrain", "test.acc", "val", "train_val_gap")
    assert [figures.quantity(name) for name in names] == ["loss", "loss", "loss", "lossTrain", "acc", "val", "val_gap"]
    epochs = [{"step": 1, "epoch": 1}, {"step": 2, "epoch": 2}]
    assert axes.unit(epochs) == "epoch" and axes.unit([*epochs, {"step": 12, "epoch": 3}]) == "epoch"
    assert axes.unit([{"step": 1}]) == "step" and axes.unit([{"step": s, "epoch": 1} for s in (1, 2)]) == "batch"


@pytest.mark.parametrize(
    "steps",
    [
        {1: [2000, 4000, 12000], 2: [14500, 16500, 24500]},  # every 2,000 of 12,500 batches
        {1: [50, 100, 150, 157], 2: [200, 250, 300, 314]},  # every 50 of 157, and the last
    ],
)
def test_values_within_an_epoch_are_drawn_at_fractions_of_it(steps: dict[int, list[int]]) -> None:
    lines = [{"epoch": epoch, "step": step} for epoch, own in steps.items() for step in own]
    size = 12500 if 2000 in steps[1] else 157
    assert axes.in_epochs(lines) == pytest.approx([line["step"] / size for line in lines])
    assert axes.in_epochs([{"epoch": 1, "step": 900}, {"epoch": 2, "step": 3}, {"epoch": 2, "step": 4}]) is None


@pytest.mark.parametrize("shift", [0.0, 100.0, -100.0])
@pytest.mark.parametrize("count", [1, 60, 20_000])
def test_predictions_of_a_regression_are_drawn(tmp_path: Path, count: int, shift: float) -> None:
    rng = np.random.default_rng(0)
    true = 10 ** rng.uniform(0, 5, count) + shift
    predicted = np.where(rng.random(count) < 0.1, np.nan, true + rng.normal(size=count))
    assert looks_drawn(figures.predictions(true, predicted, tmp_path / "p.png", "title", "price of $x"))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_curves_of_several_runs_are_distinguished_by_their_labels(tmp_path: Path, count: int) -> None:
    lines = [{"name": "loss", "step": s, "value": v} for s, v in enumerate((1.0, float("nan"), 1e-9))]
    runs = {f"model.lr={n} {'trainer.batch_size=4 ' * (n % 3) * 5}": lines for n in range(count)}
    path = figures.compared_curves(runs, tmp_path / "c.png")
    assert path is not None and looks_drawn(path)
    shown, common = formatting.differing([["a=1", "b=2"], ["b=2", "a=3"], ["b=2"]])
    assert shown == [["a=1"], ["a=3"], []] and common == ["b=2"] and formatting.differing([["a=1"]]) == ([["a=1"]], [])


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_a_confusion_matrix_is_drawn(tmp_path: Path, classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 100, (classes, classes))
    assert looks_drawn(
        figures.confusion_matrix(counts, [f"class {i}" for i in range(classes)], tmp_path / "m.png", "t")
    )


@pytest.mark.parametrize("rows", [1, 10])
def test_weights_are_drawn_as_images(tmp_path: Path, rows: int) -> None:
    weights = np.random.default_rng(0).normal(size=(rows, 64))
    names = [str(i) for i in range(max(2, rows))]
    assert looks_drawn(figures.weight_images(weights, (1, 8, 8), names, tmp_path / "w.png", "t"))


def test_the_content_of_pictures_is_saved_and_drawn_later(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    shown = Pictures(
        "name (id)",
        "digits",
        ("0", "1"),
        16.0,
        0.5,
        (1, 8, 8),
        drawn.integers(0, 17, (30, 1, 8, 8), dtype=np.uint8),
        np.arange(30) % 2,
        np.array([[5, 1], [2, 4]]),
        drawn.normal(size=(1, 64)),
    )
    shown.save(tmp_path / "shown.npz")
    back = pictures.load(tmp_path / "shown.npz")
    assert (back.title, tuple(back.class_names), tuple(back.image_shape)) == ("name (id)", ("0", "1"), (1, 8, 8))
    back.draw(tmp_path)
    drawn_files = sorted(path.name for path in (tmp_path / "outputs").glob("*.png"))
    assert drawn_files == ["confusion_matrix.png", "samples.png", "weights.png"]
    assert all(looks_drawn(tmp_path / "outputs" / name) for name in drawn_files)
    Pictures("name (id)", true=np.arange(9.0), predicted=drawn.normal(size=9), quantity="price").save(
        tmp_path / "q.npz"
    )
    pictures.load(tmp_path / "q.npz").draw(tmp_path)
    assert looks_drawn(tmp_path / "outputs" / "predictions.png")
    (tmp_path / "shown.npz").write_bytes(b"torn")
    with pytest.raises(RecordError, match="cannot be read"):
        pictures.load(tmp_path / "shown.npz")


def test_numbers_are_formatted_readably() -> None:
    assert [formatting.number(v) for v in (0.92546, 0.01, 1.2345678, 12345.6, 0.0001, -0.0)] == [
        "0.9255",
        "0.0100",
        "1.235",
        "1.235e+04",
        "0.0001",
        "0",
    ]


def test_columns_are_aligned_in_every_script() -> None:
    """In a terminal a Chinese character takes two columns, and a combining accent none."""
    lines = list(formatting.columns([("name", "status"), ("数字", "completed"), ("cafe\u0301", "failed")]))
    assert lines == ["name  status", "数字  completed", "cafe\u0301  failed"]
    assert formatting.table([("数字", "1"), ("name", "2")]).splitlines()[1:3] == ["  数字  1", "  name  2"]
