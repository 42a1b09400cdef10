"""Datastores on fsspec file systems; also the base class of those that need more than fsspec offers."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from labrun.config import instantiate
from labrun.config.checking import is_secret
from labrun.config.schema import DatastoreSettings
from labrun.data.stores.base import (
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
from labrun.errors import ConfigError, DataError, LabrunError, MissingDataError, MissingExtraError

if TYPE_CHECKING:
    from labrun.config.instantiate import Node

log = logging.getLogger(__name__)

OWN_KEYS = frozenset({"_target_", *(f.name for f in fields(DatastoreSettings))})
"""Keys that labrun handles itself; the others are arguments of the file system."""
PLACE_KEYS = ("account_name", "endpoint_url", "host", "port")
"""Keys that identify the server."""
REFUSED = ("auth", "credential", "permission", "forbidden", "denied", "403", "401", "signing", "padding")
"""Words in library errors that point to the credentials: fsspec's file systems share no class for these errors."""
MASKED = 6
"""Minimum length of a secret to mask in messages; masking shorter ones would hit other words."""
REACH_S = 15
"""Connection timeout, seconds."""


class RemoteDatastore(Datastore):
    """Files on an fsspec file system.

    Each kind of datastore is a subclass that sets the attributes below and overrides the methods marked as hooks.

    Args:
        node: the config's `datastore`, resolved: `_target_` (the file system's class), `name`, `root` and the class's
            own arguments.

    Raises:
        ConfigError: the class cannot be built from these.
    """

    package = ""
    """Required package; empty: the top-level package of `_target_`."""
    extra = ""
    """The extra of labrun that installs it."""
    tokens: ClassVar[tuple[str, ...]] = (
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
    """Keys of the file system's info that change with a file's content; the first one present is the token."""
    talkative: ClassVar[tuple[str, ...]] = ("fsspec", "asyncio", "urllib3")
    """Libraries that log each request with its headers at the level of labrun's own messages."""
    top_is = "folder"
    """Word for the first part of the root, for messages."""

    def __init__(self, node: Node) -> None:
        super().__init__(str(node["name"]), str(node["root"]).rstrip("/"))
        self._kind = str(node["_target_"])
        self._node = dict(node)
        self._secrets = [str(v) for k, v in node.items() if is_secret(k) and len(str(v)) >= MASKED]
        self._opening = threading.Lock()
        self._shared: Any = None

    @property
    def identity(self) -> str:
        """Equal for two datastores that hold the same files; contains no secret."""
        place = [str(self._node.get(key) or "") for key in PLACE_KEYS]
        return ":".join([self._kind, *place, self.root])

    @property
    def _fs(self) -> Any:
        """The file system, opened on first use."""
        with self._opening:
            if self._shared is None:
                self._shared = self._open()
        return self._shared

    def _open(self) -> Any:
        self._check_package()
        for library in self.talkative:
            logging.getLogger(library).setLevel(logging.WARNING)
        arguments = {k: v for k, v in self._node.items() if k not in OWN_KEYS and v is not None}
        with self._translating("cannot connect"):
            fs = self._connected(arguments)
        from fsspec import AbstractFileSystem

        if not isinstance(fs, AbstractFileSystem):
            raise ConfigError(f"datastore._target_={self._kind!r} is not an fsspec file system")
        with self._translating("cannot reach its server"):
            self._check_reachable(fs)
        return fs

    def _check_package(self) -> None:
        package = self.package or self._kind.partition(".")[0]
        try:
            __import__(package)
        except ImportError as error:
            if self.extra:
                raise MissingExtraError(package, self.extra, f"datastore '{self.name}'") from error
            raise ConfigError(
                f"datastore._target_={self._kind!r}: the package '{package}' is not installed; any fsspec file system "
                "can be used"
            ) from error

    def _connected(self, arguments: dict[str, Any]) -> Any:
        """Hook: build the file system from the node's keys."""
        return instantiate.build(
            {"_target_": self._kind, **arguments}, "datastore", use_listings_cache=False, skip_instance_cache=True
        )

    def _check_reachable(self, fs: Any) -> None:
        """Hook: check within seconds that the server responds.

        Raises:
            OSError: it does not.
        """

    def _top(self) -> str:
        """Hook: return the part of the root that must already exist."""
        return self.root

    def check_root(self) -> None:
        """Check that the datastore's root exists.

        Raises:
            MissingDataError: the bucket, container or folder does not exist.
        """
        top = self._top()
        with self._translating(f"cannot look for {top}"):
            there = self._fs.exists(top)
        if not there:
            raise MissingDataError(
                f"datastore '{self.name}' has no {self.top_is} '{top}': is datastore.root right? 'lab data upload' "
                "creates it"
            )

    def path(self, name: str) -> str:
        """Return the file system's path of a file."""
        name = clean(name)
        return f"{self.root}/{name}" if name else self.root

    def files(self, folder: str = "") -> dict[str, FileInfo]:
        top = self.path(folder)
        with self._translating(f"cannot list {top}"):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.find(top, detail=True)
                if not isinstance(entries, dict):  # adlfs returns only the name of a single file
                    entries = {name: self._fs.info(name) for name in entries}
            except FileNotFoundError:
                return {}
        found = {}
        for path, info in entries.items():
            name = self._name(str(path))
            # The S3 console marks a folder by an empty file whose name ends in a slash.
            if name and not name.endswith((PARTIAL, "/")) and not name.startswith(f"{STATE}/"):
                if is_inside(name):
                    found[name] = self._listed(name, info)
                else:
                    log.warning("Left out of datastore '%s': %r leads out of it", self.name, name)
        return found

    def find(self, name: str) -> FileInfo | None:
        with self._translating(f"cannot look for {self.path(name)}"):
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(self.path(name))
            except FileNotFoundError:
                return None
        return self._info(info) if info.get("type", "file") == "file" else None

    def folders(self, folder: str = "") -> list[str]:
        top = self.path(folder)
        with self._translating(f"cannot list {top}"):
            self._fs.invalidate_cache()
            try:
                entries = self._entries(top)
            except (FileNotFoundError, NotADirectoryError):
                return []
        names = {}
        for info in entries:
            name = self._name(str(info["name"])).rstrip("/").removeprefix(clean(folder)).lstrip("/")
            if name and "/" not in name and name not in (STATE, ".", "..") and not name.endswith(PARTIAL):
                is_folder = info["type"] == "directory" or str(info["name"]).endswith("/")
                names[name] = f"{name}/" if is_folder else name
        return sorted(names.values())

    def send(self, source: Path, name: str, on_progress: ProgressCallback, only_new: bool = False) -> FileInfo:
        self._refuse_read_only()
        path = self.path(name)
        with self._translating(f"cannot write {path}"):
            self._send(source, path, on_progress, only_new)
        found = self.find(name)
        if found is None:
            raise DataError(f"{path} was written to datastore '{self.name}', but cannot be found there")
        return found

    def fetch(self, name: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        path = self.path(name)
        with self._translating(f"cannot read {path}"):
            self._fetch(path, target, on_progress)

    def read(self, name: str) -> bytes:
        with self._translating(f"cannot read {self.path(name)}"):
            return bytes(self._fs.cat_file(self.path(name)))

    def write(self, name: str, content: bytes, only_new: bool = False) -> bool:
        self._refuse_read_only()
        path = self.path(name)
        try:
            with self._translating(f"cannot write {path}"):
                self._write(path, content, only_new)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        self._refuse_read_only()
        with self._translating(f"cannot remove {self.path(name)}"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))
            self._drop_empty(clean(name).rpartition("/")[0])

    def _send(self, source: Path, path: str, on_progress: ProgressCallback, only_new: bool) -> None:
        """Hook: upload a local file; it appears once it has arrived completely."""
        with open(source, "rb") as content, self._in_one_step(path, only_new) as file:
            copy(content, file, on_progress)

    def _fetch(self, path: str, target: BinaryIO, on_progress: ProgressCallback) -> None:
        """Hook: write a file's content to an open local file."""
        with self._fs.open(path, "rb", block_size=CHUNK_BYTES) as content:
            copy(content, target, on_progress)

    def _write(self, path: str, content: bytes, only_new: bool) -> None:
        """Hook: write a small file atomically."""
        with self._in_one_step(path, only_new) as file:
            file.write(content)

    def _drop_empty(self, folder: str) -> None:
        """Hook: remove a folder and its parents if they are real folders and have become empty."""

    def _name(self, path: str) -> str:
        """Hook: return the datastore name for a path that the file system lists."""
        return path.lstrip("/").removeprefix(self._fs._strip_protocol(self.root).lstrip("/")).lstrip("/")

    def _entries(self, top: str) -> Any:
        """Hook: list the direct entries of a folder."""
        return self._fs.ls(top, detail=True)

    def _listed(self, name: str, info: Mapping[str, Any]) -> FileInfo:
        if info.get("size") is None:  # a web server's listing
            info = self._fs.info(self.path(name))
        return self._info(info)

    def _info(self, info: Mapping[str, Any]) -> FileInfo:
        token = next((str(info[key]) for key in self.tokens if info.get(key) is not None), "")
        return FileInfo(int(info.get("size") or 0), token)

    def _make_parent(self, path: str) -> None:
        """Hook: create the parent folders of a file."""
        folder = path.rpartition("/")[0]
        for again in (True, False):
            try:
                self._fs.makedirs(folder, exist_ok=True)
                return
            except OSError:  # another thread or process has created part of it meanwhile
                if not again and not self._fs.isdir(folder):
                    raise

    @contextlib.contextmanager
    def _in_one_step(self, path: str, only_new: bool) -> Iterator[Any]:
        """Write a file under a temporary name, then rename it, so that kill -9 leaves no incomplete file."""
        self._make_parent(path)
        partial = f"{path}.{os.getpid()}-{os.urandom(3).hex()}{PARTIAL}"
        try:
            with self._writing(partial, path) as file:
                yield file
            self._put_in_place(partial, path, only_new)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(partial)
            raise

    @contextlib.contextmanager
    def _writing(self, partial: str, path: str) -> Iterator[Any]:
        """Hook: open the partial file that will be renamed to `path`."""
        with self._fs.open(partial, "wb") as file:
            yield file

    def _put_in_place(self, partial: str, path: str, only_new: bool) -> None:
        """Hook: rename a partial file. This default only checks first whether the name is taken, which can race.

        Raises:
            FileExistsError: `only_new` is set and the file exists.
        """
        if only_new and self._fs.exists(path):
            raise FileExistsError(path)
        self._fs.mv(partial, path)

    def _refuse_read_only(self) -> None:
        if self.is_read_only:
            raise ConfigError(f"datastore '{self.name}' is read-only: files can be neither uploaded nor removed")

    @contextlib.contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        """Translate library errors into labrun's, without secrets; `FileExistsError` passes through."""
        try:
            yield
        except (LabrunError, FileExistsError, InterruptedError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise DataError(f"{what}: no space is left on this machine") from error
            if self._is_taken(error):
                raise FileExistsError(what) from None
            raise self._translated(what, error) from (error if isinstance(error, FileNotFoundError) else None)

    def _translated(self, what: str, error: Exception) -> DataError:
        if isinstance(error, FileNotFoundError) or self._is_missing(error):
            return MissingDataError(f"datastore '{self.name}': {what}: it does not exist")
        reason = self._without_secrets(_reason(error))
        return DataError(
            f"datastore '{self.name}' ({self._kind.rpartition('.')[2]}): {what}: {reason}. {_advice(error)}"
        )

    def _is_missing(self, error: Exception) -> bool:
        """Hook: return whether a library's error means that a file does not exist."""
        return False

    def _is_taken(self, error: Exception) -> bool:
        """Hook: return whether a library's error means that a file to be created exists already."""
        return False

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _reason(error: Exception) -> str:
    # Azure puts the request's details and the answer's XML into the message, and gives it in no other form.
    text = " ".join(str(error).split()).partition(" RequestId:")[0].partition(" Content: <")[0]
    return f"{type(error).__name__}: {text[:300] or 'no reason given'}"


def _advice(error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if any(word in text for word in REFUSED):
        return "Check the credentials (the environment variables in conf/datastore) and their permissions"
    return "Check the address, the network and the datastore's keys"
