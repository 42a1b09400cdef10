"""The files of a data set: those that patterns select in a datastore, or a registered asset, and their mounts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labrun.azureml.data_reference import reference
from labrun.azureml.datastore import Datastore
from labrun.azureml.notices import notify_once
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.config.schema import DatastoreSettings
from labrun.data import assets, digests, transfer
from labrun.data.assets import Asset
from labrun.data.cache import Wanted
from labrun.data.digests import Entry, manifest_digest
from labrun.data.mount import Mounting, cache_of
from labrun.data.progress import Quiet
from labrun.data.stores.base import Datastore as Store
from labrun.data.stores.base import FileInfo, ProgressCallback
from labrun.data.stores.local import LocalDatastore
from labrun.data.transfer import DigestCache, Item
from labrun.errors import DataError

MANAGED = "managed-dataset"
"""The folder in a datastore for files copied from outside it."""
GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Content:
    """A selection of files.

    Args:
        datastore: the datastore that holds them; None: this machine, outside any datastore.
        patterns: folders, files and patterns, relative to the datastore's root (on this machine, to `/`).
        chosen: restricts the selection to these full names.
        asset: the registered asset, if any; the patterns are then its folder.
        is_single: the user named a single file, so a run gets that file's path instead of its folder's.
    """

    datastore: Datastore | None
    patterns: tuple[str, ...]
    chosen: tuple[str, ...] | None = None
    asset: Asset | None = None
    is_single: bool = False

    @property
    def store(self) -> Store:
        """labrun's datastore object; the file system root for files of this machine."""
        return LocalDatastore("local", "/") if self.datastore is None else self.datastore.store

    @functools.cached_property
    def files(self) -> dict[str, FileInfo]:
        """The files by full name, in order.

        Raises:
            UserErrorException: there are no files, or the datastore cannot be reached.
        """
        try:
            found = self._all()
        except DataError as error:
            raise UserErrorException(str(error)) from error
        if self.chosen is not None:
            found = {name: found[name] for name in self.chosen if name in found}
        elif not found:
            where = "on this machine" if self.datastore is None else f"in the datastore {self.datastore.name}"
            shown = ", ".join(f"/{one}" if self.datastore is None else one or "/" for one in self.patterns)
            raise UserErrorException(f"there are no files {where} under {shown}")
        return found

    def _all(self) -> dict[str, FileInfo]:
        if self.asset is not None:
            entries = assets.manifest(self.store, self.asset)
            return {f"{self.asset.path}/{one.path}".lstrip("/"): FileInfo(one.size, "") for one in entries}
        found: dict[str, FileInfo] = {}
        for pattern in self.patterns:
            # A name such as `data[1].csv` may be a file or a pattern; a file comes first.
            may_be_one = pattern and ("[" in pattern or not GLOB.search(pattern))
            if may_be_one and (single := self.store.find(pattern)) is not None:
                found[pattern] = single
                continue
            wanted = translated(pattern)
            listed = self.store.files(base_of(pattern))
            found |= {name: listed[name] for name in sorted(listed) if wanted.fullmatch(name)}
        return found

    @functools.cached_property
    def base(self) -> str:
        """The common folder of all files."""
        if self.asset is not None:
            return self.asset.path
        tops = [posixpath.dirname(one) if one in self.files else base_of(one) for one in self.patterns]
        return posixpath.commonpath(tops) if all(tops) else ""

    def below(self, name: str) -> str:
        """Return a file's name relative to the common folder."""
        return name[len(self.base) :].lstrip("/")

    def only(self, names: Sequence[str]) -> Content:
        """Return the selection restricted to these files."""
        return dataclasses.replace(self, chosen=tuple(names), is_single=False)

    def changed(self) -> float | None:
        """Return the newest modification time in seconds since 1970; None if the datastore is not local."""
        store = self.store
        if not isinstance(store, LocalDatastore):
            return None
        return max((store.path(name).stat().st_mtime for name in self.files), default=None)

    def local(self) -> list[tuple[str, str]]:
        """Return each file's local path and its name relative to the common folder, with a leading slash.

        Raises:
            UserErrorException: the files cannot be downloaded, or have changed since they were registered.
        """
        names = list(self.files)
        try:
            folder = self._folder()
        except DataError as error:
            raise UserErrorException(str(error)) from error
        return [(str(folder / self.below(name)), f"/{self.below(name)}") for name in names]

    def _folder(self) -> Path:
        """Return the local copy of the common folder, downloading it if necessary."""
        if self.asset is not None and self.datastore is not None:
            version = self.asset.number
            return Mounting(self.datastore.node, self.asset.name, version, [self.asset.name]).mount().path
        store = self.store
        if isinstance(store, LocalDatastore):
            return store.path(self.base)
        assert self.datastore is not None
        mark = store.identity
        wanted = [
            Wanted(self.below(name), name, info.size, "", info.token and f"{mark}|{info.token}")
            for name, info in self.files.items()
        ]
        key = hashlib.sha256(json.dumps([mark, *([one.source, one.size, one.token] for one in wanted)]).encode())
        settings = DatastoreSettings.of(self.datastore.node)
        return cache_of(settings).view(key.hexdigest()[:32], wanted, store, settings.workers)[0]

    def mount(self, default: Datastore) -> str:
        """Return the text that stands for the files in a run's config: a mount (versioned if registered), or a path.

        Args:
            default: the datastore that receives local files which a single path cannot describe.
        """
        if self.asset is not None and self.chosen is None:
            assert self.datastore is not None
            text = f"${{mount:{self.datastore.name}/{self.asset.name}@{self.asset.number}}}"
            return f"{text}/{self.below(next(iter(self.files)))}" if self.is_single else text
        plain = len(self.patterns) == 1 and not GLOB.search(self.patterns[0]) and self.chosen is None
        if plain and self.datastore is not None:
            return reference(self.datastore, self.patterns[0])
        if plain:
            path = f"/{self.patterns[0]}"
            notify_once(
                f"{path} is not in a datastore: the run reads it in place, and its record has no version of the data"
            )
            return path
        return self.register_as(self.anonymous_name(), default)[0].mount(default)

    def anonymous_name(self) -> str:
        """Return a name derived from the files' digest."""
        return f"data-{manifest_digest(self.entries())[:12]}"

    def entries(self) -> list[Entry]:
        """Return the files with their checksums, sorted by name.

        Raises:
            UserErrorException: a file cannot be read.
        """
        names = sorted(self.files)
        try:
            if self.asset is not None:
                known = {one.path: one.sha256 for one in assets.manifest(self.store, self.asset)}
                sums = [known[self.below(name)] for name in names]
            elif isinstance(self.store, LocalDatastore):
                sums = digests.of([self.store.path(name) for name in names])
            else:
                memory = DigestCache(self.store)
                sums = [self._sum(name, memory) for name in names]
        except (DataError, OSError) as error:
            raise UserErrorException(str(error)) from error
        return [Entry(self.below(name), self.files[name].size, one) for name, one in zip(names, sums, strict=True)]

    def _sum(self, name: str, memory: DigestCache) -> str:
        info = self.files[name]
        found = memory.known(name, info) or transfer.remote_sha256(self.store, name)
        memory.note(name, info, found)
        return found

    def register_as(self, name: str, default: Datastore) -> tuple[Content, bool]:
        """Register the files as a version of an asset; return it and whether it is new.

        Args:
            name: the asset's name.
            default: the datastore to which files of this machine are copied.

        Raises:
            UserErrorException: the datastore is not writable.
        """
        if self.datastore is None:
            return self.copied_to(default).register_as(name, default)
        entries = self.entries()
        seen = {self.below(full): info.token for full, info in self.files.items() if info.token}
        try:
            made, is_new = assets.register(self.store, name, self.base, entries, seen)
        except DataError as error:
            raise UserErrorException(str(error)) from error
        is_single = self.is_single or self._names_one_file()
        return Content(self.datastore, (made.path,), None, made, is_single), is_new

    def _names_one_file(self) -> bool:
        return (
            self.chosen is None
            and self.asset is None
            and list(self.patterns) == list(self.files)[:1] == list(self.files)
        )

    def copied_to(self, default: Datastore) -> Content:
        """Copy files of this machine to a datastore and return the copied files."""
        entries = self.entries()
        folder = f"{MANAGED}/{manifest_digest(entries)[:12]}"
        items = [
            Item(f"{folder}/{one.path}", Path("/", self.base, one.path), one.size)
            for one in entries
            if default.store.find(f"{folder}/{one.path}") is None
        ]

        def send(item: Item, on_progress: ProgressCallback) -> None:
            default.store.send(item.local, item.name, on_progress)

        try:
            transfer.transfer_all(default.store, items, send, Quiet())
        except DataError as error:
            raise UserErrorException(str(error)) from error
        notify_once(f"copied {counted(len(entries))} of /{self.base} to {folder} in the datastore {default.name}")
        is_one = self._names_one_file()
        return Content(default, (f"{folder}/{entries[0].path}" if is_one else folder,))


def counted(number: int) -> str:
    """Return a count of files as text, such as `2 files`."""
    return "1 file" if number == 1 else f"{number} files"


def base_of(pattern: str) -> str:
    """Return the folder before a pattern's first wildcard, or the pattern itself if it has none."""
    parts = pattern.split("/")
    for depth, part in enumerate(parts):
        if GLOB.search(part):
            return "/".join(parts[:depth])
    return pattern


def translated(pattern: str) -> re.Pattern[str]:
    """Return an SDK pattern as a regular expression.

    `**` matches any depth, `*` and `?` match within a name, and a folder stands for everything in it.
    """
    if not GLOB.search(pattern):
        return re.compile(re.escape(pattern) + "/.*" if pattern else ".*")
    found = ""
    for part in re.findall(r"\*\*/?|\*|\?|\[[^\]]*\]|[^*?\[]+|\[", pattern):
        if part.startswith("**"):
            found += "(?:.*/)?" if part.endswith("/") else ".*"
        elif part == "*":
            found += "[^/]*"
        elif part == "?":
            found += "[^/]"
        elif part.startswith("[") and len(part) > 1:
            found += f"[^{part[2:]}" if part.startswith("[!") else part
        else:
            found += re.escape(part)
    return re.compile(found)
