"""Moving whole files with the vendors' own libraries: threads of theirs, chunks of ours, so that memory stays flat.

fsspec's file systems for Azure and S3 do everything in one thread, and are half as fast with several files at a time.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from labrun.data.datastore import CHUNK_BYTES, Heard

RANGE_BYTES = 4 * CHUNK_BYTES
"""What is asked for in one request where a file is read in ranges."""
TRIES = 4
"""How often a range whose transfer broke off is gone on with."""


class Mover(Protocol):
    """Moves one file; safe to be used from several threads."""

    def send(self, source: str, path: str, streams: int, heard: Heard, only_new: bool) -> None:
        """Put a local file there: it comes to be once all of it has arrived; with `only_new` if no other is there."""

    def fetch(self, path: str, target: BinaryIO, streams: int, heard: Heard) -> None:
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

    def send(self, source: str, path: str, streams: int, heard: Heard, only_new: bool) -> None:
        """As `Mover.send`."""
        with open(source, "rb") as file:
            self._blob(path).upload_blob(
                file, overwrite=not only_new, max_concurrency=streams, progress_hook=Since(heard)
            )

    def fetch(self, path: str, target: BinaryIO, streams: int, heard: Heard) -> None:
        """As `Mover.fetch`. What comes goes to the disk as it comes; the library's own way keeps it three times."""
        blob = self._blob(path)
        found = blob.get_blob_properties()

        def move(start: int) -> None:
            _fetch_range(blob, found.etag, start, min(found.size, start + RANGE_BYTES), target.fileno(), heard)

        with ThreadPoolExecutor(max(1, streams)) as pool:
            list(pool.map(move, range(0, found.size, RANGE_BYTES)))

    def _blob(self, path: str) -> Any:
        container, _, name = path.partition("/")
        return self._client.get_blob_client(container, name)


def _fetch_range(blob: Any, etag: str, start: int, end: int, descriptor: int, heard: Heard) -> None:
    """Write the bytes from `start` to `end` of a blob to the same place of a file.

    Raises:
        AzureError: it cannot be read, or was changed meanwhile.
    """
    from azure.core.exceptions import AzureError, ServiceResponseError

    # The generated client: `download_blob` reads whole chunks into memory before it gives them away.
    operations, left = blob._client.blob, TRIES
    while start < end:
        try:
            for piece in operations.download(
                range=f"bytes={start}-{end - 1}", headers={"If-Match": etag}, decompress=False
            ):
                os.pwrite(descriptor, piece, start)
                start += len(piece)
                heard(len(piece))
            if start < end:
                raise ServiceResponseError(f"the transfer ended {end - start} bytes early")
        except AzureError as error:
            left -= 1
            if not left or getattr(error, "status_code", None) is not None:
                raise
            time.sleep(0.5)


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
            aws_access_key_id=settings.get("key"), aws_secret_access_key=settings.get("secret"),
            aws_session_token=settings.get("token"), profile_name=settings.get("profile"),
            region_name=settings.get("region"),
        )  # fmt: skip
        signature = {"signature_version": UNSIGNED} if settings.get("anon") else {}
        config = Config(max_pool_connections=32, **signature)
        self._client = session.client("s3", endpoint_url=settings.get("endpoint_url"), config=config)

    def send(self, source: str, path: str, streams: int, heard: Heard, only_new: bool) -> None:
        """As `Mover.send`."""
        from boto3.s3.transfer import S3Transfer

        bucket, _, key = path.partition("/")
        extra = {"IfNoneMatch": "*"} if only_new and "IfNoneMatch" in S3Transfer.ALLOWED_UPLOAD_ARGS else None
        self._client.upload_file(source, bucket, key, Callback=heard, Config=_chunked(streams), ExtraArgs=extra)

    def fetch(self, path: str, target: BinaryIO, streams: int, heard: Heard) -> None:
        """As `Mover.fetch`."""
        bucket, _, key = path.partition("/")
        self._client.download_fileobj(bucket, key, target, Callback=heard, Config=_chunked(streams))


class Since:
    """Passes on what has moved since it was last called with the sum."""

    def __init__(self, heard: Heard) -> None:
        self._heard, self._before = heard, 0

    def __call__(self, current: int, total: int | None) -> None:
        self._heard(max(0, current - self._before))
        self._before = max(current, self._before)


def _chunked(streams: int) -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=CHUNK_BYTES, multipart_chunksize=CHUNK_BYTES, max_concurrency=streams,
        use_threads=streams > 1,
    )  # fmt: skip
