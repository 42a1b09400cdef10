"""Windows of characters from the source files of Python's standard library, and the prompts for predictions."""

from __future__ import annotations

import hashlib
import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from chars.alphabet import encoded

Part = Literal["train", "validation", "test"]
TENTHS: dict[Part, range] = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


class SourceFiles(IterableDataset[Tensor]):
    """Windows of the standard library's top-level modules, file by file.

    The digest of a file's name decides which part it belongs to, so the split is the same on every machine.

    Args:
        part: eight tenths of the files are `train`, one tenth each `validation` and `test`.
        length: characters that the model sees; a window has one more, the target of the last one.
        files: maximum number of files, the first ones by digest; None: all.
        seed: seed of the order of the training files.
    """

    def __init__(self, part: Part, length: int = 64, files: int | None = None, seed: int = 0) -> None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        named = sorted((hashlib.sha256(path.name.encode()).hexdigest(), path) for path in folder.glob("*.py"))
        self.paths = [path for digest, path in named if int(digest, 16) % 10 in TENTHS[part]][:files]
        self._length, self._seed, self._is_train = length, seed, part == "train"
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Each epoch has its own order of files, so resumed training sees the same order."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        own = self._ordered()[worker.id :: worker.num_workers] if worker is not None else self._ordered()
        for path in own:
            numbers = encoded(path.read_text(encoding="utf-8", errors="replace"))
            for start in range(0, len(numbers) - self._length, self._length):
                yield numbers[start : start + self._length + 1]

    def _ordered(self) -> list[Path]:
        if not self._is_train:
            return self.paths
        return random.Random(f"{self._seed} {self._epoch}").sample(self.paths, len(self.paths))

    def fingerprint(self) -> str:
        """Return a digest of the files; labrun stores it in the record."""
        read = hashlib.sha256()
        for path in self.paths:
            read.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return read.hexdigest()


class Beginnings(Dataset[str]):
    """Texts that the model continues.

    Args:
        texts: one or more texts.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, place: int) -> str:
        return self._texts[place]
