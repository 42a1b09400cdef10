"""Datastores that fsspec reaches: Azure Blob, S3, SFTP, HTTP, and any other of its file systems by `_target_`."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from labrun import building
from labrun.checking import is_secret
from labrun.data.datastore import (
    CHUNK_BYTES,
    PARTIAL,
    STATE,
    Datastore,
    FileInfo,
    ProgressCallback,
    clean,
    copy,
    is_inside,
)
from labrun.data.movers import AzureMover, Mover, S3Mover
from labrun.errors import ConfigError, DataError, LabrunError, MissingDataError, MissingExtraError

log = logging.getLogger(__name__)

AZURE = "adlfs.AzureBlobFileSystem"
S3 = "s3fs.S3FileSystem"
SFTP = "fsspec.implementations.sftp.SFTPFileSystem"
HTTP = "fsspec.implementations.http.HTTPFileSystem"

EXTRAS = {AZURE: ("adlfs", "azure"), S3: ("s3fs", "s3"), SFTP: ("paramiko", "sftp"), HTTP: ("aiohttp", "http")}
"""The package that each of the known kinds needs, and the extra that brings it."""
OWN_KEYS = ("_target_", "name", "root", "cache", "cache_gb", "workers")
"""Keys that labrun acts on; the others are the file system's arguments."""
TOKENS = (
    "etag",
    "ETag",
    "last_modified",
    "LastModified",
    "mtime",
    "time",
    "created",
    "md5",
    "checksum",
    "Last-Modified",
)
"""Where file systems tell what changes with a file's content."""
LIBRARIES = ("azure", "adlfs", "botocore", "aiobotocore", "s3fs", "paramiko", "fsspec", "asyncio", "urllib3")
"""They log each request, with its headers, at the level that our own lines have."""
REFUSED = ("auth", "credential", "permission", "forbidden", "denied", "403", "401", "signing", "padding")
"""Words by which libraries say that it is the credentials."""
MASKED = 6
"""A secret of so many characters is taken out of messages; a shorter one would take other words with it."""
REACH_S = 15
"""So long a server has to answer at all."""
PATIENCE_S = 60
"""HTTP read timeout, seconds."""
PIECE_BYTES = 2**15
"""What SFTP gives for one request."""


