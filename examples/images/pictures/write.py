"""Write CIFAR-10 as PNG files, with one folder per class: python -m pictures.write FOLDER

FOLDER contains `cifar-10-batches-py`, as its authors publish it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from labrun.data.arrays import Part
from labrun.data.readers import Cifar10

TARGET = Path("data", "cifar10_png")


def write(folder: Path, target: Path, count: int | None = None) -> int:
    """Write the images as `train/CLASS/*.png` and `test/CLASS/*.png`.

    Args:
        folder: the folder that contains CIFAR-10.
        target: the folder to write to.
        count: number of training images; a fifth as many test images are written; None: all.

    Returns:
        The number of images written.
    """
    raw = Cifar10().read(folder)
    assert raw.test is not None
    parts = {"train": (raw.train, count), "test": (raw.test, None if count is None else count // 5)}
    return sum(write_part(part, raw.class_names, target / name, most) for name, (part, most) in parts.items())


def write_part(part: Part, class_names: tuple[str, ...], target: Path, most: int | None) -> int:
    """Write the first `most` images of a part; return how many were written."""
    for name in class_names:
        (target / name).mkdir(parents=True, exist_ok=True)
    for place, (pixels, label) in enumerate(zip(part.x[:most], part.y[:most], strict=True)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(target / class_names[label] / f"{place:05}.png")
    return len(part.y[:most])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder that contains cifar-10-batches-py")
    parser.add_argument("--count", type=int, help="number of training images (default: all)")
    options = parser.parse_args()
    print(f"{write(options.folder, TARGET, options.count):,} pictures in {TARGET}")
