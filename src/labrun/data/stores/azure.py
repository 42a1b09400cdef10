"""Azure Blob Storage: containers through adlfs, whole files through Azure's own library.

adlfs runs everything in one thread, which halves the speed with several files at a time.
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
"""Bytes per request when a file is read in ranges."""
TRIES = 4
"""Attempts in a row that may fail without receiving a byte."""

CHANGED, EMPTY = 412, 416
"""HTTP status codes: the file has changed; it does not have the requested range."""


class AzureBlobDatastore(ObjectDatastore):
    """A container of Azure Blob Storage, or a folder in it."""

    package, extra = "adlfs", "azure"
    tokens = ("etag", "last_modified")
    talkative = (*RemoteDatastore.talkative, "azure", "adlfs")
    top_is = "container"

    def _connected(self, arguments: dict[str, Any]) -> Any:
        if not any(arguments.get(key) for key in CREDENTIALS):
            arguments.setdefault("anon", False)  # Azure's default chain: az login, a managed identity
        return super()._connected(arguments)

    def _address(self, fs: Any) -> str | None:
        return str(fs.service_client.url)

    def _send(self, source: Path, path: str, on_progress: ProgressCallback, only_new: bool) -> None:
        self._make_top()
        with open(source, "rb") as file:
            self._blob(path).upload_blob(
                file, overwrite=not only_new, max_concurrency=self.streams, progress_hook=_Since(on_progress)
            )

    def _fetch(self, path: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        """Write data to disk as they arrive; the library's own download holds them in memory three times."""
        fetching = _Fetching(self._blob(path), target.fileno(), on_progress)
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
        """Azure's own client, which is thread-safe, with the credentials that adlfs resolved."""
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
    """Download of a blob to a local file; several ranges may be in transit at once.

    Args:
        blob: the library's client for the blob.
        descriptor: descriptor of the local file, open for writing.
        on_progress: called with the number of bytes received.
    """

    def __init__(self, blob: Any, descriptor: int, on_progress: ProgressCallback) -> None:
        # The generated client, because `download_blob` reads whole chunks into memory before it returns them.
        self._download = blob._client.blob.download
        self._name, self._descriptor, self._on_progress = blob.blob_name, descriptor, on_progress
        self._etag: str | None = None
        self.size = 0
        """Size of the whole blob; known once data have arrived."""

    def move(self, start: int, end: int | None) -> None:
        """Copy the bytes from `start` to `end` (None: the end of the blob) to the same offset of the file.

        Raises:
            AzureError: the blob cannot be read.
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
                    self._on_progress(len(piece))
                if start >= end:
                    return
                raise ServiceResponseError(f"the transfer ended {end - start} bytes early")
            except (HttpResponseError, ServiceResponseError, HTTPError):
                left = left - 1 if start == begun else TRIES
                if not left:
                    raise
                self._on_progress(0)  # raises if the transfer was aborted
                time.sleep(0.5)

    def _ask(self, start: int, end: int | None) -> Iterator[bytes]:
        """Request a range or the whole blob; set size and ETag."""
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
    """Converts cumulative progress into increments."""

    def __init__(self, on_progress: ProgressCallback) -> None:
        self._on_progress, self._before = on_progress, 0

    def __call__(self, current: int, total: int | None) -> None:
        self._on_progress(max(0, current - self._before))
        self._before = max(current, self._before)
