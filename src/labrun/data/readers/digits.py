"""The handwritten digits that ship with scikit-learn, so nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labrun.data.arrays import Part, RawData
from labrun.data.reader import Reader


class Digits(Reader):
    """1,797 greyscale images of 8x8 pixels, values 0 to 16, ten classes.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
    (its test set), from `sklearn.datasets.load_digits`.
    """

    may_be_held = True

    @staticmethod
    def warm() -> None:
        import sklearn.datasets  # noqa: F401

    def places(self) -> Sequence[str] | None:
        return None

    def find(self, root: Path) -> bool:
        return True

    def files(self, root: Path) -> Sequence[Path]:
        package = importlib.util.find_spec("sklearn")
        if package is None or package.origin is None:
            return super().files(root)
        return (Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz",)

    def read(self, root: Path) -> RawData:
        import sklearn.datasets

        bunch = sklearn.datasets.load_digits()
        images = bunch.images.astype(np.uint8)[:, None]
        source = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
        names = tuple(str(name) for name in bunch.target_names)
        return RawData(Part(images, bunch.target.astype(np.int64)), None, names, (source,))
