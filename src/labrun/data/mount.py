"""Mounting: give a run a local path to read its data from.

A local folder is used in place and never modified. Files of a remote datastore are fetched into a content-addressed
cache, once for all runs that share it.

A name resolves to the first of these that exists: the asset registered under it; the folder of that name; for a data
set, one of the folders that its reader knows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.config import schema
from labrun.config.instantiate import Node
from labrun.config.schema import DatasetSettings, DatastoreSettings
from labrun.data import assets, digests, stores
from labrun.data.assets import Asset
from labrun.data.cache import Cache, Wanted
from labrun.data.digests import Entry
from labrun.data.stores.base import Datastore, FileInfo, clean
from labrun.data.stores.local import LocalDatastore
from labrun.errors import CorruptDataError, MissingDataError
from labrun.messages import counted, size_text
from labrun.runs.groups import DataEntry
from labrun.runs.store import workspace
from labrun.runs.workspace import Workspace

if TYPE_CHECKING:
    from labrun.data.reader import Reader

log = logging.getLogger(__name__)

MAX_LISTED = 6
"""Entries of a mounted folder that the log lists."""


@dataclass(frozen=True)
class Mounted:
    """A mounted input of a run."""

    path: Path
    asset: Asset | None
    moved: int
    """Bytes that this process fetched."""
    datastore: str

    def described(self, entry: DataEntry) -> DataEntry:
        """Return a record's entry with where its data came from."""
        found = dataclasses.replace(entry, datastore=self.datastore, moved_bytes=self.moved)
        if self.asset is not None:
            found.asset, found.version, found.number = self.asset.name, self.asset.version, self.asset.number
        return found


def mount(datastore: Node, dataset: Node, reader: Reader | None = None) -> Mounted:
    """Mount a data set: provide the local folder that its reader reads from.

    Args:
        datastore: the config's `datastore`, resolved.
        dataset: the config's `dataset`: its `asset` (else its `name`) and its `version` select what is mounted.
        reader: the data set's reader; knows where a datastore without such an asset keeps files of its kind.

    Raises:
        MissingDataError: the data are missing.
        CorruptDataError: a file of the asset has changed since it was registered.
        DataError: the datastore cannot be reached, or the cache has no room.
    """
    settings = DatasetSettings.of(dataset)
    known = reader.candidates() if reader is not None else ()
    if known is None and not settings.asset and settings.version is None:
        # Nothing of the datastore is read, unless an asset has the data set's own name.
        store = stores.make(datastore)
        if isinstance(store, LocalDatastore):
            wanted = Mounting(datastore, settings.name, None, [], of_data_set=True)
            return Mounted(store.folder, None, 0, store.name) if wanted.find_asset() is None else wanted.mount()
        return Mounted(Path.cwd(), None, 0, store.name)
    return of_dataset(datastore, settings, [settings.place, *(known or ())]).mount()


def of_dataset(datastore: Node, settings: DatasetSettings, candidates: Sequence[str]) -> Mounting:
    """Return the `Mounting` of a data set; for the candidates see `Mounting`."""
    must_be_asset = bool(settings.asset)
    return Mounting(datastore, settings.place, settings.version, candidates, must_be_asset, of_data_set=True)


def mount_reference(text: str, datastore: Node, others: Mapping[str, Node]) -> Mounted:
    """Mount what `${mount:TEXT}` refers to: an asset of the run's datastore, or a folder or file of any datastore.

    Args:
        text: `NAME`, `NAME@VERSION`, `folder/file` or `DATASTORE/folder`.
        datastore: the config's `datastore`, resolved.
        others: further datastores, by name.

    Raises: as `mount`.
    """
    return referred(text, datastore, others).mount()


def referred(text: str, datastore: Node, others: Mapping[str, Node]) -> Mounting:
    """Like `mount_reference`, but return the `Mounting` without mounting it."""
    first, _, rest = text.partition("/")
    if rest and first in others:
        datastore, text = others[first], rest
    elif rest and first == datastore["name"]:
        text = rest
    name, _, version = text.partition("@")
    return Mounting(datastore, name, version or None, [text])


def local_root(datastore: Node, dataset: Node) -> Path | None:
    """Like `mount` for a local folder, but without checking its files; None for a remote datastore."""
    if not schema.is_local_datastore(datastore):
        return None
    wanted = of_dataset(datastore, DatasetSettings.of(dataset), [])
    store, asset = wanted.store, wanted.find_asset()
    assert isinstance(store, LocalDatastore)
    return store.folder if asset is None else store.path(asset.path)


