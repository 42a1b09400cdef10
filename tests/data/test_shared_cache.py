"""Data read once for many runs: each finds them in memory, unless the files have changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Command
from helpers import sweep_dir
from labrun.data import shared_cache

CONFIG = {"_target_": "labrun.data.readers.Npz", "name": "own", "scale": 1.0, "path": "a.npz"}


def save(folder: Path, value: float) -> None:
    x = np.full((40, 3), value)
    x[:20] += 1
    np.savez(folder / "a.npz", X=x, y=np.repeat([0, 1], 20))


@pytest.fixture(autouse=True)
def forget() -> Any:
    yield
    shared_cache._held.clear()


def test_cached_data_are_not_read_again(tmp_path: Path) -> None:
    save(tmp_path, 1.0)
    assert shared_cache.hold(CONFIG, tmp_path)
    first, manifest = shared_cache.read(CONFIG, tmp_path)
    again, _ = shared_cache.read(CONFIG, tmp_path)
    assert again is first and [entry.path for entry in manifest] == ["a.npz"]
    assert shared_cache.read({**CONFIG, "split_seed": 1}, tmp_path)[0] is not first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    save(tmp_path, 1.0)
    shared_cache.hold(CONFIG, tmp_path)
    _, before = shared_cache.read(CONFIG, tmp_path)
    save(tmp_path, 5.0)
    os.utime(tmp_path / "a.npz", ns=(1, 1))
    arrays, after = shared_cache.read(CONFIG, tmp_path)
    assert arrays.train.x.max() == 6.0 and after != before


def test_data_that_are_too_large_or_unknown_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "get_data.py").write_text("def get_data():\n    raise ValueError\n")
    script = {"_target_": "labrun.data.readers.GetData", "name": "own", "script": "get_data.py"}
    assert not shared_cache.hold(script, tmp_path), "code of the user's must not run in the server"
    assert not shared_cache.hold(CONFIG, tmp_path), "absent: each run says so"
    save(tmp_path, 1.0)
    monkeypatch.setattr(shared_cache, "HELD_BYTES", 100)
    assert not shared_cache.hold(CONFIG, tmp_path), "too large"


def test_a_file_changed_during_a_sweep_is_read_by_later_runs(labrun: Command, tmp_path: Path) -> None:
    """The second run's model rewrites the data; later runs read and report the new content."""
    save(tmp_path, 1.0)
    (tmp_path / "shifting.py").write_text(
        "import os, numpy as np\n"
        "class Shifting:\n"
        "    def __init__(self, number=0, **_):\n        self.number = number\n"
        "    def fit(self, x, y):\n"
        "        print('largest', x.max(), flush=True)\n"
        "        if self.number == 1:\n"
        "            x = np.full((40, 3), 5.0)\n            x[:20] += 1\n"
        "            np.savez('new.npz', X=x, y=np.repeat([0, 1], 20))\n            os.replace('new.npz', 'a.npz')\n"
        "        return self\n"
        "    def predict(self, x):\n        return np.zeros(len(x), int)\n"
    )
    done = labrun(
        "-m",
        "dataset=npz",
        "dataset.path=a.npz",
        f"datastore.root={tmp_path}",
        "model._target_=shifting.Shifting",
        "+model.number=0,1,2,3",
        "compute.max_parallel=1",
    )
    assert done.returncode == 0, done.stderr
    folder = sweep_dir(tmp_path)
    digests = [json.loads((folder / str(n) / "run.json").read_text())["data"][0]["digest"] for n in range(4)]
    seen = [(folder / str(n) / "driver.log").read_text().split("largest ")[1].split()[0] for n in range(4)]
    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert seen[0] == seen[1] != seen[2] == seen[3]
