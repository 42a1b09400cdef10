"""The files of a data set: what patterns select in a datastore, or a registered asset; and how a run gets them."""

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
from labrun.azureml.telling import once
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.data import asset as assets
from labrun.data import digests, transfer
from labrun.data.asset import Asset, Entry
from labrun.data.cache import Cache, Wanted
from labrun.data.mount import Mounting, cache_folder
from labrun.data.progress import Quiet
from labrun.data.reader import manifest_digest
from labrun.data.stores.base import Datastore as Store
from labrun.data.stores.base import FileInfo, ProgressCallback
from labrun.data.stores.local import LocalDatastore
from labrun.data.transfer import WORKERS, DigestCache, Item
from labrun.errors import DataError

MANAGED = "managed-dataset"
"""The folder of a datastore for files that came from elsewhere."""
GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Content:
    """Files.

    Args:
        datastore: where they lie; None: on this machine, outside of every datastore.
        patterns: folders, files and patterns, from the root; on this machine, from `/`.
        chosen: only these of them, by their full names.
        asset: what is registered; the patterns are its folder then.
        single: a single file was named: a run gets its path, not its folder's.
    """

    datastore: Datastore | None
    patterns: tuple[str, ...]
    chosen: tuple[str, ...] | None = None
    asset: Asset | None = None
    is_single: bool = False

    @property
    def store(self) -> Store:
        """What labrun has for the place."""
        return LocalDatastore("local", "/") if self.datastore is None else self.datastore.store

    @functools.cached_property
    def files(self) -> dict[str, FileInfo]:
        """The files by their full names, in order.

        Raises:
            UserErrorException: there are none, or the place cannot be reached.
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
            if not GLOB.search(pattern) and (single := self.store.find(pattern) if pattern else None) is not None:
                found[pattern] = single
                continue
            wanted = translated(pattern)
            listed = self.store.files(base_of(pattern))
            found |= {name: listed[name] for name in sorted(listed) if wanted.fullmatch(name)}
        return found

    @functools.cached_property
    def base(self) -> str:
        """The folder that all of them have in common."""
        if self.asset is not None:
            return self.asset.path
        tops = [posixpath.dirname(one) if one in self.files else base_of(one) for one in self.patterns]
        return posixpath.commonpath(tops) if all(tops) else ""

    def below(self, name: str) -> str:
        """A file's name below the common folder."""
        return name[len(self.base) :].lstrip("/")

    def only(self, names: Sequence[str]) -> Content:
        """Some of them."""
        return dataclasses.replace(self, chosen=tuple(names), is_single=False)

    def changed(self) -> float | None:
        """When the newest of them was changed, in seconds since 1970; None where the place is another machine's."""
        store = self.store
        if not isinstance(store, LocalDatastore):
            return None
        return max((store.path(name).stat().st_mtime for name in self.files), default=None)

    def local(self) -> list[tuple[str, str]]:
        """For each file, where it lies on this machine, and its name below the common folder, with a slash before it.

        Raises:
            UserErrorException: they cannot be brought here, or have changed since they were registered.
        """
        names = list(self.files)
        try:
            folder = self._folder()
        except DataError as error:
            raise UserErrorException(str(error)) from error
        return [(str(folder / self.below(name)), f"/{self.below(name)}") for name in names]

    def _folder(self) -> Path:
        """A local folder that has them, below the common one."""
        if self.asset is not None and self.datastore is not None:
            version = self.asset.number
            return Mounting(self.datastore.node, self.asset.name, version, [self.asset.name]).carry_out().path
        store = self.store
        if isinstance(store, LocalDatastore):
            return store.path(self.base)
        assert self.datastore is not None
        node, mark = self.datastore.node, store.identity
        wanted = [
            Wanted(self.below(name), name, info.size, "", info.token and f"{mark}|{info.token}")
            for name, info in self.files.items()
        ]
        key = hashlib.sha256(json.dumps([mark, *([one.source, one.size, one.token] for one in wanted)]).encode())
        cache = Cache(cache_folder(node), node.get("cache_gb"))
        return cache.view(key.hexdigest()[:32], wanted, store, int(node.get("workers") or WORKERS))[0]

    def mount(self, default: Datastore) -> str:
        """What a run's argument is: a mount, with the version of what is registered.

        Args:
            default: the datastore for files of this machine that several runs could not find again.
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
            once(f"{path} is in no datastore: the run reads it where it lies, and its record holds no version of it")
            return path
        return self.registered(self.anonymous_name(), default)[0].mount(default)

    def anonymous_name(self) -> str:
        """A name for files that have none."""
        return f"data-{manifest_digest([vars(one) for one in self.entries()])[:12]}"

    def entries(self) -> list[Entry]:
        """The files with their checksums, in the order of their names.

        Raises:
            UserErrorException: one cannot be read.
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

    def registered(self, name: str, default: Datastore) -> tuple[Content, bool]:
        """The files as a version of an asset, and whether it is new.

        Args:
            name: the asset's.
            default: the datastore for files of this machine, which are sent there.

        Raises:
            UserErrorException: the datastore cannot be written.
        """
        if self.datastore is None:
            return self.brought(default).registered(name, default)
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

    def brought(self, default: Datastore) -> Content:
        """Files of this machine in a datastore."""
        entries = self.entries()
        folder = f"{MANAGED}/{manifest_digest([vars(one) for one in entries])[:12]}"
        items = [
            Item(f"{folder}/{one.path}", Path("/", self.base, one.path), one.size)
            for one in entries
            if default.store.find(f"{folder}/{one.path}") is None
        ]

        def send(item: Item, heard: ProgressCallback) -> None:
            default.store.send(item.local, item.name, heard)

        try:
            transfer.transfer_all(default.store, items, send, Quiet())
        except DataError as error:
            raise UserErrorException(str(error)) from error
        once(f"{counted(len(entries))} of /{self.base} are copied to the datastore {default.name}, {folder}")
        is_one = self._names_one_file()
        return Content(default, (f"{folder}/{entries[0].path}" if is_one else folder,))


def counted(number: int) -> str:
    """So many files."""
    return "1 file" if number == 1 else f"{number} files"


def base_of(pattern: str) -> str:
    """The folder before a pattern's first wildcard; without one, the pattern itself."""
    parts = pattern.split("/")
    for place, part in enumerate(parts):
        if GLOB.search(part):
            return "/".join(parts[:place])
    return pattern


def translated(pattern: str) -> re.Pattern[str]:
    """A pattern of the SDK: `**` over any depth, `*` and `?` within a name. A folder is all that is in it."""
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
            found += part
        else:
            found += re.escape(part)
    return re.compile(found)
