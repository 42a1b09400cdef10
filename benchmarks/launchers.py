"""Hydra's own launchers, in a separate environment, with the plain applications of `hydra_apps/`."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import common

APPS = Path(__file__).parent / "hydra_apps"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PACKAGES = ("hydra-core", "submitit", "joblib", "scikit-learn")
NETWORK_PACKAGES = ("torch", "torchvision", "pytorch-lightning")
LAUNCHERS = ("hydra-submitit-launcher==1.2.0", "hydra-joblib-launcher==1.2.0")


@dataclass
class Side:
    """Sweep of one side."""

    name: str
    time: common.Time
    accuracy: dict[str, float]
    """Test accuracy by swept value."""

    @property
    def runs(self) -> int:
        return len(self.accuracy)

    @property
    def per_minute(self) -> float:
        return 60 * self.runs / self.time.seconds


@dataclass
class Environment:
    """A virtual environment with Hydra's launchers, and the folder with the applications."""

    folder: Path
    networks: bool

    def prepare(self, data: str) -> None:
        """Create what is missing, and run each application once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._marker.exists():
            self._install()
        self._write("digits")
        self._split_digits()
        self.sweep("digits", "warm-up", ["1"], [])
        if self.networks:
            self._write("network")
            self._read_mnist(data)
            self.sweep("network", "warm-up", ["1"], [])

    def sweep(
        self, app: str, name: str, values: Sequence[str], overrides: Sequence[str], one_thread: bool = True
    ) -> Side:
        """Run a complete sweep of an application."""
        shutil.rmtree(self.folder / app / "multirun", ignore_errors=True)
        command: list[str | Path] = [
            self.folder / "venv/bin/python",
            "app.py",
            "-m",
            f"value={','.join(values)}",
            *overrides,
        ]
        label = f"{app}, {name}, {len(values)} runs"
        done = common.run_command(label, command, self.folder / app, ONE_THREAD if one_thread else None)
        found = [json.loads(path.read_text()) for path in (self.folder / app).glob("multirun/*/*/*/result.json")]
        if len(found) != len(values):
            sys.exit(f"{label}: {len(found)} runs have a result")
        return Side(name, done.time, {key(result["value"]): result["accuracy"] for result in found})

    @property
    def _marker(self) -> Path:
        return self.folder / ("installed_networks" if self.networks else "installed")

    def _install(self) -> None:
        """Install the launchers and all packages in the same versions as here, which are already in uv's cache."""
        common.progress(f"installing Hydra's launchers in {self.folder}")
        own = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] != "labrun"}
        pins = self.folder / "constraints.txt"
        pins.write_text("".join(f"{name}=={number}\n" for name, number in sorted(own.items())))
        python = self.folder / "venv/bin/python"
        wanted = [*LAUNCHERS, *PACKAGES, *(NETWORK_PACKAGES if self.networks else ())]
        subprocess.run(["uv", "venv", "-q", "--allow-existing", "-p", sys.executable, self.folder / "venv"], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "-p", python, "-c", pins, *wanted], check=True)
        self._marker.touch()

    def _write(self, app: str) -> None:
        (self.folder / app).mkdir(exist_ok=True)
        shutil.copy(APPS / f"{app}.py", self.folder / app / "app.py")
        config = f"value: ???\nloader: plain\ndata: {self.folder / app / 'data.npz'}\n"
        (self.folder / app / "config.yaml").write_text(config, encoding="utf-8")

    def _split_digits(self) -> None:
        import numpy as np
        from sklearn.datasets import load_digits

        from labrun.data.arrays import stratified_split

        train, test = stratified_split(load_digits().target.astype(np.int64), 0.2, 0)
        np.savez(self.folder / "digits/data.npz", train=train, test=test)

    def _read_mnist(self, data: str) -> None:
        """Write MNIST for both sides: labrun's three splits in one file, and the original files with split indices."""
        import numpy as np

        arrays = common.labrun_arrays(common.labrun_config(data, ["experiment=mnist_dnn"]))
        parts = {"train": arrays.train, "validation": arrays.validation, "test": arrays.test}
        found = {f"{name}_{axis}": getattr(part, axis) for name, part in parts.items() for axis in ("x", "y")}
        folder = self.folder / "network"
        np.savez(folder / "data.npz", **found)
        raw = folder / "MNIST/raw"
        raw.mkdir(parents=True, exist_ok=True)
        for file in arrays.files:
            (raw / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes()))
        pixels = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(60_000, -1)
        places: dict[bytes, list[int]] = {}
        for place, image in enumerate(pixels):
            places.setdefault(image.tobytes(), []).append(place)

        def order(part: Any) -> Any:
            """Return the positions of a split's images in the training files."""
            return np.array([places[np.ascontiguousarray(image).tobytes()].pop() for image in part.x])

        np.savez(folder / "split.npz", train=order(arrays.train), validation=order(arrays.validation))


def key(value: object) -> str:
    """Return a swept value as text, spelled the same on all sides."""
    return f"{float(str(value)):.5g}"