class Mounting:
    """An input to be mounted.

    Args:
        node: the config's `datastore`, resolved.
        name: the user's name for it.
        version: version of the asset; None: the newest.
        candidates: folders in the datastore to try if no asset has the name.
        must_be_asset: do not fall back to a folder of that name.
        of_data_set: the input is a data set, whose reader finds its own files below the root of a local datastore.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        version: Any,
        candidates: Sequence[str],
        must_be_asset: bool = False,
        of_data_set: bool = False,
    ) -> None:
        self._settings, self._name, self._version = DatastoreSettings.of(node), name, version
        self._candidates = list(dict.fromkeys(candidates))
        self._must_be_asset, self._of_data_set = must_be_asset, of_data_set
        self.store = stores.make(node)

    def mount(self) -> Mounted:
        """Mount the input and log it."""
        began = time.monotonic()
        what = f"Mounting input '{self._name}' from datastore '{self.store.name}' ..."
        if not self.store.is_local:  # may take a while
            log.info(what)
        asset = self.find_asset()
        if isinstance(self.store, LocalDatastore):
            found = Mounted(self._in_place(self.store, asset), asset, 0, self.store.name)
        else:
            found = self._cached(asset)
        of = "" if asset is None else f"; {asset.title}, {counted(asset.files, 'file')}, {size_text(asset.bytes)}"
        moved = "in place, 0 bytes moved" if self.store.is_local else f"{size_text(found.moved)} moved"
        log.info("%s Mounted at %s (%s in %.1f s%s)", what, found.path, moved, time.monotonic() - began, of)
        if there := _contents_of(found.path):
            log.info("There: %s", there)
        return found

    def find_asset(self) -> Asset | None:
        """Return the asset of that name and version, if any.

        Raises:
            MissingDataError: there is none, and the user asked for an asset or a version.
        """
        if self._must_be_asset or self._version is not None:
            return assets.get(self.store, self._name, self._version)
        return assets.find(self.store, self._name)

    def look(self) -> None:
        """Check that the input can be mounted, without transferring anything.

        Raises: as `mount`.
        """
        if self.find_asset() is not None:
            return
        if not isinstance(self.store, LocalDatastore):
            self._place()
        elif not self._of_data_set:
            self._in_place(self.store, None)

    def _in_place(self, store: LocalDatastore, asset: Asset | None) -> Path:
        if asset is not None:
            return self._registered_only(store, asset, *check_local(store, asset))
        if self._of_data_set:
            return store.folder
        place = self._candidates[0]
        if not store.path(place).exists():
            raise MissingDataError(f"datastore '{store.name}' ({store.root}) has neither an asset nor a file '{place}'")
        return store.path(place)

    def _registered_only(self, store: LocalDatastore, asset: Asset, entries: Sequence[Entry], more: set[str]) -> Path:
        """Return the asset's folder; if it has unregistered files too, a folder of links to the registered ones."""
        if not more:
            return store.path(asset.path)
        key = hashlib.sha256(json.dumps([store.identity, asset.path, asset.version]).encode()).hexdigest()[:32]
        folder = cache_folder(self._settings) / "links" / key
        log.info(
            "%s in the folder are not registered (such as %s) and are left out",
            counted(len(more), "file"),
            min(more),
        )
        made = folder.with_name(f".{key}.{os.getpid()}-{os.urandom(4).hex()}")
        for entry in () if folder.is_dir() else entries:
            link = made / entry.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(store.path(f"{asset.path}/{entry.path}"))
        if made.is_dir():
            with contextlib.suppress(OSError):  # another run has made it meanwhile
                made.rename(folder)
            shutil.rmtree(made, ignore_errors=True)
        return folder

    def _cached(self, asset: Asset | None) -> Mounted:
        cache, workers = cache_of(self._settings), self._settings.workers
        if asset is not None:
            entries = assets.manifest(self.store, asset)
            self._check_listed(asset, entries)
            wanted = [Wanted(e.path, f"{asset.path}/{e.path}".lstrip("/"), e.size, e.sha256) for e in entries]
            path, moved = cache.view(asset.version[:32], wanted, self.store, workers)
            return Mounted(path, asset, moved, self.store.name)
        place, files = self._place()
        single = files.get(place)
        files = {place: single} if single is not None else files
        mark = self.store.identity
        wanted = [
            Wanted(name, name, found.size, "", found.token and f"{mark}|{found.token}") for name, found in files.items()
        ]
        listed = json.dumps([mark, *([w.path, w.size, w.token or time.time()] for w in wanted)])
        path, moved = cache.view(hashlib.sha256(listed.encode()).hexdigest()[:32], wanted, self.store, workers)
        return Mounted(path if self._of_data_set else path / place, None, moved, self.store.name)

    def _place(self) -> tuple[str, dict[str, FileInfo]]:
        """Return the first candidate folder that has files, with its files."""
        for place in self._candidates:
            files = self.store.files(clean(place))
            if place == ".":
                files = {name: found for name, found in files.items() if "/" not in name}
            if files:
                return clean(place), files
        self.store.check_root()
        there = ", ".join(assets.names(self.store)[:20]) or "none"
        folders = ", ".join(self.store.folders()[:20]) or "nothing"
        tried = " or ".join(repr("/" if place in ("", ".") else place) for place in self._candidates)
        raise MissingDataError(
            f"datastore '{self.store.name}' ({self.store.root}) has no asset '{self._name}' and nothing in {tried}. "
            f"Registered there: {there}; its root has: {folders}. To upload your files: "
            f"lab data upload FOLDER --datastore {self.store.name} --name {self._name}"
        )

    def _check_listed(self, asset: Asset, entries: Sequence[Entry]) -> None:
        """Compare the datastore's listing with the manifest, so that changed files are not served from the cache.

        Raises:
            CorruptDataError: a file is missing, or its size or content has changed.
        """
        listed, seen = self.store.files(asset.path), assets.seen(self.store, asset)
        for entry in entries:
            name = f"{asset.path}/{entry.path}".lstrip("/")
            found = listed.get(name)
            if found is None or found.size != entry.size:
                what = "is gone" if found is None else f"has {found.size:,} bytes now, and had {entry.size:,}"
                raise changed(asset, self.store, name, what)
            if found.token != seen.get(entry.path, found.token):
                self._check_content(asset, entry, name, found)

    def _check_content(self, asset: Asset, entry: Entry, name: str, found: FileInfo) -> None:
        """Check the content of a file whose token differs from registration; it is read once per new token."""
        from labrun.data.transfer import DigestCache, remote_sha256

        memory = DigestCache(self.store)
        sha256 = memory.known(name, found) or remote_sha256(self.store, name)
        memory.note(name, found, sha256)
        if sha256 != entry.sha256:
            raise changed(asset, self.store, name, "has other content")


