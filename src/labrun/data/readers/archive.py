"""Streaming of arrays in `.npz` files: where their data start, and checks of their values.

Each array is read once in full, to verify its checksum and check its values. A compressed array is decompressed at the
same time, into a temporary file that disappears with the run.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labrun.data.arrays import AnyArray
from labrun.data.numeric import Closeness
from labrun.data.streamed import BLOCK_BYTES, Records, Rows, SharedFile, spool
from labrun.errors import CorruptDataError, DataError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name."""
DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Scan:
    """Checks the numbers of an array block by block.

    Args:
        shape, dtype: shape and type of the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.wrong, self.has_infinity = 0, False
        self._columns = np.zeros(int(np.prod(shape[1:])), bool) if dtype.kind == "f" else None
        self.closeness = Closeness() if len(shape) == 2 else None

    def add(self, block: AnyArray) -> None:
        """Check further samples."""
        if self._columns is not None:
            found = ~np.isfinite(block.reshape(len(block), -1))
            self.wrong += int(found.sum())
            self._columns |= found.any(axis=0)
            self.has_infinity |= bool(np.isinf(block).any())
        if self.closeness is not None:
            self.closeness.add(block)

    @property
    def columns(self) -> list[int]:
        """Indices of columns with values that are not finite."""
        return [] if self._columns is None else np.flatnonzero(self._columns).tolist()


@dataclass(frozen=True)
class Stored:
    """An array that stays in a file."""

    file: SharedFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scan: Scan
    name: str

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def rows(self, channels_last: bool = False) -> Rows:
        """Return the samples as streamed rows; see `Records`."""
        return Rows(
            Records(self.file, self.offset, self.shape[0], self.shape[1:], self.dtype, channels_last, self.name)
        )


@dataclass(frozen=True)
class Header:
    """Header of an `.npy` member."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]
    length: int
    """Bytes of the header."""

    @property
    def values(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_of_samples(self) -> bool:
        return len(self.shape) > 1 and self.dtype.kind in "biuf" and self.values > 0


def headers(path: Path) -> list[Header]:
    """Return the headers of the arrays of an `.npz` file.

    Raises:
        CorruptDataError: the file is not an `.npz` file, or holds Python objects.
    """
    with _opened(path) as archive:
        return [_header(archive, info) for info in archive.infolist()]


def needed(path: Path) -> int:
    """Return the bytes that the arrays take in memory, including their float32 copies.

    Raises:
        CorruptDataError: the file is not an `.npz` file, or holds Python objects.
    """
    return sum(one.values * (one.dtype.itemsize + (0 if one.dtype == np.uint8 else 4)) for one in headers(path))


def arrays(path: Path, samples: Collection[str]) -> dict[str, AnyArray | Stored]:
    """Return the arrays of an `.npz` file; arrays of samples stay on disk.

    Args:
        path: the file.
        samples: possible names of the arrays of samples.

    Raises:
        CorruptDataError: the file is not an `.npz` file, is damaged, or holds Python objects.
        DataError: an array is stored in column order, or there is no space to decompress it.
    """
    found: dict[str, AnyArray | Stored] = {}
    with _opened(path) as archive:
        for info in archive.infolist():
            name, header = info.filename.removesuffix(".npy"), _header(archive, info)
            if name in samples and header.is_of_samples:
                found[name] = _stored(path, archive, info, header)
            else:
                with archive.open(info) as stream:
                    found[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return found


class _opened:  # noqa: N801 - a context manager, called as a function
    """Opens a zip archive and translates its errors into labrun's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> zipfile.ZipFile:
        if not zipfile.is_zipfile(self._path):
            raise CorruptDataError(f"{self._path} is not a readable .npz file")
        self._archive = zipfile.ZipFile(self._path)
        return self._archive

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._archive.close()
        if isinstance(error, DAMAGED) and not isinstance(error, DataError):
            raise CorruptDataError(f"{self._path} is not a readable .npz file: {error}") from error


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise ValueError(f"{info.filename} has a header of version {version}")
        shape, by_columns, dtype = HEADERS[version](stream)
        if dtype.hasobject:
            raise CorruptDataError(
                f"{archive.filename} holds Python objects, and loading those runs code: save arrays of numbers or text"
            )
        return Header(shape, by_columns and len(shape) > 1, dtype, stream.tell())


def _stored(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header) -> Stored:
    if header.by_columns:
        raise DataError(
            f"{path}: {info.filename} is stored by columns (Fortran order), but streaming needs rows: save "
            "numpy.ascontiguousarray of it, or set dataset.in_memory=true"
        )
    scan, is_packed = Scan(header.shape, header.dtype), info.compress_type != zipfile.ZIP_STORED
    total = header.values * header.dtype.itemsize
    with spool(total, f"{path.name}: {info.filename}, unpacked,") if is_packed else open(path, "rb") as file:
        offset = 0 if is_packed else _begin(file, info) + header.length
        for block in _blocks(archive, info, header):
            scan.add(block)
            if is_packed:
                file.write(block.data.cast("B"))
        file.flush()
        return Stored(SharedFile(file), offset, header.shape, header.dtype, scan, str(path))


def _begin(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return the offset of a member's data, after its local header, name and extra field."""
    file.seek(info.header_offset)
    head = file.read(LOCAL_HEADER)
    return (
        info.header_offset + LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:], "little")
    )


def _blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header) -> Iterator[AnyArray]:
    each = header.dtype.itemsize * int(np.prod(header.shape[1:]))
    step, left = max(1, BLOCK_BYTES // each), header.shape[0]
    with archive.open(info) as stream:
        stream.read(header.length)
        while left:
            count = min(step, left)
            raw = stream.read(count * each)
            if len(raw) < count * each:
                raise EOFError(f"{info.filename} ends early")
            yield np.frombuffer(raw, header.dtype).reshape(count, *header.shape[1:])
            left -= count
        stream.read(1)  # zipfile checks the CRC at the end
