"""CIFAR-10 in the format published by its authors."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from labrun.data import download
from labrun.data.arrays import AnyArray, Part, RawData
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
"""MD5 of each file, the values that torchvision checks."""


class Cifar10(Reader):
    """50,000 + 10,000 colour images of 32x32 pixels, ten classes.

    The batches are pickles, and unpickling can run code. They are therefore loaded by a restricted unpickler that
    builds only arrays and text.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", University of Toronto, 2009.
    """

    may_be_held = True

    def __init__(self, verify: bool = True) -> None:
        self.verify = verify

    def candidates(self) -> Sequence[str] | None:
        return (FOLDER, f"cifar10/{FOLDER}", "cifar10", ".")

    def find(self, root: Path) -> bool:
        folder = self._folder(root)
        return folder is not None and all((folder / name).is_file() for name in CHECKSUMS)

    def fetch(self, root: Path) -> None:
        download.fetch("CIFAR10", root, files=[f"{FOLDER}/{name}" for name in CHECKSUMS])

    def files(self, root: Path) -> Sequence[Path]:
        folder = self._complete(root)
        return tuple(folder / name for name in CHECKSUMS)

    def _complete(self, root: Path) -> Path:
        """Return the folder that holds all the files."""
        folder = self._folder(root)
        if folder is None:
            raise MissingDataError(download.how_to_bring("CIFAR-10", root, [f"{FOLDER}/{name}" for name in CHECKSUMS]))
        missing = [name for name in CHECKSUMS if not (folder / name).is_file()]
        if missing:
            raise MissingDataError(f"{folder} holds only a part of CIFAR-10; missing: {', '.join(missing)}")
        return folder

    def read(self, root: Path) -> RawData:
        folder = self._complete(root)
        if self.verify:
            for name, expected in CHECKSUMS.items():
                found = md5(folder / name)
                if found != expected:
                    raise mismatch(folder / name, "CIFAR-10", expected, found)
        names = _class_names(folder / "batches.meta")
        train = [_read_batch(folder / f"data_batch_{number}", len(names)) for number in range(1, 6)]
        return RawData(
            Part(np.concatenate([part.x for part in train]), np.concatenate([part.y for part in train])),
            _read_batch(folder / "test_batch", len(names)),
            names,
            tuple(folder / name for name in CHECKSUMS),
        )

    def _folder(self, root: Path) -> Path | None:
        for folder in (root / FOLDER, root, root / "cifar10" / FOLDER, root / "cifar10"):
            if (folder / "data_batch_1").is_file() or (folder / "test_batch").is_file():
                return folder
        return None


def _class_names(path: Path) -> tuple[str, ...]:
    names = _unpickle(path).get("label_names")
    if not isinstance(names, list) or not names:
        raise CorruptDataError(f"{path} holds no class names (label_names)")
    return tuple(str(name) for name in names)


def _read_batch(path: Path, classes: int) -> Part:
    batch = _unpickle(path)
    try:
        data, labels = batch["data"].values, np.asarray(batch["labels"], np.int64)
        part = Part(data.reshape(len(labels), 3, 32, 32), labels)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptDataError(f"{path} is not a batch of CIFAR-10: {error}") from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise CorruptDataError(f"{path} holds classes {labels.min()} to {labels.max()}; allowed are 0 to {classes - 1}")
    return part


class _Bytes:
    """Stands in for a uint8 array during unpickling, because NumPy's own reconstruction trusts the file's contents."""

    values: AnyArray

    def __init__(self, *_: object) -> None:
        """Ignore NumPy's arguments, which describe an empty array."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, _, by_columns, raw = state
        self.fill(raw.encode("latin1") if isinstance(raw, str) else raw, shape, "F" if by_columns else "C")

    def fill(self, raw: bytes, shape: tuple[int, ...], order: Any) -> _Bytes:
        if not isinstance(raw, bytes | bytearray):
            raise pickle.UnpicklingError("it holds an array that does not consist of bytes")
        self.values = np.frombuffer(bytes(raw), np.uint8).reshape(shape, order=order)
        return self


class _Uint8:
    """Stands in for the dtype uint8, the only one in a batch."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("u1", "|u1"):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, but those of CIFAR-10 are 'u1'")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


def _from_buffer(raw: bytes, dtype: object, shape: tuple[int, ...], order: str) -> _Bytes:
    return _Bytes().fill(raw, shape, order)


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as Python 3 pickles them with protocol 2."""
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Unpickler restricted to the types that occur in CIFAR-10 batches."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Bytes,
        ("numpy", "dtype"): _Uint8,
        ("multiarray", "_reconstruct"): _Bytes,
        ("numeric", "_frombuffer"): _from_buffer,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        inner = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if (inner, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 does")
        return self.ALLOWED[inner, name]


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise CorruptDataError(f"{path} cannot be read as a batch of CIFAR-10: {error}") from error
    if not isinstance(content, dict):
        raise CorruptDataError(f"{path} is not a batch of CIFAR-10: it holds a {type(content).__name__}")
    return content
