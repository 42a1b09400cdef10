"""Loaders that slice batches from tensors in memory or from disk, instead of collating samples in worker processes.

The whole split is held in memory as stored (uint8 for images). A few batches at a time are gathered by index,
converted and normalised together, and split into views: small batches share the cost of the conversion, and large
batches stay in the processor's cache.
"""

from __future__ import annotations

import itertools
import math
import signal
import sys
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
"""Bytes of float32 converted at a time; about the size of a core's cache."""
PIECE_BYTES = 2**20
"""Bytes that a process reads from the disk at a time."""
PREFETCH = 4
"""Pieces that each process reads ahead."""

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Maps float images (N, C, H, W) and a generator to images of the same shape."""


class BatchLoader:
    """Iterates over one split of a data set in batches.

    Shapes:
        yields `(x, y)`: x (B, ...) float32, y (B,) int64; the last batch may be smaller.

    The order of epoch `e` depends on the seed and `e` alone, so a run that resumes at an epoch sees the same batches as
    an uninterrupted one.

    Args:
        part: the samples.
        scaling: normalisation of the stored values.
        batch_size: samples per batch.
        shuffle: draw a new order each epoch.
        seed: seed of the order and the augmentation.
        augmentation: applied to each converted chunk; None for evaluation.
        rank, ranks: this process takes every `ranks`-th sample, padded so that all processes get the same number.
            `ranks=None`: rank and size of torch's default process group when the iteration starts.
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
        """Lightning calls `set_epoch` on the sampler found here."""
        per_batch = max(1, math.prod(part.x.shape[1:]) * 4 * batch_size)
        self._batches_per_chunk = max(1, CHUNK_BYTES // per_batch)

    def __len__(self) -> int:
        return math.ceil(self._count() / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return epoch and batch of the iteration; Lightning stores them in its checkpoints."""
        return {"epoch": self._epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume at the saved position, if the saved epoch is the next one."""
        self._resumed = dict(state)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        resumed, self._resumed = self._resumed, None
        skipped = resumed["batches"] if resumed is not None and resumed["epoch"] == self._epoch else 0
        self._given = 0
        for batch in self._batches():
            self._given += 1
            # Batches already seen are drawn again and dropped, so the remaining ones get the same augmentation.
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
        """Yield the samples of each chunk as stored."""
        return (self._x[chosen] for chosen in chunks)

    @property
    def _place(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
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
    """Yields bit-identical batches from samples that stay on disk.

    Worker processes read pieces of chunks ahead, as stored; this process does the rest. Workers live for one iteration.

    Args:
        part: its samples are `labrun.data.streamed.Rows`.
        scaling, batch_size: see `BatchLoader`, also for the other arguments.
        workers: number of reader processes; 0: read in this process.
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
            multiprocessing_context=start_method(self._workers),
            prefetch_factor=PREFETCH if self._workers else None,
            worker_init_fn=_leave_interrupts,
            generator=torch.Generator(),  # keeps the workers' seeds off the training's generator
        )
        read = iter(loader)
        for of_one in pieces:
            found = [_given(next(read)) for _ in of_one]
            yield found[0] if len(found) == 1 else torch.cat(found)


def start_method(workers: int) -> str | None:
    """Return how labrun's own loaders start their processes; None: as Python does by default.

    A forked process shares the samples and the loaded libraries with the run, and ends with it. Since Python 3.14,
    forking is no longer Linux's default.

    Args:
        workers: number of processes; 0: the loader has none.
    """
    return "fork" if workers and sys.platform == "linux" else None


class _Pieces(Dataset[Any]):
    """Samples by arrays of positions. Returns labrun's errors instead of raising them, so torch does not wrap them."""

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
    """Ignore Ctrl-C, which reaches every process of a terminal: the run's process stops its readers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _tensor(values: Any) -> Tensor:
    with warnings.catch_warnings():
        # Arrays read from a file may be read-only; this module never writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


def make_loader(part: Part, scaling: Scaling, batch_size: int, *, workers: int = 0, **given: Any) -> BatchLoader:
    """Return the loader for a split, in memory or streamed; see `BatchLoader` and `StreamedLoader`."""
    if isinstance(part.x, Rows):
        return StreamedLoader(part, scaling, batch_size, workers=workers, **given)
    return BatchLoader(part, scaling, batch_size, **given)


class RandomFlip:
    """Flips each image horizontally with a given probability."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        flipped = torch.rand(len(x), generator=generator) < self.probability
        return torch.where(flipped[:, None, None, None], x.flip(-1), x)


class RandomCrop:
    """Shifts each image by up to `padding` pixels in both directions, with reflection padding at the edges.

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
    """Applies augmentations in sequence.

    Args:
        steps: the augmentations; null ones are skipped.
    """

    def __init__(self, **steps: Augmentation | None) -> None:
        self.steps = [step for step in steps.values() if step is not None]

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            x = step(x, generator)
        return x
