"""Azure Blob Storage: containers, through adlfs; whole files through Azure's own library.

adlfs does everything in one thread, and is half as fast with several files at a time.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from labrun.data.stores.base import CHUNK_BYTES, ProgressCallback
from labrun.data.stores.objects import ObjectDatastore
from labrun.data.stores.remote import RemoteDatastore
from labrun.errors import DataError

CREDENTIALS = ("account_key", "connection_string", "sas_token", "credential")
RANGE_BYTES = 4 * CHUNK_BYTES
"""What is asked for in one request where a file is read in ranges."""
TRIES = 4
"""So many transfers in a row may break off before a single byte has come."""

CHANGED, EMPTY = 412, 416
"""What a server answers if a file is another one now, or has not the bytes that are asked for."""


class AzureBlobDatastore(ObjectDatastore):
    """A container of Azure Blob Storage, or a folder in it."""

    package, extra = "adlfs", "azure"
    tokens = ("etag", "last_modified")
    talkative = (*RemoteDatastore.talkative, "azure", "adlfs")
    top_is = "container"

    def _connected(self, arguments: dict[str, Any]) -> Any:
        if not any(arguments.get(key) for key in CREDENTIALS):
            arguments.setdefault("anon", False)  # the vendor's own chain: az login, a managed identity
        return super()._connected(arguments)

    def _address(self, fs: Any) -> str | None:
        return str(fs.service_client.url)

    def _send(self, source: Path, path: str, heard: ProgressCallback, only_new: bool) -> None:
        self._make_top()
        with open(source, "rb") as file:
            self._blob(path).upload_blob(
                file, overwrite=not only_new, max_concurrency=self.streams, progress_hook=_Since(heard)
            )

    def _fetch(self, path: str, target: BinaryIO, heard: ProgressCallback) -> None:
        """What comes goes to the disk as it comes; the library's own way keeps it three times."""
        fetching = _Fetching(self._blob(path), target.fileno(), heard)
        if self.streams <= 1:
            fetching.move(0, None)
            return
        fetching.move(0, RANGE_BYTES)
        with ThreadPoolExecutor(self.streams) as pool:
            starts = range(RANGE_BYTES, fetching.size, RANGE_BYTES)
            list(pool.map(lambda start: fetching.move(start, min(fetching.size, start + RANGE_BYTES)), starts))

    def _is_missing(self, error: Exception) -> bool:
        from azure.core.exceptions import ResourceNotFoundError

        return isinstance(error, ResourceNotFoundError)

    def _is_taken(self, error: Exception) -> bool:
        from azure.core.exceptions import ResourceExistsError

        return isinstance(error, ResourceExistsError)

    def _blob(self, path: str) -> Any:
        container, _, name = path.partition("/")
        return self._client.get_blob_client(container, name)

    @functools.cached_property
    def _client(self) -> Any:
        """Azure's own client, authenticated as adlfs has found out how to; safe to be used from several threads."""
        from azure.storage.blob import BlobServiceClient

        fs = self._fs
        sizes = dict.fromkeys(
            ("max_single_put_size", "max_block_size", "max_single_get_size", "max_chunk_get_size"), CHUNK_BYTES
        )
        if fs.connection_string is not None:
            return BlobServiceClient.from_connection_string(fs.connection_string, **sizes)
        if fs.sas_token is not None:
            return BlobServiceClient(fs.account_url + fs.sas_token, **sizes)
        return BlobServiceClient(fs.account_url, credential=fs.account_key or fs.sync_credential, **sizes)


class _Fetching:
    """A blob on its way to a local file; ranges of it may be on their way at the same time.

    Args:
        blob: the library's client of it.
        descriptor: of the file, open for writing.
        heard: called with the number of bytes received.
    """

    def __init__(self, blob: Any, descriptor: int, heard: ProgressCallback) -> None:
        # The generated client: `download_blob` reads whole chunks into memory before it gives them away.
        self._download = blob._client.blob.download
        self._name, self._descriptor, self._heard = blob.blob_name, descriptor, heard
        self._etag: str | None = None
        self.size = 0
        """Of the whole blob; known once anything has come."""

    def move(self, start: int, end: int | None) -> None:
        """Write what lies from `start` to `end` (None: to its end) to the same place of the file.

        Raises:
            AzureError: it cannot be read.
            DataError: it was changed meanwhile.
        """
        from azure.core.exceptions import HttpResponseError, ServiceResponseError
        from urllib3.exceptions import HTTPError

        left = TRIES
        while left:
            pieces = self._ask(start, end)
            end = self.size if end is None else min(end, self.size)
            begun = start
            try:
                for piece in pieces:
                    self._write(piece, start)
                    start += len(piece)
                    self._heard(len(piece))
                if start >= end:
                    return
                raise ServiceResponseError(f"the transfer ended {end - start} bytes early")
            except (HttpResponseError, ServiceResponseError, HTTPError):
                left = left - 1 if start == begun else TRIES
                if not left:
                    raise
                self._heard(0)  # it says if there is no more need
                time.sleep(0.5)

    def _ask(self, start: int, end: int | None) -> Iterator[bytes]:
        """Ask for a range, or all of it; size and ETag are known then."""
        from azure.core.exceptions import HttpResponseError

        given: dict[str, Any] = {"headers": {"If-Match": self._etag}} if self._etag else {}
        if start or end is not None:
            given["range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            headers, pieces = self._download(decompress=False, cls=lambda _, body, headers: (headers, body), **given)
        except HttpResponseError as error:
            if error.status_code == EMPTY and start == 0:
                return iter(())
            if error.status_code == CHANGED:
                raise DataError(f"{self._name} was changed while it was read: try again") from error
            raise
        self._etag = str(headers["ETag"])
        ranged = headers.get("Content-Range")
        self.size = int(str(ranged).rpartition("/")[2]) if ranged else int(headers["Content-Length"])
        found: Iterator[bytes] = pieces
        return found

    def _write(self, piece: bytes, place: int) -> None:
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(self._descriptor, rest, place)
            rest, place = rest[written:], place + written


class _Since:
    """Passes on what has moved since it was last called with the sum."""

    def __init__(self, heard: ProgressCallback) -> None:
        self._heard, self._before = heard, 0

    def __call__(self, current: int, total: int | None) -> None:
        self._heard(max(0, current - self._before))
        self._before = max(current, self._before)
