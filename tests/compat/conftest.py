"""A run directory created by hand, and scripts executed in it as by the script task."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labrun
from helpers import submitted
from labrun.runs import context

PACKAGE = Path(labrun.__file__).parent
RUNNER = PACKAGE / "compat" / "azureml" / "runner.py"
STANDALONE = PACKAGE / "compat" / "standalone"


@dataclass
class Bench:
    """A working folder as for a script's run, with its links, and a run directory."""

    folder: Path
    run_dir: Path

    def write(self, text: str, name: str = "train.py") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(
        self, script: Path, *arguments: str, python: str = sys.executable, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the script within the run."""
        variables = {"LABRUN_RUN_DIR": str(self.run_dir), "LABRUN_ATTEMPT": "1", **environment}
        return self._start([python, str(RUNNER), str(script), *arguments], variables)

    def by_hand(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script without a run."""
        return self._start([sys.executable, "-m", "labrun.compat.azureml", *arguments], environment)

    def _start(self, command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LABRUN_", "PYTHON"))}
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**kept, **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """Return step and value of each logged line, by metric."""
        found: dict[str, list[tuple[int, float]]] = {}
        for line in context.read_metrics(self.run_dir):
            found.setdefault(line["name"], []).append((line["step"], line["value"]))
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    run_dir = submitted(tmp_path, "abcd1234")
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("outputs", "logs"):
        (folder / name).symlink_to(run_dir / name)
    return Bench(folder, run_dir)


def good(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Check that a process has succeeded, and return it."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def well() -> Any:
    return good


@pytest.fixture
def few_images(tmp_path: Path) -> Path:
    """CIFAR-10's files with 80 images instead of 60,000."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in (1, 2):
        images = generator.integers(0, 255, (40, 3072), dtype=np.uint8)
        content = {"data": images, "labels": [int(label) for label in generator.integers(0, 10, 40)]}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(content))
    return folder.parent


@pytest.fixture
def few_digits(tmp_path: Path) -> Path:
    """MNIST's files with scikit-learn's digits, scaled to 28 x 28 pixels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = np.kron(x.reshape(-1, 8, 8) * 15, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, part in (("train", slice(0, 600)), ("test", slice(600, 900))):
        head = struct.pack(">IIII", 2051, len(images[part]), 28, 28)
        (folder / f"{name}-images.gz").write_bytes(gzip.compress(head + images[part].tobytes()))
        head = struct.pack(">II", 2049, len(y[part]))
        (folder / f"{name}-labels.gz").write_bytes(gzip.compress(head + y[part].astype(np.uint8).tobytes()))
    return folder
