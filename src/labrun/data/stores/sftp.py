"""A folder on a machine reached over SSH (SFTP)."""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from labrun.data.stores.base import CHUNK_BYTES, ProgressCallback
from labrun.data.stores.remote import RemoteDatastore
from labrun.errors import DataError

if TYPE_CHECKING:
    from labrun.config.instantiate import Node

PIECE_BYTES = 2**15
"""Bytes that SFTP returns per request."""
TRIES = 6
WAIT_S = 0.5


class SFTPDatastore(RemoteDatastore):
    """Files on another machine. Each thread has its own connection, which ends with the thread or the datastore:
    paramiko's are not thread-safe.
    """

    package, extra = "paramiko", "sftp"
    tokens = ("mtime",)
    talkative = (*RemoteDatastore.talkative, "paramiko")

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._of_thread = threading.local()

    @property
    def _fs(self) -> Any:
        if not hasattr(self._of_thread, "fs"):
            self._of_thread.fs = self._open()
        return self._of_thread.fs

    def _connected(self, arguments: dict[str, Any]) -> Any:
        return _file_system()(**arguments, skip_instance_cache=True)

    def _fetch(self, path: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        with self._fs.ftp.open(path, "rb") as content:
            _copy_ahead(content, target, on_progress)

    @contextlib.contextmanager
    def _writing(self, partial: str, path: str) -> Iterator[Any]:
        with self._fs.open(partial, "wb") as file:
            file.set_pipelined(True)
            yield file
            sent = file.tell()
        kept = int(self._fs.ftp.stat(partial).st_size or 0)
        if kept != sent:
            raise DataError(f"{path}: the host stored {kept:,} of {sent:,} bytes. Is its disk or a quota full?")

    def _put_in_place(self, partial: str, path: str, only_new: bool) -> None:
        if not only_new:
            self._fs.ftp.posix_rename(partial, path)
            return
        try:
            self._fs.ftp.rename(partial, path)  # fails where the name is taken
        except OSError as error:
            if not self._fs.exists(path):
                raise
            raise FileExistsError(path) from error

    def _drop_empty(self, folder: str) -> None:
        """SFTP folders are real, so an empty one would show up in listings."""
        while folder and not self._fs.ls(self.path(folder), detail=False):
            self._fs.rmdir(self.path(folder))
            folder = folder.rpartition("/")[0]


@functools.cache
def _file_system() -> Any:
    """Return a subclass of fsspec's class that uses `ssh`'s known hosts and retries when a server is busy.

    Defined on demand, because paramiko may not be installed.
    """
    import paramiko
    from fsspec.implementations.sftp import SFTPFileSystem

    class KnowingSFTP(SFTPFileSystem):  # type: ignore[misc]
        """SFTP with known hosts: fsspec's class loads none, so its `host_key_policy` would apply to every host."""

        def _connect(self) -> None:
            for left in reversed(range(TRIES)):
                self.client = paramiko.SSHClient()
                self.client.load_system_host_keys()
                self.client.set_missing_host_key_policy(self.host_key_policy)
                try:
                    self.client.connect(self.host, **self.ssh_kwargs)
                    break
                except (paramiko.AuthenticationException, paramiko.BadHostKeyException):
                    raise
                except (paramiko.SSHException, EOFError, ConnectionResetError):
                    # sshd drops some of many simultaneous connections (MaxStartups).
                    self.client.close()
                    if not left:
                        raise
                    time.sleep(random.uniform(0.5, 1.5) * WAIT_S)
            # The thread that paramiko starts would keep the connection open for as long as this process lives.
            weakref.finalize(self, self.client.close).atexit = False
            self.ftp = self.client.open_sftp()

    return KnowingSFTP


def _copy_ahead(content: Any, target: BinaryIO, on_progress: ProgressCallback) -> None:
    """Copy an SFTP file to a local one, requesting all pieces of a chunk at once.

    paramiko's own `getfo` requests the whole file, buffers data that arrive faster than they are written, and searches
    the whole buffer for each piece.

    Raises:
        DataError: the file was truncated meanwhile.
    """
    size = int(content.stat().st_size or 0)
    for start in range(0, size, CHUNK_BYTES):
        end = min(size, start + CHUNK_BYTES)
        pieces = [(place, min(PIECE_BYTES, end - place)) for place in range(start, end, PIECE_BYTES)]
        for (place, length), piece in zip(pieces, content.readv(pieces), strict=True):
            if len(piece) != length:
                raise DataError(f"a file ended at {place + len(piece):,} of {size:,} bytes: was it changed meanwhile?")
            target.write(piece)
            on_progress(length)
