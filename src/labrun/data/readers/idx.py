"""MNIST and Fashion-MNIST: four files in the idx format, compressed or not."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labrun.data import download
from labrun.data.arrays import AnyArray, Part, RawData
from labrun.data.reader import Reader
from labrun.data.readers.checks import mismatch
from labrun.errors import CorruptDataError, MissingDataError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

Checksums = dict[str, str]

MNIST_GZ: Checksums = dict(
    zip(
        FILES,
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        strict=True,
    )
)
MNIST_RAW: Checksums = dict(
    zip(
        FILES,
        (
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        strict=True,
    )
)
FASHION_GZ: Checksums = dict(
    zip(
        FILES,
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        strict=True,
    )
)
"""Published MD5 values, which torchvision checks too. Fashion-MNIST publishes none for its uncompressed files."""


class _IdxReader(Reader):
    """Common base of MNIST and its successors."""

    may_be_held = True
    title: str
    torchvision_name: str
    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    compressed_md5: Checksums
    raw_md5: Checksums | None
    other_title: str
    other_md5: frozenset[str]

    def __init__(self, verify: bool = True) -> None:
        self.verify = verify

    def candidates(self) -> Sequence[str] | None:
        return (*self.folders[1:], ".")

    def find(self, root: Path) -> bool:
        folder = self._folder(root)
        return folder is not None and all(_variants(folder, name) for name in FILES)

    def fetch(self, root: Path) -> None:
        wanted = [f"{self.folders[-1]}/{name}" for name in FILES]
        download.fetch(self.torchvision_name, root, files=wanted)

    def files(self, root: Path) -> Sequence[Path]:
        return tuple(self._chosen(root).values())

    def _chosen(self, root: Path) -> dict[str, Path]:
        """Return the four files to read, by their published names."""
        folder = self._folder(root)
        if folder is None:
            wanted = [f"{self.folders[1]}/{name}.gz" for name in FILES]
            raise MissingDataError(download.how_to_bring(self.title, root, wanted))
        found = {name: _variants(folder, name) for name in FILES}
        missing = [name for name, paths in found.items() if not paths]
        if missing:
            raise MissingDataError(
                f"{folder} holds only a part of {self.title}; missing: {', '.join(missing)} (plain, or with .gz)"
            )
        return {name: self._best(paths) for name, paths in found.items()}

    def read(self, root: Path) -> RawData:
        chosen = self._chosen(root)
        notes: list[str] = []
        used = list(chosen.values())
        arrays = {}
        for name, path in chosen.items():
            content = self._content(name, path, notes)
            arrays[name] = _parse(content, path, dimensions=3 if "images" in name else 1)
        parts = [_part(arrays[FILES[i]], arrays[FILES[i + 1]], used[i], len(self.class_names)) for i in (0, 2)]
        if self.verify:
            _check_counts(parts, used[0].parent, self.title)
        return RawData(parts[0], parts[1], self.class_names, tuple(used), notes=tuple(notes))

    def _folder(self, root: Path) -> Path | None:
        """Return the first folder with all four files, otherwise the one with the most of them."""
        folders = [root / folder for folder in self.folders]
        scores = [sum(bool(_variants(folder, name)) for name in FILES) for folder in folders]
        for wanted in (4, 3, 2, 1):
            if wanted in scores:
                return folders[scores.index(wanted)]
        return None

    def _best(self, paths: list[Path]) -> Path:
        """Return the candidate file with a published checksum, if any."""
        if self.raw_md5 is not None:
            return paths[0]
        return next((candidate for candidate in paths if candidate.suffix == ".gz"), paths[0])

    def _content(self, name: str, path: Path, notes: list[str]) -> bytes:
        """Read, verify and decompress a file."""
        content = path.read_bytes()
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if self.verify and found in self.other_md5:
            raise self._other_set(path, found)
        if path.suffix != ".gz":
            if self.verify and self.raw_md5 and found != self.raw_md5[name]:
                raise mismatch(path, self.title, self.raw_md5[name], found)
            if self.verify and not self.raw_md5:
                notes.append(f"{path.name}: no checksum is published for the unpacked file; its structure was checked")
            return content
        published = self.compressed_md5[name]
        try:
            unpacked = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise CorruptDataError(
                f"{path} cannot be unpacked ({error}): expected MD5 {published}, found {found} ({len(content):,} "
                "bytes). It was truncated or altered: delete it, and it is downloaded again"
            ) from error
        if self.verify and found != published:
            # The file was recompressed: compare the checksum of its content, if one is published.
            inner = hashlib.md5(unpacked, usedforsecurity=False).hexdigest()
            if inner in self.other_md5:
                raise self._other_set(path, inner)
            if self.raw_md5 is None or inner != self.raw_md5[name]:
                raise mismatch(path, self.title, published, found)
        return unpacked

    def _other_set(self, path: Path, found: str) -> CorruptDataError:
        return CorruptDataError(
            f"{path} is a file of {self.other_title}, not of {self.title} (MD5 {found}). "
            f"Point datastore.root at {self.title}'s files, or choose the other data set with "
            f"dataset={self.other_title.lower().replace('-', '_')}"
        )


class Mnist(_IdxReader):
    """60,000 + 10,000 greyscale images of 28x28 pixels, the digits 0 to 9.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
    """

    title = "MNIST"
    torchvision_name = "MNIST"
    folders = ("", "mnist", "MNIST/raw")
    class_names = tuple("0123456789")
    compressed_md5 = MNIST_GZ
    raw_md5 = MNIST_RAW
    other_title = "Fashion-MNIST"
    other_md5 = frozenset(FASHION_GZ.values())


class FashionMnist(_IdxReader):
    """60,000 + 10,000 greyscale images of 28x28 pixels, ten kinds of clothing.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", arXiv:1708.07747.
    """

    title = "Fashion-MNIST"
    torchvision_name = "FashionMNIST"
    folders = ("", "fashion_mnist", "FashionMNIST/raw")
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    compressed_md5 = FASHION_GZ
    raw_md5 = None
    other_title = "MNIST"
    other_md5 = frozenset(MNIST_GZ.values()) | frozenset(MNIST_RAW.values())


def _variants(folder: Path, name: str) -> list[Path]:
    """Return the existing candidates for a file: uncompressed before compressed, full name before short name."""
    short = name.rsplit("-idx", 1)[0]
    stems = (name, name.replace("-idx", ".idx"), short)
    return [path for suffix in ("", ".gz") for stem in stems if (path := folder / f"{stem}{suffix}").is_file()]


def _parse(content: bytes, path: Path, dimensions: int) -> AnyArray:
    """Parse an idx file: two zero bytes, the type (8: uint8), the number of dimensions, their sizes, the values."""
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise CorruptDataError(f"{path} is not an idx file of uint8 with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != expected:
        raise CorruptDataError(
            f"{path} is truncated or altered: its header declares {expected:,} values {tuple(shape)}, "
            f"but {len(content) - header:,} follow"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _part(images: AnyArray, labels: AnyArray, path: Path, classes: int) -> Part:
    if len(images) != len(labels) or len(images) == 0:
        raise CorruptDataError(f"{path} holds {len(images):,} images, and its labels file {len(labels):,} labels")
    if labels.max() >= classes:
        raise CorruptDataError(
            f"the labels file next to {path} holds class {labels.max()}; allowed are 0 to {classes - 1}"
        )
    return Part(images[:, None], labels.astype(np.int64))


def _check_counts(parts: list[Part], folder: Path, title: str) -> None:
    for part, expected in zip(parts, (60_000, 10_000), strict=True):
        if part.x.shape != (expected, 1, 28, 28):
            raise CorruptDataError(
                f"{folder} does not hold {title}: expected {expected:,} images of 28x28, found {part.x.shape}. "
                "If these are your own files in the same format, set dataset.verify=false"
            )
