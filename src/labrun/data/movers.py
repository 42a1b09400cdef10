"""Moving whole files with the vendors' own libraries: threads of theirs, chunks of ours, so that memory stays flat.

fsspec's file systems for Azure and S3 do everything in one thread, and are half as fast with several files at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from labrun.data.datastore import CHUNK_BYTES, ProgressCallback
from labrun.errors import DataError

RANGE_BYTES = 4 * CHUNK_BYTES
"""What is asked for in one request where a file is read in ranges."""
TRIES = 4
"""So many transfers in a row may break off before a single byte has come."""

CHANGED, EMPTY = 412, 416
"""What a server answers if a file is another one now, or has not the bytes that are asked for."""


class Mover(Protocol):
    """Moves one file; safe to be used from several threads."""

    def send(self, source: str, path: str, streams: int, heard: ProgressCallback, only_new: bool) -> None:
        """Put a local file there: it comes to be once all of it has arrived; with `only_new` if no other is there."""

    def fetch(self, path: str, target: BinaryIO, streams: int, heard: ProgressCallback) -> None:
        """Write a file's content to an open local one."""


class AzureMover:
    """Azure's library.

    Args:
        fs: adlfs's file system, which has found out how to authenticate.
    """

    def __init__(self, fs: Any) -> None:
        from azure.storage.blob import BlobServiceClient

        sizes = dict.fromkeys(
            ("max_single_put_size", "max_block_size", "max_single_get_size", "max_chunk_get_size"), CHUNK_BYTES
        )
        if fs.connection_string is not None:
            self._client = BlobServiceClient.from_connection_string(fs.connection_string, **sizes)
        elif fs.sas_token is not None:
            self._client = BlobServiceClient(fs.account_url + fs.sas_token, **sizes)
        else:
            self._client = BlobServiceClient(fs.account_url, credential=fs.account_key or fs.sync_credential, **sizes)

    def send(self, source: str, path: str, streams: int, heard: ProgressCallback, only_new: bool) -> None:
        """As `Mover.send`."""
        with open(source, "rb") as file:
            self._blob(path).upload_blob(
                file, overwrite=not only_new, max_concurrency=streams, progress_hook=Since(heard)
            )

    def fetch(self, path: str, target: BinaryIO, streams: int, heard: ProgressCallback) -> None:
        """As `Mover.fetch`. What comes goes to the disk as it comes; the library's own way keeps it three times."""
        fetching = _Fetching(self._blob(path), target.fileno(), heard)
        if streams <= 1:
            fetching.move(0, None)
            return
        fetching.move(0, RANGE_BYTES)
        with ThreadPoolExecutor(streams) as pool:
            starts = range(RANGE_BYTES, fetching.size, RANGE_BYTES)
            list(pool.map(lambda start: fetching.move(start, min(fetching.size, start + RANGE_BYTES)), starts))

    def _blob(self, path: str) -> Any:
        container, _, name = path.partition("/")
        return self._client.get_blob_client(container, name)


class _Fetching:
    """A blob on its way to a local file; ranges of it may be on their way at the same time.

    Args:
        blob: the library's client of it.
        descriptor: of the file, open for writing.
        heard: is told how many bytes have come.
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


class S3Mover:
    """boto3.

    Args:
        settings: the datastore's keys: `endpoint_url`, `region`, `profile`, `key`, `secret`, `token`, `anon`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        session = boto3.Session(
            aws_access_key_id=settings.get("key"),
            aws_secret_access_key=settings.get("secret"),
            aws_session_token=settings.get("token"),
            profile_name=settings.get("profile"),
            region_name=settings.get("region"),
        )
        signature = {"signature_version": UNSIGNED} if settings.get("anon") else {}
        config = Config(max_pool_connections=32, **signature)
        self._client, self._careful = (
            session.client("s3", endpoint_url=settings.get("endpoint_url"), config=config) for _ in range(2)
        )
        for operation in ("PutObject", "CompleteMultipartUpload"):
            self._careful.meta.events.register(f"provide-client-params.s3.{operation}", _if_new)

    def send(self, source: str, path: str, streams: int, heard: ProgressCallback, only_new: bool) -> None:
        """As `Mover.send`."""
        bucket, _, key = path.partition("/")
        client = self._careful if only_new else self._client
        client.upload_file(source, bucket, key, Callback=heard, Config=_chunked(streams))

    def fetch(self, path: str, target: BinaryIO, streams: int, heard: ProgressCallback) -> None:
        """As `Mover.fetch`."""
        bucket, _, key = path.partition("/")
        self._client.download_fileobj(bucket, key, target, Callback=heard, Config=_chunked(streams))


class Since:
    """Passes on what has moved since it was last called with the sum."""

    def __init__(self, heard: ProgressCallback) -> None:
        self._heard, self._before = heard, 0

    def __call__(self, current: int, total: int | None) -> None:
        self._heard(max(0, current - self._before))
        self._before = max(current, self._before)


def _if_new(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    """What a request that is to put a file in place says, so that nobody else's is put away by it."""
    return {**params, "IfNoneMatch": "*"}


def _chunked(streams: int) -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=CHUNK_BYTES,
        multipart_chunksize=CHUNK_BYTES,
        max_concurrency=streams,
        use_threads=streams > 1,
    )
