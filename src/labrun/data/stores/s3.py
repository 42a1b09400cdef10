"""S3 and compatible servers: buckets through s3fs, whole files through boto3.

s3fs runs everything in one thread, which halves the speed with several files at a time.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, BinaryIO

from labrun import causes
from labrun.data.stores.base import CHUNK_BYTES, ProgressCallback
from labrun.data.stores.objects import ObjectDatastore
from labrun.data.stores.remote import RemoteDatastore

DEFAULT_REGION = "us-east-1"
CONNECTIONS = 32


class S3Datastore(ObjectDatastore):
    """A bucket, or a folder in it."""

    package, extra = "s3fs", "s3"
    tokens = ("ETag", "LastModified")
    talkative = (*RemoteDatastore.talkative, "botocore", "aiobotocore", "s3fs")
    top_is = "bucket"

    def _connected(self, arguments: dict[str, Any]) -> Any:
        region = arguments.pop("region", None)
        if region:
            arguments["client_kwargs"] = {**arguments.get("client_kwargs", {}), "region_name": region}
        return super()._connected(arguments)

    def _address(self, fs: Any) -> str | None:
        address = self._node.get("endpoint_url")
        return None if address is None else str(address)

    def _new_top(self, top: str) -> None:
        if self._node.get("region") in (None, DEFAULT_REGION):
            self._fs.call_s3("create_bucket", Bucket=top)  # S3 rejects its default region as a location
        else:
            super()._new_top(top)

    def _send(self, source: Path, path: str, on_progress: ProgressCallback, only_new: bool) -> None:
        self._make_top()
        bucket, _, key = path.partition("/")
        client = self._careful_client if only_new else self._client
        client.upload_file(str(source), bucket, key, Callback=on_progress, Config=_chunked(self.streams))

    def _fetch(self, path: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        bucket, _, key = path.partition("/")
        self._client.download_fileobj(bucket, key, target, Callback=on_progress, Config=_chunked(self.streams))

    def _is_missing(self, error: Exception) -> bool:
        return _code(error) in ("404", "NoSuchKey")

    def _is_taken(self, error: Exception) -> bool:
        return _code(error) == "PreconditionFailed"

    @functools.cached_property
    def _client(self) -> Any:
        return self._new_client()

    @functools.cached_property
    def _careful_client(self) -> Any:
        """A client that never overwrites a file."""
        client = self._new_client()
        for operation in ("PutObject", "CompleteMultipartUpload"):
            client.meta.events.register(f"provide-client-params.s3.{operation}", _if_new)
        return client

    def _new_client(self) -> Any:
        """Create a boto3 client; these are thread-safe."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        session = boto3.Session(
            aws_access_key_id=self._node.get("key"),
            aws_secret_access_key=self._node.get("secret"),
            aws_session_token=self._node.get("token"),
            profile_name=self._node.get("profile"),
            region_name=self._node.get("region"),
        )
        signature = {"signature_version": UNSIGNED} if self._node.get("anon") else {}
        config = Config(max_pool_connections=CONNECTIONS, **signature)
        return session.client("s3", endpoint_url=self._node.get("endpoint_url"), config=config)


def _code(error: BaseException | None) -> str:
    """Return the code in S3's answer, which an error has or was raised for; "" without one."""
    for one in causes.chain(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return ""


def _if_new(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add the condition that makes a write fail if the file exists."""
    return {**params, "IfNoneMatch": "*"}


def _chunked(streams: int) -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=CHUNK_BYTES,
        multipart_chunksize=CHUNK_BYTES,
        max_concurrency=streams,
        use_threads=streams > 1,
    )
