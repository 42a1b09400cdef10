"""Datastores that one of fsspec's file systems reaches; those that need more than that derive from this one."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from labrun import building
from labrun.checking import is_secret
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

log = logging.getLogger(__name__)

OWN_KEYS = ("_target_", "name", "root", "cache", "cache_gb", "workers")
"""Keys that labrun acts on; the others are the file system's arguments."""
PLACE_KEYS = ("account_name", "endpoint_url", "host", "port")
"""Keys that say which server it is."""
REFUSED = ("auth", "credential", "permission", "forbidden", "denied", "403", "401", "signing", "padding")
"""Words by which libraries say that it is the credentials."""
MASKED = 6
"""Minimum length of a secret to mask in messages; masking shorter ones would hit other words."""
REACH_S = 15
"""So long a server has to answer at all."""


class RemoteDatastore(Datastore):
    """Files behind one of fsspec's file systems.

    A kind of datastore derives from this class: it sets the attributes below, and overrides the methods that are called
    hooks.

    Args:
        node: the config's `datastore`, resolved: `_target_` (the file system's class), `name`, `root` and the class's
            own arguments.

    Raises:
        ConfigError: the class cannot be built from these.
    """

    package = ""
    """What has to be installed; empty: the package that `_target_` begins with."""
    extra = ""
    """The extra of labrun that brings it."""
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
    """Where the file system tells what changes with a file's content: the first of these that it gives."""
    talkative: ClassVar[tuple[str, ...]] = ("fsspec", "asyncio", "urllib3")
    """Libraries that log each request, with its headers, at the level that our own lines have."""
    top_is = "folder"
    """What the first part of the root is called."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        super().__init__(str(node["name"]), str(node["root"]).rstrip("/"))
        self._kind = str(node["_target_"])
        self._node = dict(node)
        self._secrets = [str(v) for k, v in node.items() if is_secret(k) and len(str(v)) >= MASKED]
        self._opening = threading.Lock()
        self._shared: Any = None

    @property
    def identity(self) -> str:
        """The same for two datastores that hold the same files; holds no secret."""
        place = [str(self._node.get(key) or "") for key in PLACE_KEYS]
        return ":".join([self._kind, *place, self.root])

    @property
    def _fs(self) -> Any:
        """The file system, opened when it is first needed."""
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
            raise ConfigError(f"datastore._target_={self._kind!r} is not a file system of fsspec")
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
                f"datastore._target_={self._kind!r}: the package '{package}' is not installed; any file system of "
                "fsspec can stand here"
            ) from error

    def _connected(self, arguments: dict[str, Any]) -> Any:
        """Hook: the file system, made from the node's keys."""
        return building.build(
            {"_target_": self._kind, **arguments}, "datastore", use_listings_cache=False, skip_instance_cache=True
        )

    def _check_reachable(self, fs: Any) -> None:
        """Hook: find out within seconds whether anybody answers there.

        Raises:
            OSError: nobody does.
        """

    def _top(self) -> str:
        """Hook: what of the root has to be there already."""
        return self.root

    def check_root(self) -> None:
        """Whether there is such a place at all.

        Raises:
            MissingDataError: the bucket, the container or the folder is not there.
        """
        top = self._top()
        with self._translating(f"cannot look for {top}"):
            there = self._fs.exists(top)
        if not there:
            raise MissingDataError(
                f"datastore '{self.name}' has no {self.top_is} '{top}': is datastore.root right? 'lab data upload' "
                "makes it"
            )

    def path(self, name: str) -> str:
        """How the file system knows a file of ours."""
        name = clean(name)
        return f"{self.root}/{name}" if name else self.root

    def files(self, folder: str = "") -> dict[str, FileInfo]:
        top = self.path(folder)
        with self._translating(f"cannot list {top}"):
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

    def send(self, source: Path, name: str, heard: ProgressCallback, only_new: bool = False) -> FileInfo:
        self._refuse_read_only()
        path = self.path(name)
        with self._translating(f"cannot write {path}"):
            self._send(source, path, heard, only_new)
        found = self.find(name)
        if found is None:
            raise DataError(f"{path} was written to datastore '{self.name}', and is not there")
        return found

    def fetch(self, name: str, target: BinaryIO, heard: ProgressCallback) -> None:
        path = self.path(name)
        with self._translating(f"cannot read {path}"):
            self._fetch(path, target, heard)

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

    def _send(self, source: Path, path: str, heard: ProgressCallback, only_new: bool) -> None:
        """Hook: put a local file there; it comes to be once all of it has arrived."""
        with open(source, "rb") as content, self._in_one_step(path, only_new) as file:
            copy(content, file, heard)

    def _fetch(self, path: str, target: BinaryIO, heard: ProgressCallback) -> None:
        """Hook: write a file's content to an open local one."""
        with self._fs.open(path, "rb", block_size=CHUNK_BYTES) as content:
            copy(content, target, heard)

    def _write(self, path: str, content: bytes, only_new: bool) -> None:
        """Hook: write a small file in one step."""
        with self._in_one_step(path, only_new) as file:
            file.write(content)

    def _drop_empty(self, folder: str) -> None:
        """Hook: remove a folder, and those above it, where it is a real one and has become empty."""

    def _name(self, path: str) -> str:
        """Hook: our name for what the file system lists."""
        return path.lstrip("/").removeprefix(self._fs._strip_protocol(self.root).lstrip("/")).lstrip("/")

    def _entries(self, top: str) -> Any:
        """Hook: what lies directly in a folder."""
        return self._fs.ls(top, detail=True)

    def _listed(self, name: str, info: Mapping[str, Any]) -> FileInfo:
        if info.get("size") is None:  # a web server's listing
            info = self._fs.info(self.path(name))
        return self._info(info)

    def _info(self, info: Mapping[str, Any]) -> FileInfo:
        token = next((str(info[key]) for key in self.tokens if info.get(key) is not None), "")
        return FileInfo(int(info.get("size") or 0), token)

    def _make_parent(self, path: str) -> None:
        """Hook: make the folders that a file is to lie in."""
        folder = path.rpartition("/")[0]
        for again in (True, False):
            try:
                self._fs.makedirs(folder, exist_ok=True)
                return
            except OSError:  # another thread or process has made a part of it meanwhile
                if not again and not self._fs.isdir(folder):
                    raise

    @contextlib.contextmanager
    def _in_one_step(self, path: str, only_new: bool) -> Iterator[Any]:
        """Write a file under another name, then put it in place: also where kill -9 leaves what was written."""
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
        """Hook: write the file that is to be put in place at `path`."""
        with self._fs.open(partial, "wb") as file:
            yield file

    def _put_in_place(self, partial: str, path: str, only_new: bool) -> None:
        """Hook: give a file its name. Here it is looked whether the name is taken, which another may do meanwhile.

        Raises:
            FileExistsError: it was to be new, and is there.
        """
        if only_new and self._fs.exists(path):
            raise FileExistsError(path)
        self._fs.mv(partial, path)

    def _refuse_read_only(self) -> None:
        if self.is_read_only:
            raise ConfigError(f"datastore '{self.name}' can only be read: nothing can be sent there or removed")

    @contextlib.contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        """Turn whatever a library raises into one message without secrets; that a new file is there is not an error."""
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
            return MissingDataError(f"datastore '{self.name}': {what}: it is not there")
        reason = self._without_secrets(_reason(error))
        return DataError(
            f"datastore '{self.name}' ({self._kind.rpartition('.')[2]}): {what}: {reason}. {_advice(error)}"
        )

    def _is_missing(self, error: Exception) -> bool:
        """Hook: whether a library's error says that a file is not there."""
        return False

    def _is_taken(self, error: Exception) -> bool:
        """Hook: whether a library's error says that a file that was to be new is there."""
        return False

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).partition(" RequestId:")[0].partition(" Content: <")[0]
    return f"{type(error).__name__}: {text[:300] or 'no reason given'}"


def _advice(error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if any(word in text for word in REFUSED):
        return "Check the credentials (the variables that conf/datastore names) and what they allow"
    return "Check the address, the network and the datastore's keys"
