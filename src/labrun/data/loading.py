"""Batches cut from tensors in memory, instead of assembled image by image in worker processes; or from the disk.

The whole part lies in memory as it was stored (uint8 for images). A few batches at a time are gathered by index,
converted and normalised in one go, and then cut into views: small batches share the cost of the conversion, large
ones stay in the processor's cache.
"""

from __future__ import annotations

import itertools
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from labrun.data.arrays import Part, Scaling
from labrun.data.streamed import Rows
from labrun.errors import LabrunError

CHUNK_BYTES = 4 * 2**20
"""How much float32 is converted at a time; about the size of a core's cache."""
PIECE_BYTES = 2**20
"""How much of what is stored on the disk a process reads at a time."""
AHEAD = 4
"""So many pieces each process has read before they are asked for."""

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Takes float images (N, C, H, W) and a generator, gives images of the same shape."""


class BatchLoader:
    """Iterates over one part of a data set in batches.

    Shapes:
        yields `(x, y)`: x (B, ...) float32, y (B,) int64; the last batch may be smaller.

    The order of epoch `e` depends on the seed and `e` alone, so that a run that resumes at an epoch sees what it
    would have seen without the break.

    Args:
        part: the samples.
        scaling: how stored values become the model's.
        batch_size: samples per batch.
        shuffle: draw a new order each epoch.
        seed: of the order and the augmentation.
        augmentation: applied to each converted chunk; None for evaluation.
        rank, ranks: this process takes every `ranks`-th sample, padded so that all have equally many. None: as many
            as there are processes in torch's default group when the iteration begins.
    """

    def __init__(
        self,
        part: Part,
        scaling: Scaling,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        rank: int = 0,
        ranks: int | None = 1,
    ) -> None:
        self._x, self._y = self._samples(part.x), _tensor(part.y)
        self._divisor = scaling.scale
        channels = (1, -1, *([1] * (part.x.ndim - 2)))
        self._mean = torch.tensor(scaling.mean, dtype=torch.float32).reshape(channels)
        self._std = torch.tensor(scaling.std, dtype=torch.float32).reshape(channels)
        self._plain = not any(scaling.mean) and all(value == 1 for value in scaling.std)
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._augmentation = augmentation
        self._given_place = None if ranks is None else (rank, ranks)
        self._epoch = 0
        self._given = 0
        self._resumed: dict[str, int] | None = None
        self.batch_sampler = SimpleNamespace(sampler=self)
        """Lightning tells the epoch to whatever stands here."""
        per_batch = max(1, math.prod(part.x.shape[1:]) * 4 * batch_size)
        self._batches_per_chunk = max(1, CHUNK_BYTES // per_batch)

    def __len__(self) -> int:
        return math.ceil(self._count() / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, from 0 on."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch the iteration stands; Lightning keeps it in its checkpoints."""
        return {"epoch": self._epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin that epoch, if it comes next, where it was left."""
        self._resumed = dict(state)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        resumed, self._resumed = self._resumed, None
        skipped = resumed["batches"] if resumed is not None and resumed["epoch"] == self._epoch else 0
        self._given = 0
        for batch in self._batches():
            self._given += 1
            # What was seen is drawn again and dropped, so that the augmentation of the rest is what it would have been.
            if self._given > skipped:
                yield batch

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(hash((self._seed, self._epoch)) % 2**63)
        total = len(self._y)
        order = torch.randperm(total, generator=generator) if self._shuffle else None
        if self._place[1] > 1:
            order = self._share(torch.arange(total) if order is None else order)
        step, count = self._batches_per_chunk * self.batch_size, self._count()
        spans = [slice(start, min(count, start + step)) for start in range(0, count, step)]
        chunks: list[slice | Tensor] = [*spans] if order is None else [order[span] for span in spans]
        for chosen, stored in zip(chunks, self._stored(chunks), strict=True):
            x = self._converted(stored)
            y = self._y[chosen]
            if self._augmentation is not None:
                x = self._augmentation(x, generator)
            yield from zip(torch.split(x, self.batch_size), torch.split(y, self.batch_size), strict=True)

    def _samples(self, x: Any) -> Any:
        return _tensor(x)

    def _stored(self, chunks: Sequence[slice | Tensor]) -> Iterator[Tensor]:
        """The samples of each chunk, as they are stored."""
        return (self._x[chosen] for chosen in chunks)

    @property
    def _place(self) -> tuple[int, int]:
        """This process's number, and of how many."""
        if self._given_place is not None:
            return self._given_place
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)

    def _count(self) -> int:
        return math.ceil(len(self._y) / self._place[1])

    def _share(self, order: Tensor) -> Tensor:
        rank, ranks = self._place
        wanted = self._count() * ranks
        return order.repeat(math.ceil(wanted / len(order)))[rank:wanted:ranks]

    def _converted(self, x: Tensor) -> Tensor:
        values = x.to(torch.float32, copy=True).div_(self._divisor)
        return values if self._plain else values.sub_(self._mean).div_(self._std)


