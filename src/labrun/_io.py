"""What several rooms do with files, each once. Scripts' own interpreters import it too: Python 3.6, no library."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def partial_of(path: Path, suffix: str = ".partial", prefix: str = ".") -> Path:
    """A name beside a file that no other writer takes, of the same process or another one."""
    return path.with_name(f"{prefix}{path.name[:100]}.{os.getpid()}-{os.urandom(3).hex()}{suffix}")


@contextlib.contextmanager
def atomic_write(
    path: Path, to_disk: bool = False, only_new: bool = False, partial: Path | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """A file, open for writing, that takes its name in one step once it is whole; after an error nothing is left of it.

    Args:
        path: the file; what is there is replaced.
        to_disk: wait until the disk has the content: it then survives a power failure.
        only_new: leave what is there.
        partial: its name until then; None: a hidden one beside it.
        mode: its permissions, less the umask.

    Raises:
        FileExistsError: it was to be new, and is there.
        OSError: it cannot be written.
    """
    partial = partial or partial_of(path)
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            if to_disk:
                file.flush()
                os.fsync(file.fileno())
        if only_new:
            os.link(partial, path)
        else:
            os.replace(partial, path)
    except BaseException:
        _drop(partial)
        raise
    if only_new:
        _drop(partial)


def _drop(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def append_line(path: str | os.PathLike[str], text: str, mode: int = 0o644, durable: bool = False) -> None:
    """Add a line to a file, such as one of JSON; it is made where it is not there.

    Args:
        path: the file.
        text: the line, without its end.
        mode: the permissions of a new file, less the umask.
        durable: wait until the disk has the line; and begin one of its own where a power failure has torn the last.

    Raises:
        OSError: it cannot be written as a whole.
    """
    access = os.O_RDWR if durable else os.O_WRONLY
    descriptor = os.open(path, access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        if durable and _is_torn(descriptor):
            text = f"\n{text}"
        write_line(descriptor, text)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_torn(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"


def write_line(descriptor: int, text: str) -> None:
    """Add a line to a file that is open for appending, in one write: lines of several processes do not mix.

    Raises:
        OSError: it cannot be written as a whole.
    """
    data = f"{text}\n".encode()
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hex digits.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """As `file_sha256`, of a file that is open for reading."""
    import hashlib

    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # its type has no `readinto`