class RemoteDatastore(Datastore):
    """Files behind one of fsspec's file systems.

    Args:
        node: the config's `datastore`, resolved: `_target_` (the file system's class), `name`, `root` and the class's
            own arguments.

    Raises:
        ConfigError, MissingExtraError: the class cannot be built from these.
    """

    def __init__(self, node: Mapping[str, Any]) -> None:
        super().__init__(str(node["name"]), str(node["root"]).rstrip("/"))
        self._kind = str(node["_target_"])
        self._node = dict(node)
        self._secrets = [str(v) for k, v in node.items() if is_secret(k) and len(str(v)) >= MASKED]
        if "?" in self.root and node["_target_"] == HTTP:
            raise ConfigError(
                f"datastore '{self.name}': its root has parameters (?...), and a folder's address has none"
            )
        self._own = threading.local()
        self._shared: Any = None
        self._opening = threading.Lock()
        self._opening_top = threading.Lock()
        self._has_top = False
        self.is_read_only = self._kind == HTTP

    @property
    def identity(self) -> str:
        """The same for two datastores that hold the same files; holds no secret."""
        place = [str(self._node.get(k) or "") for k in ("account_name", "endpoint_url", "host", "port")]
        return ":".join([self._kind, *place, self.root])

    @property
    def _fs(self) -> Any:
        """The file system. Of SFTP each thread has a connection of its own: paramiko's are not made to be shared."""
        if self._kind == SFTP:
            if not hasattr(self._own, "fs"):
                self._own.fs = self._open()
            return self._own.fs
        with self._opening:
            if self._shared is None:
                self._shared = self._open()
        return self._shared

    def _open(self) -> Any:
        package, extra = EXTRAS.get(self._kind, (self._kind.partition(".")[0], ""))
        try:
            __import__(package)
        except ImportError as error:
            if extra:
                raise MissingExtraError(package, extra, f"datastore '{self.name}'") from error
            raise ConfigError(
                f"datastore._target_={self._kind!r}: the package '{package}' is not installed; any file system of "
                "fsspec can stand here"
            ) from error
        for talkative in LIBRARIES:
            logging.getLogger(talkative).setLevel(logging.WARNING)
        arguments = {k: v for k, v in self._node.items() if k not in OWN_KEYS and v is not None}
        with self._telling("cannot connect"):
            fs = self._made(_arguments(self._kind, arguments))
        from fsspec import AbstractFileSystem

        if not isinstance(fs, AbstractFileSystem):
            raise ConfigError(f"datastore._target_={self._kind!r} is no file system of fsspec")
        if self._kind in (AZURE, S3):
            with self._telling("cannot reach its server"):
                _answers(fs.service_client.url if self._kind == AZURE else self._node.get("endpoint_url"))
        return fs

    def _made(self, arguments: dict[str, Any]) -> Any:
        if self._kind == SFTP:
            from labrun.data.sftp import KnowingSFTP

            return KnowingSFTP(**arguments, skip_instance_cache=True)
        return building.build(
            {"_target_": self._kind, **arguments}, "datastore", use_listings_cache=False, skip_instance_cache=True
        )

    @functools.cached_property
    def _mover(self) -> Mover:
        return AzureMover(self._fs) if self._kind == AZURE else S3Mover(self._node)

    def check_root(self) -> None:
        """Whether there is such a place at all.

        Raises:
            MissingDataError: the bucket, the container or the folder is not there.
        """
        top = self._fs._strip_protocol(self.root).partition("/")[0] if self._kind in (AZURE, S3) else self.root
        with self._telling(f"cannot look for {top}"):
            there = self._fs.exists(top)
        if not there:
            kind = {AZURE: "container", S3: "bucket"}.get(self._kind, "folder")
            raise MissingDataError(
                f"datastore '{self.name}' has no {kind} '{top}': is datastore.root right? 'lab data upload' makes it"
            )

    def path(self, name: str) -> str:
        """How the file system knows a file of ours."""
        name = clean(name)
        if self._kind == HTTP:
            name = urllib.parse.quote(name)
        return f"{self.root}/{name}" if name else self.root

    def files(self, folder: str = "") -> dict[str, FileInfo]:
        top = self.path(folder)
        with self._telling(f"cannot list {top}"):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.find(top, detail=True)
                if not isinstance(entries, dict):  # adlfs: of a single file, its name alone
                    entries = {name: self._fs.info(name) for name in entries}
            except FileNotFoundError:
                return {}
        found = {}
        for path, info in entries.items():
            name = self._name(str(path))
            # S3's own consoles mark a folder by an empty file whose name ends in a slash.
            if name and not name.endswith((PARTIAL, "/")) and not name.startswith(f"{STATE}/"):
                if is_inside(name):
                    found[name] = self._found(name, info)
                else:
                    log.warning("Left out of datastore '%s': %r leads out of it", self.name, name)
        return found

    def find(self, name: str) -> FileInfo | None:
        with self._telling(f"cannot look for {self.path(name)}"):
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(self.path(name))
            except FileNotFoundError:
                return None
        return _told(info) if info.get("type", "file") == "file" else None

    def folders(self, folder: str = "") -> list[str]:
        top = self.path(folder)
        with self._telling(f"cannot list {top}"):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(top if self._kind != HTTP else f"{top}/", detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = {}
        for info in entries:
            name = self._name(str(info["name"])).rstrip("/").removeprefix(clean(folder)).lstrip("/")
            if name and "/" not in name and name not in (STATE, ".", "..") and not name.endswith(PARTIAL):
                is_folder = info["type"] == "directory" or str(info["name"]).endswith("/")
                names[name] = f"{name}/" if is_folder else name
        return sorted(names.values())

    def send(self, source: Any, name: str, heard: ProgressCallback, only_new: bool = False) -> FileInfo:
        self._refuse_read_only()
        path = self.path(name)
        with self._telling(f"cannot write {path}"):
            if self._kind in (AZURE, S3):
                self._make_parent(path)
                self._mover.send(str(source), path, self.streams, heard, only_new)
            else:
                with open(source, "rb") as content, self._in_one_step(path, only_new) as file:
                    copy(content, file, heard)
        found = self.find(name)
        if found is None:
            raise DataError(f"{path} was written to datastore '{self.name}', and is not there")
        return found

    def fetch(self, name: str, target: BinaryIO, heard: ProgressCallback) -> None:
        path = self.path(name)
        with self._telling(f"cannot read {path}"):
            if self._kind in (AZURE, S3):
                self._mover.fetch(path, target, self.streams, heard)
                return
            if self._kind == SFTP:
                with self._fs.ftp.open(path, "rb") as content:
                    _copy_ahead(content, target, heard)
                return
            # 0: as one stream. Not every web server gives parts of a file.
            with self._fs.open(path, "rb", block_size=0 if self._kind == HTTP else CHUNK_BYTES) as content:
                copy(content, target, heard)

    def read(self, name: str) -> bytes:
        with self._telling(f"cannot read {self.path(name)}"):
            return bytes(self._fs.cat_file(self.path(name)))

    def write(self, name: str, content: bytes, only_new: bool = False) -> bool:
        self._refuse_read_only()
        path = self.path(name)
        try:
            with self._telling(f"cannot write {path}"):
                self._make_parent(path)
                if self._kind in (AZURE, S3):
                    self._fs.pipe_file(path, content, **({"mode": "create"} if only_new else {}))
                else:
                    with self._in_one_step(path, only_new) as file:
                        file.write(content)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        self._refuse_read_only()
        with self._telling(f"cannot remove {self.path(name)}"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))
            if self._kind == SFTP:  # folders are real ones there; an empty one would be listed
                folder = clean(name).rpartition("/")[0]
                while folder and not self._fs.ls(self.path(folder), detail=False):
                    self._fs.rmdir(self.path(folder))
                    folder = folder.rpartition("/")[0]

    def _name(self, path: str) -> str:
        """Our name for what the file system lists."""
        if self._kind == HTTP:
            path = urllib.parse.unquote(path)
            return path.removeprefix(urllib.parse.unquote(self.root)).strip("/")
        return path.lstrip("/").removeprefix(self._fs._strip_protocol(self.root).lstrip("/")).lstrip("/")

    def _found(self, name: str, info: Mapping[str, Any]) -> FileInfo:
        if info.get("size") is None:  # a web server's listing
            info = self._fs.info(self.path(name))
        return _told(info)

    def _make_parent(self, path: str) -> None:
        """Folders where they are real ones; the bucket or container, if it is not there yet."""
        if self._kind in (AZURE, S3):
            with self._opening_top:
                if not self._has_top:
                    self._make_top(self._fs._strip_protocol(self.root).partition("/")[0])
                self._has_top = True
            return
        folder = path.rpartition("/")[0]
        for again in (True, False):
            try:
                self._fs.makedirs(folder, exist_ok=True)
                return
            except OSError:  # another thread or process has made a part of it meanwhile
                if not again and not self._fs.isdir(folder):
                    raise

    def _make_top(self, top: str) -> None:
        if self._fs.exists(top):
            return
        try:
            if self._kind == S3 and self._node.get("region") in (None, "us-east-1"):
                self._fs.call_s3("create_bucket", Bucket=top)  # S3 refuses to be told its default region
            else:
                self._fs.mkdir(top)
        except Exception:
            self._fs.invalidate_cache()
            if not self._fs.exists(top):  # else another process was first
                raise

    @contextlib.contextmanager
    def _in_one_step(self, path: str, only_new: bool = False) -> Iterator[Any]:
        """Write a file under another name, then put it in place: also where kill -9 leaves what was written."""
        self._make_parent(path)
        partial = f"{path}.{os.getpid()}-{os.urandom(3).hex()}{PARTIAL}"
        try:
            with self._fs.open(partial, "wb") as file:
                if self._kind == SFTP:
                    file.set_pipelined(True)
                yield file
                sent = file.tell() if self._kind == SFTP else 0
            if self._kind == SFTP and (kept := int(self._fs.ftp.stat(partial).st_size or 0)) != sent:
                raise DataError(
                    f"{path}: the host kept {kept:,} of {sent:,} bytes. Is its disk full, or a quota reached?"
                )
            if self._kind == SFTP and not only_new:
                self._fs.ftp.posix_rename(partial, path)
            elif self._kind == SFTP:
                try:
                    self._fs.ftp.rename(partial, path)  # fails where the name is taken
                except OSError as error:
                    if not self._fs.exists(path):
                        raise
                    raise FileExistsError(path) from error
            elif only_new and self._fs.exists(path):
                raise FileExistsError(path)
            else:
                self._fs.mv(partial, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(partial)
            raise

    def _refuse_read_only(self) -> None:
        if self.is_read_only:
            raise ConfigError(f"datastore '{self.name}' can only be read: nothing can be sent there or removed")

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turn whatever a library raises into one message without secrets."""
        try:
            yield
        except LabrunError:
            raise
        except FileNotFoundError as error:
            raise MissingDataError(f"datastore '{self.name}': {what}: it is not there") from error
        except FileExistsError:
            raise
        except OSError as error:
            if isinstance(error, InterruptedError):
                raise
            if error.errno == errno.ENOSPC:
                raise DataError(f"{what}: no space is left on this machine") from error
            raise self._told_as_ours(what, error) from None
        except Exception as error:  # noqa: BLE001 - each library has errors of its own
            if type(error).__name__ == "ResourceExistsError" or "PreconditionFailed" in str(error):
                raise FileExistsError(what) from None
            raise self._told_as_ours(what, error) from None

    def _told_as_ours(self, what: str, error: Exception) -> DataError:
        if type(error).__name__ == "ResourceNotFoundError" or "(404)" in str(error) or "NoSuchKey" in str(error):
            return MissingDataError(f"datastore '{self.name}': {what}: it is not there")
        return DataError(
            f"datastore '{self.name}' ({self._kind.rpartition('.')[2]}): {what}: {self._hidden(_reason(error))}. "
            f"{_advice(error)}"
        )

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _copy_ahead(content: Any, target: BinaryIO, heard: ProgressCallback) -> None:
    """Write a file of SFTP's to a local one; the pieces of a chunk are asked for all at once.

    paramiko's own `getfo` asks for the whole file, keeps whatever comes faster than it is written, and searches all of
    that for each piece.

    Raises:
        DataError: it became shorter meanwhile.
    """
    size = int(content.stat().st_size or 0)
    for start in range(0, size, CHUNK_BYTES):
        end = min(size, start + CHUNK_BYTES)
        pieces = [(place, min(PIECE_BYTES, end - place)) for place in range(start, end, PIECE_BYTES)]
        for (place, length), piece in zip(pieces, content.readv(pieces), strict=True):
            if len(piece) != length:
                raise DataError(f"a file ended at {place + len(piece):,} of {size:,} bytes: was it changed meanwhile?")
            target.write(piece)
            heard(length)


def _arguments(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a known file system, from keys that are easier to say."""
    if kind == S3:
        region = given.pop("region", None)
        if region:
            given["client_kwargs"] = {**given.get("client_kwargs", {}), "region_name": region}
    if kind == AZURE and not any(given.get(k) for k in ("account_key", "connection_string", "sas_token", "credential")):
        given.setdefault("anon", False)  # the vendor's own chain: az login, a managed identity
    if kind == HTTP:
        import aiohttp

        # Of its own it gives up on a file after five minutes, however well it comes.
        patience = aiohttp.ClientTimeout(total=None, sock_connect=REACH_S, sock_read=PATIENCE_S)
        given["client_kwargs"] = {"timeout": patience, **(given.get("client_kwargs") or {})}
        if token := given.pop("token", None):
            given["client_kwargs"]["headers"] = {"Authorization": f"Bearer {token}"}
    return given


def _answers(address: str | None) -> None:
    """Find out within seconds that nobody answers there: the libraries try for minutes.

    Raises:
        OSError: the name is not known, or the connection is refused.
    """
    if not address or urllib.request.getproxies():
        return
    parts = urllib.parse.urlsplit(address)
    if parts.hostname:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=REACH_S).close()


def _told(info: Mapping[str, Any]) -> FileInfo:
    token = next((str(info[key]) for key in TOKENS if info.get(key) is not None), "")
    return FileInfo(int(info.get("size") or 0), token)


def _reason(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, LabrunError) and error.__cause__ else error
    text = " ".join(str(cause).split()).partition(" RequestId:")[0].partition(" Content: <")[0]
    return f"{type(cause).__name__}: {text[:300] or 'no reason given'}"


def _advice(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if any(word in text for word in REFUSED):
        return "Check the credentials (the variables that conf/datastore names) and what they allow"
    return "Check the address, the network and the datastore's keys"
