"""Data assets: named, versioned folders of a datastore, registered in the datastore itself.

    .labrun/assets/<name>/<number>.json     one version: its digest, folder, number of files and bytes
    .labrun/assets/<name>/<number>.seen     the datastore's token for each file at registration (ETags, times)
    .labrun/manifests/<digest>.json         path, size and SHA-256 of each file; named by the digest of this list

The version is the digest of the manifest: equal content has an equal version, whoever registers it and wherever it is
stored. The number is for display. The manifest is written before the version file, so a version is complete or absent.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labrun.config.checking import is_sha256
from labrun.data.digests import Entry, manifest_digest
from labrun.data.stores.base import STATE, Datastore, clean, is_inside
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError
from labrun.messages import suggest
from labrun.runs.record import timestamp

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SHORT = 12
"""Digits of a version that are displayed."""
SHORTEST = 6
"""Shortest accepted digest prefix, characters."""


@dataclass(frozen=True)
class Asset:
    """One version of a data asset."""

    name: str
    number: int
    version: str
    path: str
    """The folder, relative to the datastore's root."""
    files: int
    bytes: int
    created: str

    @property
    def title(self) -> str:
        """Name for messages and logs."""
        return f"{self.name} version {self.number} ({self.version[:SHORT]})"


def check_name(name: str) -> str:
    """Return the name unchanged if it is a valid asset name.

    Raises:
        ConfigError: it is not valid.
    """
    if not NAME.fullmatch(name):
        written = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100]
        raise ConfigError(
            f"{name!r} is not a valid asset name: use at most 100 letters, digits, '.', '_' and '-', starting with a "
            "letter or digit" + (f". Use {written}: an Azure script finds it by both names" if written else "")
        )
    return name


def names(store: Datastore) -> list[str]:
    """Return the names of the assets registered in a datastore."""
    there = [name.rstrip("/") for name in store.folders(f"{STATE}/assets") if name.endswith("/")]
    return [name for name in there if NAME.fullmatch(name)]


def versions(store: Datastore, name: str) -> list[Asset]:
    """Return the versions of an asset, oldest first."""
    numbers = (entry.removesuffix(".json") for entry in store.folders(f"{STATE}/assets/{check_name(name)}"))
    found = []
    for number in sorted((n for n in numbers if n.isdecimal()), key=int):
        try:
            found.append(_read(store, name, int(number)))
        except CorruptDataError as error:  # the other versions are still usable
            log.warning("Left out: %s", error)
    return found


def find(store: Datastore, name: str, version: str | float | None = None) -> Asset | None:
    """Return a version of an asset, by default the newest; None if no asset has that name.

    Args:
        store: the datastore.
        name: the asset's name.
        version: its number or a prefix of its digest. A float is a prefix such as 12e456 that YAML parsed as a number.

    Raises:
        MissingDataError: the asset has no such version.
        DataError: its registration is damaged.
    """
    if not NAME.fullmatch(name):
        return None
    if version is None:
        numbers = [entry.removesuffix(".json") for entry in store.folders(f"{STATE}/assets/{name}")]
        newest = max((int(number) for number in numbers if number.isdecimal()), default=None)
        return None if newest is None else _read(store, name, newest)
    wanted = str(version)
    if wanted.isdecimal() and len(wanted) < SHORT and store.find(f"{STATE}/assets/{name}/{int(wanted)}.json"):
        return _read(store, name, int(wanted))
    found = versions(store, name)
    matches = [asset for asset in found if str(asset.number) == wanted]
    if isinstance(version, float):
        matches = [asset for asset in found if _begins_as(asset.version, version)]
        if len({asset.version for asset in matches}) > 1:
            raise MissingDataError(
                f"asset '{name}' in datastore '{store.name}': the version was parsed as the number {wanted}, which "
                "more than one version starts with. Give the version's number, or quote the beginning of its digest"
            )
    elif not matches and len(wanted) >= SHORTEST:
        matches = [asset for asset in found if asset.version.startswith(wanted.lower())]
    if found and not matches:
        there = ", ".join(f"{asset.number} ({asset.version[:SHORT]})" for asset in found)
        raise MissingDataError(f"asset '{name}' in datastore '{store.name}' has no version {wanted}. It has: {there}")
    return matches[-1] if matches else None


def _begins_as(digest: str, number: float) -> bool:
    """Return whether a prefix of the digest parses as the given number."""
    for length in range(SHORTEST, len(digest) + 1):
        try:
            if float(digest[:length]) == number:
                return True
        except ValueError:
            continue
    return False