class StreamedLoader(BatchLoader):
    """The same batches, to the last bit, of samples that stay on the disk.

    Processes read some pieces of chunks ahead, as they are stored; the rest is done here. They live for one iteration.

    Args:
        part: its samples are `labrun.data.streamed.Rows`.
        scaling, batch_size: and the rest, see `BatchLoader`.
        workers: how many processes read; 0: this one.
    """

    def __init__(self, part: Part, scaling: Scaling, batch_size: int, *, workers: int = 0, **given: Any) -> None:
        super().__init__(part, scaling, batch_size, **given)
        self._workers = workers
        self._per_piece = max(1, PIECE_BYTES * len(part) // max(1, part.x.nbytes))

    def _samples(self, x: Any) -> Any:
        return x

    def _stored(self, chunks: Sequence[slice | Tensor]) -> Iterator[Tensor]:
        pieces = [list(torch.split(_positions(chosen), self._per_piece)) for chosen in chunks]
        loader = DataLoader(
            _Pieces(self._x),
            sampler=[piece.numpy() for piece in itertools.chain(*pieces)],
            batch_size=None,
            collate_fn=_tensor_or_error,
            num_workers=self._workers,
            prefetch_factor=AHEAD if self._workers else None,
            worker_init_fn=_leave_interrupts,
            generator=torch.Generator(),  # else the workers' seeds would be drawn from the training's
        )
        read = iter(loader)
        for of_one in pieces:
            found = [_given(next(read)) for _ in of_one]
            yield found[0] if len(found) == 1 else torch.cat(found)


class _Pieces(Dataset[Any]):
    """Samples by arrays of positions; an error of labrun's is given, and not raised: it passes as it is."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __getitem__(self, positions: Any) -> Any:
        try:
            return self._rows[positions]
        except LabrunError as error:
            return error


def _tensor_or_error(found: Any) -> Any:
    return found if isinstance(found, LabrunError) else torch.from_numpy(found)


def _given(found: Any) -> Tensor:
    if isinstance(found, LabrunError):
        raise found
    assert isinstance(found, Tensor)
    return found


def _positions(chosen: slice | Tensor) -> Tensor:
    return torch.arange(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen


def _leave_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the run's own ends those that read for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _tensor(values: Any) -> Tensor:
    with warnings.catch_warnings():
        # Arrays that were read from a file may be read-only; nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def make_loader(part: Part, scaling: Scaling, batch_size: int, *, workers: int = 0, **given: Any) -> BatchLoader:
    """Batches of a part, wherever its samples are; see `BatchLoader` and `StreamedLoader`."""
    if isinstance(part.x, Rows):
        return StreamedLoader(part, scaling, batch_size, workers=workers, **given)
    return BatchLoader(part, scaling, batch_size, **given)


class RandomFlip:
    """Mirrors each image left to right with a given probability."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        flipped = torch.rand(len(x), generator=generator) < self.probability
        return torch.where(flipped[:, None, None, None], x.flip(-1), x)


class RandomCrop:
    """Shifts each image by up to `padding` pixels either way; what comes in from outside is its own edge, mirrored.

    Source: the augmentation of K. He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
    """

    def __init__(self, padding: int = 4) -> None:
        self.padding = padding

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count, channels, height, width = x.shape
        p = self.padding
        padded = torch.nn.functional.pad(x, (p, p, p, p), mode="reflect")
        top = torch.randint(0, 2 * p + 1, (count, 1), generator=generator)
        left = torch.randint(0, 2 * p + 1, (count, 1), generator=generator)
        rows = (top + torch.arange(height))[:, None, :, None]
        columns = (left + torch.arange(width))[:, None, None, :]
        samples = torch.arange(count)[:, None, None, None]
        planes = torch.arange(channels)[None, :, None, None]
        return padded[samples, planes, rows, columns]


class Compose:
    """One augmentation after another.

    Args:
        steps: the augmentations; null ones are left out.
    """

    def __init__(self, **steps: Augmentation | None) -> None:
        self.steps = [step for step in steps.values() if step is not None]

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            x = step(x, generator)
        return x
