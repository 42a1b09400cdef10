"""The projects in `examples/` on a real Slurm cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from example_projects import Project

RUNS: dict[str, tuple[str, str, tuple[str, str], tuple[str, ...]]] = {
    "images": (
        "pictures",
        "test_loss",
        ("dataset/augmentation=none", "dataset/augmentation=flip"),
        ("dataset.validation_size=50", "dataset.num_workers=1", "trainer.batch_size=32", "model.width=4"),
    ),
    "lightning_template": ("example", "val/acc_best", ("model.optimizer.lr=0.001", "model.optimizer.lr=0.01"), ()),
    "segmentation": (
        "pixels",
        "test_loss",
        ("model.class_weight=[1,1]", "model.class_weight=[1,3]"),
        ("dataset.train.count=64", "trainer.batch_size=16", "model.width=4"),
    ),
    "text": (
        "chars",
        "val/perplexity",
        ("model.lr=0.001", "model.lr=0.01"),
        (
            "dataset.train.files=8",
            "dataset.train.length=32",
            "model.width=16",
            "model.layers=1",
            "model.new=5",
            "trainer.limit_train_batches=4",
            "trainer.limit_val_batches=2",
            "trainer.options.limit_test_batches=2",
        ),
    ),
    "time_series": ("sunspots", "test/mae", ("model.hidden=4", "model.hidden=8"), ()),
}
"""For each example: its experiment, a metric that differs, the values of its two runs, and what makes them small."""


def test_each_example_runs_with_two_values_on_slurm(tmp_path: Path, real_data: Path, cluster: None) -> None:
    """All ten runs in one job, with the examples' files in one workspace: a job is a new interpreter, and imports
    Lightning. Over 15 s: the job, and its runs.
    """
    pytest.importorskip("statsmodels")
    first, *others = [Project(name, tmp_path) for name in RUNS]
    for other in others:
        shutil.copytree(other.folder, first.folder, dirs_exist_ok=True)
    conf = first.folder / "conf"
    (conf / "callbacks" / "default.yaml").rename(conf / "callbacks" / "template.yaml")  # the others have labrun's
    template = (conf / "experiment" / "example.yaml").read_text()
    template = template.replace("override /callbacks: default", "override /callbacks: template")
    (conf / "experiment" / "example.yaml").write_text(template)
    with first.script():
        from pictures.write import TARGET, write  # type: ignore[import-not-found]

        write(real_data, TARGET, 300)
    names = {name: [write_experiment(first.folder, name, place) for place in (0, 1)] for name in RUNS}
    listed = ",".join(one for pair in names.values() for one in pair)
    found = first.sweep(f"experiment={listed}", "compute=slurm", f"compute.runs_per_job={2 * len(RUNS)}")
    assert all(record["job"] for record in found) and len({record["job"]["id"] for record in found}) == 1
    for number, (name, (_, metric, *_)) in enumerate(RUNS.items()):
        pair = found[2 * number : 2 * number + 2]
        assert len({record["metrics"][metric] for record in pair}) == 2, name
    assert not any(record["data"][0]["reading"]["in_memory"] for record in found[:2])


def write_experiment(folder: Path, name: str, place: int) -> str:
    """Write a small experiment with one of an example's two values, and return its name."""
    base, _, values, small = RUNS[name]
    config, defaults = OmegaConf.create({"trainer": {"max_epochs": 1}}), [base]
    for word in (*small, values[place]):
        key, value = word.split("=")
        if "/" in key:
            defaults.append({f"override /{key}": value})
        else:
            OmegaConf.update(config, key, yaml.safe_load(value))
    text = yaml.safe_dump({"defaults": [*defaults, "_self_"], **OmegaConf.to_container(config)}, sort_keys=False)
    path = folder / "conf" / "experiment" / f"{base}_{place}.yaml"
    path.write_text(f"# @package _global_\n{text}")
    return path.stem
