"""Transfer of runs' local data to a remote machine by digest; only missing files are sent.

The remote machine reads remote datastores directly, and fetches data itself if the reader can. Folders declared with
`lab remote add --data HERE=THERE` already exist there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun.config import exact, schema
from labrun.config.instantiate import Node
from labrun.config.references import references, resolve_environment
from labrun.config.schema import Config
from labrun.data import assets, digests
from labrun.data.assets import Asset
from labrun.data.stores.base import STATE
from labrun.data.stores.local import LocalDatastore
from labrun.errors import DataError
from labrun.messages import counted, size_text
from labrun.remote import links
from labrun.remote.channel import AT_ONCE, Channel, Meter, remote_digests
from labrun.remote.helper import RESUME_MIN_BYTES
from labrun.remote.links import Link
from labrun.runs.record import Record
from labrun.runs.store import workspace
from labrun.runs.workspace import Workspace
from labrun.submission import environments

STORE = "store"


def send(channel: Channel, link: Link, run_records: Sequence[Record], keep: bool = False) -> None:
    """Send the data of runs.

    Args:
        channel: the channel to the machine.
        link: the link of the runs' folder; updated with the remote paths of datastores and files.
        run_records: the runs' records.
        keep: runs may already be reading the data: keep what was sent, even if it has changed locally.

    Raises:
        DataError: the data are missing locally.
    """
    if keep and link.datastores:
        remote_folders = [link.data_folder(Path(base)) for base in link.bases]
        if set(channel.call("have", paths=remote_folders)["have"]) == set(remote_folders):
            return
    configs = {exact.canonical(data_nodes(record)): data_nodes(record) for record in run_records}
    files_by_base: dict[Path, dict[str, str]] = {}
    for config in configs.values():
        _send_of(channel, link, config, files_by_base)
    for base, wanted in files_by_base.items():
        channel.call("link", store=STORE, to=link.data_folder(base), files=wanted)
    link.bases = sorted({*link.bases, *map(str, files_by_base)})


def data_nodes(record: Record) -> dict[str, Any]:
    """Return the nodes of a run's config that may refer to data."""
    return {key: record.config[key] for key in links.DATA_NODES if record.config.get(key)}


def resolved_nodes(config: Node) -> dict[str, Any]:
    """Return a config's nodes that may refer to data, with local variables resolved, without `script`."""
    return resolve_environment({key: value for key, value in config.items() if key != "script"})


def _send_of(channel: Channel, link: Link, config: Node, files_by_base: dict[Path, dict[str, str]]) -> None:
    resolved = Config(resolved_nodes(config))
    stores = _stores(resolved)
    named = list(map(Path, links.absolute([resolved.raw, config.get("script")])))
    interpreters, declared = [Path(sys.prefix), Path(sys.base_prefix)], list(map(Path, link.machine.data))
    paths = dict.fromkeys(_files(stores, resolved, Config(config)))
    files = [path for path in paths if not any(path.is_relative_to(place) for place in [*interpreters, *declared])]
    declared_files = [path for path in paths if any(path.is_relative_to(place) for place in declared)]
    _check_reach(link, declared_files, stores, named)
    _compare(channel, link, declared_files)
    sums = dict(zip(files, digests.of(files), strict=True))
    send_missing(channel, link.remote, {digest: path for path, digest in sums.items()})
    for path, digest in sums.items():
        base = _base(path, stores, named, link)
        files_by_base.setdefault(base, {})[path.relative_to(base).as_posix()] = digest
        if base != Path(link.home):
            link.datastores[str(base)] = link.data_folder(base)
        for name in named:
            if (path == name or path.is_relative_to(name)) and name.is_relative_to(base):
                link.datastores[str(name)] = os.path.normpath(f"{link.data_folder(base)}/{name.relative_to(base)}")


def _check_reach(
    link: Link, files: Sequence[Path], stores: Mapping[str, LocalDatastore], named: Sequence[Path]
) -> None:
    """Check that remote runs will find files declared with `--data`: the config's paths must be in the declared folder.

    Raises:
        DataError: `--data` declares a part of a datastore, but runs look for the files in the whole datastore.
    """
    for path in files:
        local, remote = next(pair for pair in link.machine.data.items() if path.is_relative_to(pair[0]))
        store = next((one.folder for one in stores.values() if path.is_relative_to(one.folder)), None)
        if store is None or any(path.is_relative_to(name) and name.is_relative_to(local) for name in named):
            continue
        add = f"lab remote add {link.remote} {link.machine.address} --data"
        raise DataError(
            f"'--data {local}={remote}' names a part of the datastore {store}, but runs on {link.remote} look for "
            f"{path.relative_to(store)} in the whole. Name a copy of the whole: {add} {store}=THERE, or have the "
            f"files sent: {add} {local}="
        )


def _compare(channel: Channel, link: Link, files: Sequence[Path]) -> None:
    """Check that remote files declared with `--data` equal the local ones.

    Raises:
        DataError: a file is missing there, or is different.
    """
    pairs = sorted(link.machine.data.items(), key=lambda pair: -len(pair[0]))
    sums = {links.moved(str(path), pairs): digest for path, digest in zip(files, digests.of(files), strict=True)}
    for remote_path, digest in remote_digests(channel, list(sums)).items():
        if digest != sums[remote_path]:
            local, remote = next(pair for pair in pairs if remote_path.startswith(pair[1]))
            raise DataError(
                f"{remote_path} {'is missing' if digest is None else 'is different'} on {link.remote}, although "
                f"'lab remote add --data {local}={remote}' declares the files as identical: bring them "
                f"up to date, or have the files sent: "
                f"lab remote add {link.remote} {link.machine.address} --data {local}="
            )


