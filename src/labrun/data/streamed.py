"""Samples that stay on disk: they take the place of arrays and are read block by block.

`Rows` holds only positions, so splitting, limiting and sharding need no memory; its `SampleSource` reads the samples.
Several processes may read from a source at once.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from labrun.data.arrays import AnyArray
from labrun.errors import CorruptDataError, DataError
from labrun.messages import size_text
from labrun.runs import store
from labrun.runs.workspace import Workspace

BLOCK_BYTES = 8 * 2**20
"""Bytes read at a time when iterating over all samples."""
FOLDER_VARIABLE = "TMPDIR"


class SampleSource(ABC):
    """Reads samples of one shape by their positions.

    Args:
        count: number of samples.
        shape: shape of one sample.
        dtype: type of its values.
    """

    def __init__(self, count: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.count, self.shape, self.dtype = count, shape, np.dtype(dtype)

    @abstractmethod
    def read(self, positions: npt.NDArray[np.int64]) -> AnyArray:
        """Read the samples at the given positions: (N, *shape).

        Raises:
            DataError: a sample cannot be read.
        """


class Rows:
    """Ordered selection of a source's samples. `rows[index]` reads them; `pick` only selects."""

    def __init__(self, source: SampleSource, order: npt.NDArray[np.int64] | None = None) -> None:
        self._source, self._order = source, order

    def __len__(self) -> int:
        return self._source.count if self._order is None else len(self._order)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as of an array: (N, ...)."""
        return (len(self), *self._source.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions, including those of a sample."""
        return 1 + len(self._source.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self._source.dtype

    @property
    def nbytes(self) -> int:
        """Size that the samples would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> AnyArray:
        return self._source.read(self._positions(index))

    def pick(self, index: Any) -> Rows:
        """Select samples by position without reading them."""
        return Rows(self._source, self._positions(index))

    def blocks(self, size: int | None = None) -> Iterator[AnyArray]:
        """Yield all samples in blocks.

        Args:
            size: samples per block; None: about `BLOCK_BYTES`.
        """
        each = max(1, math.prod(self._source.shape) * self.dtype.itemsize)
        step = size or max(1, BLOCK_BYTES // each)
        for start in range(0, len(self), step):
            yield self[start : start + step]

    def _positions(self, index: Any) -> npt.NDArray[np.int64]:
        if self._order is not None:
            return np.atleast_1d(self._order[index])
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)), dtype=np.int64)
        if np.asarray(index).dtype == bool:
            return np.atleast_1d(np.arange(len(self))[index])
        found = np.atleast_1d(np.asarray(index, dtype=np.int64))
        found = np.where(found < 0, found + len(self), found)
        if ((found < 0) | (found >= len(self))).any():
            raise IndexError(f"there are {len(self):,} samples, and {index!r} was asked for")
        return found


class Files(SampleSource):
    """Source with one file per sample.

    Args:
        paths: the files.
        shape, dtype: see `SampleSource`.
        load: reads one file.
    """

    def __init__(
        self, paths: Sequence[Path], shape: tuple[int, ...], dtype: npt.DTypeLike, load: Callable[[Path], AnyArray]
    ) -> None:
        super().__init__(len(paths), shape, dtype)
        # One array instead of many objects: forked processes then share it, as no reference counts are written.
        self._paths = np.array([os.fsencode(path) for path in paths])
        self._load = load

    def read(self, positions: npt.NDArray[np.int64]) -> AnyArray:
        found = np.empty((len(positions), *self.shape), self.dtype)
        for place, position in enumerate(positions):
            found[place] = self._load(Path(os.fsdecode(self._paths[position])))
        return found


class SharedFile:
    """A file kept open as long as it is in use, also in processes that are forked, spawned or receive it pickled.

    Args:
        file: open for reading; it is duplicated and closed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._hold(os.dup(file.fileno()))
        file.close()

    def _hold(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)

    def __reduce__(self) -> tuple[Callable[[Any], SharedFile], tuple[Any]]:
        """Pass the open descriptor to the other process: the file may have been unlinked."""
        from multiprocessing import reduction

        return _received, (reduction.DupFd(self.number),)


def _received(passed: Any) -> SharedFile:
    found = SharedFile.__new__(SharedFile)
    found._hold(passed.detach())
    return found


class Records(SampleSource):
    """Samples stored contiguously in a file, in the layout of a NumPy array.

    Args:
        file: the file.
        offset: byte offset of the first sample.
        count: number of samples.
        stored: shape of a stored sample.
        dtype: type of the stored values. All but uint8 become float32.
        channels_last: the samples are images (H, W, C), which become (C, H, W). Samples (H, W) always become (1, H, W).
        name: name of the file, for messages.
    """

    def __init__(
        self,
        file: SharedFile,
        offset: int,
        count: int,
        stored: tuple[int, ...],
        dtype: npt.DTypeLike,
        channels_last: bool = False,
        name: object = "",
    ) -> None:
        self.stored, self.stored_dtype = stored, np.dtype(dtype)
        shape = (1, *stored) if len(stored) == 2 else (stored[2], *stored[:2]) if channels_last else stored
        super().__init__(count, shape, np.uint8 if self.stored_dtype == np.uint8 else np.float32)
        self._file, self._offset, self._last, self._name = file, offset, channels_last, name
        self._each = math.prod(stored) * self.stored_dtype.itemsize

    def read(self, positions: npt.NDArray[np.int64]) -> AnyArray:
        found = self.read_stored(positions)
        if len(self.stored) == 2:
            found = found[:, None]
        elif self._last:
            found = np.ascontiguousarray(found.transpose(0, 3, 1, 2))
        return found if found.dtype == np.uint8 else found.astype(np.float32)

    def read_stored(self, positions: npt.NDArray[np.int64]) -> AnyArray:
        """Read the samples as stored; contiguous ones are read together."""
        raw = np.empty((len(positions), self._each), np.uint8)
        breaks = np.flatnonzero(np.diff(positions) != 1) + 1
        for start, stop in zip([0, *breaks], [*breaks, len(positions)], strict=True):
            if stop > start:
                self._fill(raw[start:stop].data.cast("B"), self._offset + int(positions[start]) * self._each)
        return raw.view(self.stored_dtype).reshape(len(positions), *self.stored)

    def _fill(self, view: memoryview, place: int) -> None:
        while view:
            count = os.preadv(self._file.number, [view], place)
            if not count:
                raise CorruptDataError(f"{self._name} ends before its last sample: it was truncated while being read")
            view, place = view[count:], place + count


def spool(needed: int, what: str) -> BinaryIO:
    """Return an empty temporary file for samples that cannot be read in place; it vanishes when it is closed.

    It is created in TMPDIR if that is set, otherwise in the workspace, since `/tmp` may be in memory.

    Args:
        needed: number of bytes that it will hold.
        what: description of the content, for messages.

    Raises:
        DataError: there is not enough space.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    folder = Path(given) if given else Workspace(store.workspace()).state
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise DataError(
                f"{what} takes {size_text(needed)} of disk space during the run, but {folder} has only "
                f"{size_text(free)}: set {FOLDER_VARIABLE} to another folder"
            )
        return tempfile.TemporaryFile(dir=folder, prefix="streamed-")
    except OSError as error:
        raise DataError(f"{what} cannot be written to {folder}: {error}. {FOLDER_VARIABLE} sets another") from error
