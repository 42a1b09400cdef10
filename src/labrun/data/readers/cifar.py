"""CIFAR-10, as its authors publish it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from labrun.data import download
from labrun.data.arrays import Part, RawData
from labrun.data.reader import Reader
from labrun.data.readers.checks import md5, mismatch
from labrun.errors import CorruptDataError, MissingDataError

FOLDER = "cifar-10-batches-py"
CHECKSUMS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
"""MD5 of each file, as torchvision checks them."""


class Cifar10(Reader):
    """50,000 + 10,000 colour images of 32x32 pixels, ten classes.

    The batches are pickles, and a pickle can run code: one whose checksum is not the published one is never loaded
    by Python's own unpickler, but by one that builds nothing but arrays and text.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", University of Toronto, 2009.
    """

    def __init__(self, verify: bool = True) -> None:
        self.verify = verify

    def find(self, root: Path) -> bool:
        folder = self._folder(root)
        return folder is not None and all((folder / name).is_file() for name in CHECKSUMS)

    def fetch(self, root: Path) -> None:
        download.fetch("CIFAR10", root, files=[f"{FOLDER}/{name}" for name in CHECKSUMS])

    def read(self, root: Path) -> RawData:
        folder = self._folder(root)
        if folder is None:
            raise MissingDataError(download.how_to_bring("CIFAR-10", root, [f"{FOLDER}/{name}" for name in CHECKSUMS]))
        missing = [name for name in CHECKSUMS if not (folder / name).is_file()]
        if missing:
            raise MissingDataError(f"{folder} holds only a part of CIFAR-10; missing: {', '.join(missing)}")
        if self.verify:
            for name, expected in CHECKSUMS.items():
                found = md5(folder / name)
                if found != expected:
                    raise mismatch(folder / name, "CIFAR-10", expected, found)
        train = [_read_batch(folder / f"data_batch_{number}") for number in range(1, 6)]
        names = tuple(str(name) for name in _unpickle(folder / "batches.meta")["label_names"])
        return RawData(
            Part(np.concatenate([part.x for part in train]), np.concatenate([part.y for part in train])),
            _read_batch(folder / "test_batch"),
            names,
            tuple(folder / name for name in CHECKSUMS),
        )

    def _folder(self, root: Path) -> Path | None:
        for folder in (root / FOLDER, root, root / "cifar10" / FOLDER, root / "cifar10"):
            if (folder / "data_batch_1").is_file() or (folder / "test_batch").is_file():
                return folder
        return None


def _read_batch(path: Path) -> Part:
    batch = _unpickle(path)
    try:
        data, labels = np.asarray(batch["data"], np.uint8), np.asarray(batch["labels"], np.int64)
        return Part(data.reshape(len(labels), 3, 32, 32), labels)
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptDataError(f"{path} is not a batch of CIFAR-10: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Builds what CIFAR's batches consist of, and nothing else."""

    ALLOWED = frozenset(
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "ndarray", "dtype")
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 does")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CorruptDataError(f"{path} cannot be read as a batch of CIFAR-10: {error}") from error
    if not isinstance(content, dict):
        raise CorruptDataError(f"{path} is not a batch of CIFAR-10: it holds a {type(content).__name__}")
    return content
