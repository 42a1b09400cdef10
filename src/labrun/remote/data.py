"""The data of runs that lie on this machine: sent to the other one by digest, only what is missing there.

A remote datastore is read there directly, and what a reader can fetch itself it fetches there. A folder that
`lab remote add --data HERE=THERE` names lies there already.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import exact, execute, schema
from labrun.checking import counted, size_text
from labrun.data import asset as assets
from labrun.data import digests, mount, reader
from labrun.data.asset import Asset
from labrun.data.stores.local import LocalDatastore
from labrun.remote.channel import Channel
from labrun.remote.link import Link
from labrun.runs.record import Record

STORE = "store"
AT_ONCE = 200
"""So many digests are asked for in one request."""


def send(channel: Channel, link: Link, found: Sequence[Record]) -> None:
    """Have the data of runs there.

    Args:
        channel: to the machine.
        link: of the runs' folder; is told where datastores lie there.
        found: their records.

    Raises:
        DataError: they are not here.
    """
    configs = {exact.canonical(_read(record)): _read(record) for record in found}
    for config in configs.values():
        if schema.is_local_datastore(config["datastore"]):
            _send_of(channel, link, config)


def _read(record: Record) -> dict[str, Any]:
    return {key: record.config.get(key) for key in ("dataset", "datastore", "script")}


def _send_of(channel: Channel, link: Link, config: Mapping[str, Any]) -> None:
    there = execute.here({key: value for key, value in config.items() if key != "script"})
    store = LocalDatastore(str(there["datastore"]["name"]), str(there["datastore"]["root"]))
    own = [Path(sys.prefix), Path(sys.base_prefix), *map(Path, link.machine.data)]
    found = dict.fromkeys(_files(store, there.get("dataset"), config))
    files = [path for path in found if not any(path.is_relative_to(place) for place in own)]
    sums = dict(zip(files, digests.of(files), strict=True))
    _send_missing(channel, link.remote, {digest: path for path, digest in sums.items()})
    places: dict[tuple[Path, str], dict[str, str]] = {}
    for path, digest in sums.items():
        base, root = _place(path, store, link)
        places.setdefault((base, root), {})[path.relative_to(base).as_posix()] = digest
    for (_, root), wanted in places.items():
        channel.call("link", store=STORE, to=root, files=wanted)


def _place(path: Path, store: LocalDatastore, link: Link) -> tuple[Path, str]:
    """The folder here that a file belongs to, and its double there: a datastore, this workspace, or its own folder."""
    if not path.is_relative_to(store.folder) and path.is_relative_to(link.home):
        return Path(link.home), link.workspace
    base = store.folder if path.is_relative_to(store.folder) else path.parent
    # One for each submission: files that are taken away or changed here later are not those of runs that wait there.
    digest = hashlib.sha256(f"{link.folder} {base}".encode()).hexdigest()[:16]
    return base, link.datastores.setdefault(str(base), f"datastores/{digest}")


def _send_missing(channel: Channel, name: str, by_digest: Mapping[str, Path]) -> None:
    paths = {f"{STORE}/{digest[:2]}/{digest}": digest for digest in by_digest}
    have: set[str] = set()
    listed = list(paths)
    for start in range(0, len(listed), AT_ONCE):
        have |= set(channel.call("have", paths=listed[start : start + AT_ONCE])["have"])
    missing = [paths[path] for path in listed if path not in have]
    total = sum(by_digest[digest].stat().st_size for digest in missing)
    if missing:
        sys.stderr.write(f"labrun: sending data to {name}: {counted(len(missing), 'file')}, {size_text(total)}\n")
    for digest in missing:
        with open(by_digest[digest], "rb") as file:
            channel.send("store", file, by_digest[digest].stat().st_size, store=STORE, digest=digest)


def _files(store: LocalDatastore, dataset: Mapping[str, Any] | None, config: Mapping[str, Any]) -> Iterator[Path]:
    """The files of this machine that a run reads."""
    for reference in dict.fromkeys(mount.references(json.loads(json.dumps(config, default=str)))):
        name, _, version = reference.partition("@")
        yield from _named(store, name, version or None)
    if not dataset or schema.has_loaders(dataset):
        return
    if dataset.get("asset") or dataset.get("version"):
        yield from _named(store, str(dataset.get("asset") or dataset["name"]), dataset.get("version"))
        return
    found = assets.find(store, str(dataset["name"]))
    if found is not None:
        yield from _of_asset(store, found)
        return
    reading = reader.make_reader(dataset)
    if reading.find(store.folder):
        yield from reading.files(store.folder)


def _named(store: LocalDatastore, name: str, version: Any) -> Iterator[Path]:
    found = assets.get(store, name, version) if version is not None else assets.find(store, name)
    if found is not None:
        yield from _of_asset(store, found)
        return
    place = store.path(name)
    yield from [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def _of_asset(store: LocalDatastore, found: Asset) -> Iterator[Path]:
    """An asset's files, and what registers it."""
    yield from (store.path(f"{found.path}/{entry.path}".lstrip("/")) for entry in assets.manifest(store, found))
    state = store.folder / ".labrun"
    registered = [
        *(state / "assets" / found.name).glob(f"{found.number}.*"),
        state / "manifests" / f"{found.version}.json",
    ]
    yield from (path for path in registered if path.is_file())