def _stores(config: Config) -> dict[str, LocalDatastore]:
    """Return the local datastores of a config by name; the run's own is also under the empty name."""
    main = config.datastore
    nodes = {**config.datastores, str(main["name"]): main, "": main}
    return {
        name: LocalDatastore(str(node["name"]), str(node["root"]))
        for name, node in nodes.items()
        if schema.is_local_datastore(node)
    }


def _base(path: Path, stores: Mapping[str, LocalDatastore], named: Sequence[Path], link: Link) -> Path:
    """Return the local folder of a file: a datastore, this workspace, or a folder in the config.

    Its remote copy belongs to this submission only, so that waiting runs do not see later local changes.
    """
    inside = [store.folder for store in stores.values() if path.is_relative_to(store.folder)]
    if not inside and path.is_relative_to(link.home):
        return Path(link.home)
    above = inside or [name for name in named if path != name and path.is_relative_to(name)] or [path.parent]
    return max(above, key=lambda place: len(place.parts))


def send_missing(channel: Channel, name: str, by_digest: Mapping[str, Path], what: str = "data") -> None:
    """Send files, by digest, that the remote store does not have.

    Raises:
        RequestRefusedError: the remote disk has no room for them.
    """
    paths = {f"{STORE}/{digest[:2]}/{digest}": digest for digest in by_digest}
    have, free = set[str](), 0
    listed = list(paths)
    for start in range(0, len(listed), AT_ONCE):
        answer = channel.call("have", paths=listed[start : start + AT_ONCE])
        have, free = have | set(answer["have"]), int(answer["free"])
    missing = [paths[path] for path in listed if path not in have]
    sizes = {digest: by_digest[digest].stat().st_size for digest in missing}
    total = sum(sizes.values())
    large = [digest for digest, size in sizes.items() if size >= RESUME_MIN_BYTES]
    begun = channel.call("begun", store=STORE, digests=large)["begun"] if large else {}
    if (wanted := total - sum(begun.values())) > free:
        raise channel.no_room(f"{size_text(wanted)} of {what} to send, but its disk has room for {size_text(free)}")
    if missing:
        sys.stderr.write(f"labrun: sending {what} to {name}: {counted(len(missing), 'file')}, {size_text(total)}\n")
    meter = Meter(f"sending {what} to {name}", total)
    for digest, size in sizes.items():
        start = min(begun.get(digest, 0), size)
        with open(by_digest[digest], "rb") as file:
            file.seek(start)
            meter(start)
            channel.send("store", file, size - start, meter, store=STORE, digest=digest, start=start)


def _files(stores: Mapping[str, LocalDatastore], resolved: Config, config: Config) -> Iterator[Path]:
    """Yield the local files that a run reads."""
    for reference in dict.fromkeys(references(json.loads(json.dumps(config.raw, default=str)))):
        yield from _mounted(stores, reference, resolved.datastores)
    if config.script is not None and config.script.requirements:
        yield from environments.files(Path(config.script.requirements), config.script.azureml)
    store, dataset = stores.get(""), resolved.dataset
    if store is None or not dataset or resolved.has_loaders:
        return
    settings = resolved.dataset_settings
    if settings.asset or settings.version:
        yield from _named(store, settings.place, settings.version)
        return
    asset = assets.find(store, settings.name)
    if asset is not None:
        yield from _of_asset(store, asset)
        return
    from labrun.data import reader  # loads NumPy

    reading = reader.make_reader(dataset)
    if reading.find(store.folder):
        for path in reading.files(store.folder):
            yield from [path, *_beside(path)] if dataset.get("script") else [path]


QUOTED = re.compile(r"""["']([^"'\n]+)["']""")


def _beside(script: Path) -> Iterator[Path]:
    """Yield the files that a `get_data()` script reads from its own folder, as far as known: those named in its text.

    In the folder of a script that labrun wrote (`azureml.automl_data`), all other files are its data.
    """
    if script.parent.parent.name == "automl" and script.parent.is_relative_to(Workspace(workspace()).state):
        yield from (path for path in script.parent.iterdir() if path.is_file() and path != script)
        return
    for name in dict.fromkeys(QUOTED.findall(script.read_text(encoding="utf-8", errors="replace"))):
        with contextlib.suppress(OSError):  # a text that is not a valid file name
            path = script.parent / name
            if ".." not in path.parts and path.is_file() and not path.is_symlink() and path != script:
                yield path


def _mounted(stores: Mapping[str, LocalDatastore], reference: str, others: Mapping[str, Node]) -> Iterator[Path]:
    """Yield the files of `${mount:...}`; none if its datastore is not local."""
    first, slash, rest = reference.partition("/")
    name = first if slash and (first in others or first in stores) else ""
    if name in stores:
        text, _, version = (rest if name else reference).partition("@")
        yield from _named(stores[name], text, version or None)


def _named(store: LocalDatastore, name: str, version: Any) -> Iterator[Path]:
    asset = assets.get(store, name, version) if version is not None else assets.find(store, name)
    if asset is not None:
        yield from _of_asset(store, asset)
        return
    target = store.path(name)
    yield from [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())


def _of_asset(store: LocalDatastore, asset: Asset) -> Iterator[Path]:
    """Yield an asset's files and the files of its registration."""
    yield from (store.path(f"{asset.path}/{entry.path}".lstrip("/")) for entry in assets.manifest(store, asset))
    state = store.folder / STATE
    registered = [
        *(state / "assets" / asset.name).glob(f"{asset.number}.*"),
        state / "manifests" / f"{asset.version}.json",
    ]
    yield from (path for path in registered if path.is_file())
