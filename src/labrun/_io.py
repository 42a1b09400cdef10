"""Shared file operations. Scripts' own interpreters import this too: Python 3.6, standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

TRUSTED_AGE_NS = 2 * 10**9
"""Age, in nanoseconds, from which a file's times show any later change, even if its file system counts in seconds."""

Result = TypeVar("Result")


class FileStamp(NamedTuple):
    """Identity, size and times of a file. While they stay the same, so does the content that was read under them.

    This needs a stamp that was old enough before the content was read: a file that has just changed can change again
    within the same tick of its file system's clock. (Not for scripts' own interpreters: Python 3.6 loads this module
    without annotations, so without these fields.)
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> FileStamp:
        """Return the stamp of a file, or of the file that a link points to.

        Raises:
            OSError: the file does not exist, or its folder cannot be read.
        """
        status = os.stat(path)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_old_enough(self) -> bool:
        """Return whether both times are old enough for any later change to show in them."""
        return time.time_ns() - max(self.mtime_ns, self.ctime_ns) >= TRUSTED_AGE_NS


def read_once(path: Path | str, held: dict[str, tuple[FileStamp, Result]], read: Callable[[], Result]) -> Result:
    """Return what `read` makes of a file; it is not called again while the file's stamp stays the same.

    Args:
        path: the file.
        held: earlier results by path, to which this one is added if its stamp is old enough.
        read: reads the file.

    Raises:
        OSError: the file cannot be read.
    """
    stamp, key = FileStamp.of(path), str(path)
    is_reliable = stamp.is_old_enough()
    if key not in held or held[key][0] != stamp:
        result = read()
        if not is_reliable:
            return result
        held[key] = stamp, result
    return held[key][1]


def run_command(command: list[str], timeout_s: float = 20.0) -> str | None:
    """Return the output of a command; None if it fails, or takes too long."""
    import subprocess  # scripts' own interpreters import this module, and seldom need it

    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


@contextlib.contextmanager
def environ_overlay(variables: Mapping[str, str]) -> Iterator[None]:
    """In the context, set environment variables; afterwards, restore them, and leave all others as they are."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def environ_restored() -> Iterator[None]:
    """After the context, restore all environment variables."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def partial_of(path: Path, suffix: str = ".partial", prefix: str = ".") -> Path:
    """Return the path of a temporary file in the same folder, unique to this writer."""
    return path.with_name(f"{prefix}{path.name[:100]}.{os.getpid()}-{os.urandom(3).hex()}{suffix}")


@contextlib.contextmanager
def atomic_write(
    path: Path, to_disk: bool = False, only_new: bool = False, partial: Path | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """Open a file for writing and move it into place atomically once it is complete; after an error, delete it.

    Args:
        path: the file; an existing one is replaced.
        to_disk: sync the content to disk, so that it survives a power failure.
        only_new: do not replace an existing file.
        partial: path of the temporary file; None: a hidden file in the same folder.
        mode: permissions, before the umask is applied.

    Raises:
        FileExistsError: with `only_new`, the file exists.
        OSError: the file cannot be written.
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
    """Append a line to a file, such as JSON lines. The file is created if it does not exist.

    Args:
        path: the file.
        text: the line, without its newline.
        mode: permissions of a new file, before the umask is applied.
        durable: sync the line to disk, and start a new line if a power failure left the last one incomplete.

    Raises:
        OSError: the line cannot be written completely.
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
    """Append a line to an open file in a single write, so that lines of several processes do not mix.

    Raises:
        OSError: the line cannot be written completely.
    """
    data = f"{text}\n".encode()
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, in hex.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file that is open for reading, in hex."""
    import hashlib

    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # its type has no `readinto`
