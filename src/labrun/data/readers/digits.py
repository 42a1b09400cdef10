"""The handwritten digits that ship with scikit-learn, so nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labrun.data.arrays import Part, RawData
from labrun.data.reader import Reader
from labrun.errors import DataError


class Digits(Reader):
    """1,797 greyscale images of 8x8 pixels, values 0 to 16, ten classes.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
    (its test set), as in `sklearn.datasets.load_digits`. The file is read without importing scikit-learn, which takes
    longer than reading it and which a network does not need.
    """

    may_be_held = True

    def candidates(self) -> Sequence[str] | None:
        return None

    def find(self, root: Path) -> bool:
        return True

    def files(self, root: Path) -> Sequence[Path]:
        return (_file(),)

    def read(self, root: Path) -> RawData:
        rows = np.loadtxt(_file(), delimiter=",", dtype=np.float64)
        images = rows[:, :-1].reshape(-1, 1, 8, 8).astype(np.uint8)
        return RawData(Part(images, rows[:, -1].astype(np.int64)), None, tuple("0123456789"), (_file(),))


def _file() -> Path:
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("dataset=digits: scikit-learn is not installed here, and the digits come with it")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