def get(store: Datastore, name: str, version: str | float | None = None) -> Asset:
    """Like `find`, but raise if the asset does not exist.

    Raises:
        MissingDataError: there is no such asset; the message lists the registered ones.
    """
    found = find(store, name, version)
    if found is None:
        there = names(store)
        raise MissingDataError(
            f"no asset '{name}' is registered in datastore '{store.name}'.{suggest(name, there)} "
            f"Registered: {', '.join(there) or 'none'}"
        )
    return found


def register(
    store: Datastore, name: str, path: str, entries: Sequence[Entry], seen: Mapping[str, str]
) -> tuple[Asset, bool]:
    """Register a folder's files under a name.

    Args:
        store: the datastore.
        name: the asset's name.
        path: the folder, relative to the datastore's root.
        entries: its files.
        seen: the datastore's current token for each file.

    Returns:
        The version, and whether it is new: the same content in the same folder is the same version.

    Raises:
        DataError: there are no files, or the datastore cannot be written.
    """
    check_name(name)
    if not entries:
        raise DataError(f"asset '{name}' would be empty: there are no files in {path or 'the root'!r}")
    entries = sorted(entries, key=lambda entry: entry.path)
    version = manifest_digest(entries)
    known = versions(store, name)
    for asset in known:
        if asset.version == version and asset.path == clean(path):
            return asset, False
    same = [asset.number for asset in known if asset.version == version]
    store.write(f"{STATE}/manifests/{version}.json", json.dumps([vars(entry) for entry in entries]).encode())
    number = same[0] if same else 1 + max((asset.number for asset in known), default=0)
    while True:
        asset = Asset(
            name, number, version, clean(path), len(entries), sum(entry.size for entry in entries), timestamp()
        )
        base = f"{STATE}/assets/{name}/{number}"
        # Known content in another folder: keep the version and its number, and record the new folder.
        if store.write(f"{base}.json", json.dumps(vars(asset), indent=1).encode(), only_new=not same):
            store.write(f"{base}.seen", json.dumps(dict(seen)).encode())
            return asset, not same
        # Another process has just registered that number, perhaps with the same content.
        for other in versions(store, name):
            if other.version == version and other.path == clean(path):
                return other, False
        number += 1


def manifest(store: Datastore, asset: Asset) -> list[Entry]:
    """Read and verify the manifest of an asset.

    Raises:
        CorruptDataError: the manifest is not the one that was registered.
        DataError: it cannot be read.
    """
    where = f"{STATE}/manifests/{asset.version}.json"
    try:
        listed = json.loads(store.read(where))
        entries = [Entry(str(e["path"]), int(e["size"]), str(e["sha256"])) for e in listed]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptDataError(f"the manifest of asset {asset.title} ({where}) is damaged") from error
    for entry in entries:
        if not is_inside(entry.path) or clean(entry.path) != entry.path or not is_sha256(entry.sha256):
            raise CorruptDataError(f"the manifest of asset {asset.title} has an invalid entry: {entry.path!r}")
    if manifest_digest(sorted(entries, key=lambda entry: entry.path)) != asset.version:
        raise CorruptDataError(f"the manifest of asset {asset.title} ({where}) is not the one that was registered")
    return entries


def seen(store: Datastore, asset: Asset) -> dict[str, str]:
    """Return the datastore's token for each file at registration; empty if unknown."""
    try:
        content = json.loads(store.read(f"{STATE}/assets/{asset.name}/{asset.number}.seen"))
    except (MissingDataError, ValueError, RecursionError):
        return {}
    return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}


def unregister(store: Datastore, asset: Asset) -> None:
    """Unregister a version; its files stay. The manifest is removed with the last version that uses it."""
    base = f"{STATE}/assets/{asset.name}/{asset.number}"
    for suffix in (".json", ".seen"):
        store.remove(base + suffix)
    still = {other.version for name in names(store) for other in versions(store, name)}
    if asset.version not in still:
        store.remove(f"{STATE}/manifests/{asset.version}.json")


def _read(store: Datastore, name: str, number: int) -> Asset:
    where = f"{STATE}/assets/{name}/{number}.json"
    try:
        content = json.loads(store.read(where))
        asset = Asset(**content)
    except MissingDataError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptDataError(f"{where} in datastore '{store.name}' is damaged") from error
    kinds = {str: (asset.name, asset.version, asset.path, asset.created), int: (asset.number, asset.files, asset.bytes)}
    plain = all(type(one) is kind for kind, values in kinds.items() for one in values) and is_inside(asset.path)
    if not plain or asset.name != name or asset.number != number or asset.files < 0 or asset.bytes < 0:
        raise CorruptDataError(f"{where} in datastore '{store.name}' is damaged, or belongs to another asset")
    if not is_sha256(asset.version) or clean(asset.path) != asset.path:
        raise CorruptDataError(f"{where} in datastore '{store.name}' is damaged, or belongs to another asset")
    return asset