def check_local(store: LocalDatastore, asset: Asset, afresh: bool = False) -> tuple[list[Entry], set[str]]:
    """Compare a local asset's files with its manifest.

    Args:
        store: the datastore.
        asset: the asset.
        afresh: read every byte, even of files whose size, times and inode are unchanged.

    Returns:
        The manifest, and the names of unregistered files in the asset's folder.

    Raises:
        CorruptDataError: a file is missing or has changed.
    """
    entries, listed = assets.manifest(store, asset), store.files(asset.path)
    names = [f"{asset.path}/{entry.path}".lstrip("/") for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        if name not in listed or listed[name].size != entry.size:
            raise changed(asset, store, entry.path, "has another size" if name in listed else "is gone")
    for entry, sha256 in zip(entries, digests.of([store.path(name) for name in names], afresh), strict=True):
        if sha256 != entry.sha256:
            raise changed(asset, store, entry.path, "has other content")
    return list(entries), set(listed) - set(names)


def changed(asset: Asset, store: Datastore, name: str, what: str) -> CorruptDataError:
    """Return the error for a file that differs from what was registered."""
    return CorruptDataError(
        f"{name} of asset {asset.title} in datastore '{store.name}' {what}. Put the old file back, or register the "
        f"folder as it is now: lab data upload FOLDER {asset.path} --datastore {store.name} --name {asset.name} "
        "--overwrite"
    )


def cache_of(settings: DatastoreSettings) -> Cache:
    """Return the cache for files of a remote datastore."""
    return Cache(cache_folder(settings), settings.cache_gb)


def cache_folder(settings: DatastoreSettings) -> Path:
    """Return the folder of that cache."""
    if settings.cache:
        return Path(settings.cache).expanduser().resolve()
    return Workspace(workspace()).cache


def _contents_of(path: Path) -> str:
    if path.is_file():
        return f"{path.name} ({size_text(path.stat().st_size)})"
    if not path.is_dir():
        return ""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.exists())
    shown = [f"{e.name}/" if e.is_dir() else f"{e.name} ({size_text(e.stat().st_size)})" for e in entries[:MAX_LISTED]]
    return ", ".join(shown) + (f", and {len(entries) - MAX_LISTED} more" if len(entries) > MAX_LISTED else "")
