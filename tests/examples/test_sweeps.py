"""Sweeps of the projects in `examples/`, in the pool and on a real Slurm cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

import labrun
from example_projects import SMALL_TEXT, Project

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
        SMALL_TEXT,
    ),
    "time_series": ("sunspots", "test/mae", ("model.hidden=4", "model.hidden=8"), ()),
}
"""For each example: its experiment, a metric that differs, the values of its two runs, and what makes them small."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Project:
    """The files of all examples in one workspace, so that one sweep, whose pool imports Lightning once, can run all."""
    pytest.importorskip("statsmodels")
    first, *others = [Project(name, tmp_path_factory.mktemp(name)) for name in RUNS]
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
    return first


def test_every_example_sweeps_in_the_pool(together: Project) -> None:
    """Over 15 s if the machine is busy: ten runs of networks."""
    found = sweep(together, "gru")
    assert len({record["metrics"]["mae"] for record in found["time_series"]}) == 2
    with together.script():
        assert "GRUNetwork" in repr(labrun.load_model("run:last"))


def test_every_example_sweeps_in_one_job_on_slurm(together: Project, cluster: None) -> None:
    """Over 15 s: the job is a new interpreter, which imports Lightning."""
    found = sweep(together, "forecaster", "compute=slurm", f"compute.runs_per_job={2 * len(RUNS)}")
    jobs = [record["job"] for pair in found.values() for record in pair]
    assert all(jobs) and len({job["id"] for job in jobs}) == 1
    assert not any(record["data"][0]["reading"]["in_memory"] for record in found["images"])


def sweep(project: Project, forecaster: str, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Run the two small runs of each example in one sweep, and return their records, which differ.

    Args:
        project: the files of all examples.
        forecaster: the model of the time series.
        arguments: further arguments of the command.
    """
    names = [write_experiment(project.folder, name, place, forecaster) for name in RUNS for place in (0, 1)]
    runs = iter(project.sweep(f"experiment={','.join(names)}", *arguments))
    found = {name: [next(runs), next(runs)] for name in RUNS}
    for name, (_, metric, *_) in RUNS.items():
        if name != "time_series" or forecaster == "forecaster":
            assert len({record["metrics"][metric] for record in found[name]}) == 2, name
    return found


def write_experiment(folder: Path, name: str, place: int, forecaster: str) -> str:
    """Write a small experiment with one of an example's two values, and return its name."""
    base, _, values, small = RUNS[name]
    if name == "time_series" and forecaster == "gru":
        small = ("model=gru", "trainer.monitor=val_mae")
    config, defaults = OmegaConf.create({"trainer": {"max_epochs": 1}}), [base]
    for word in (*small, values[place]):
        key, value = word.split("=")
        if "/" in key or key == "model":
            defaults.append({f"override /{key}": value})
        else:
            OmegaConf.update(config, key, yaml.safe_load(value))
    text = yaml.safe_dump({"defaults": [*defaults, "_self_"], **OmegaConf.to_container(config)}, sort_keys=False)
    path = folder / "conf" / "experiment" / f"{base}_{place}.yaml"
    path.write_text(f"# @package _global_\n{text}")
    return path.stem
