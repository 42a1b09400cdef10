"""Registered data sets: versions of assets, with the additional metadata of the SDK.

An asset has a name, a version and files, and is stored in its datastore. The workspace's table is keyed by the data
set's name (which may contain spaces) and adds to each version how it is read, a description and tags. An asset that
`lab data upload` registered is a data set too: a tabular one if all of its files are tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labrun.azureml import folder
from labrun.azureml.content import Content
from labrun.azureml.datastore import Datastore
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import registered, script_context, tables
from labrun.data import assets
from labrun.errors import DataError
from labrun.runs.record import timestamp

TABLE = "datasets"


@dataclass(frozen=True)
class Version:
    """A version of a data set."""

    name: str
    number: int
    content: Content
    table: dict[str, Any] | None
    """The table definition (how its files are read); None for a file data set."""
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.name}:{self.number}"


def names(workspace: Workspace) -> list[str]:
    """Return the names of all data sets: those in the table and the assets of the default datastore."""
    rows = {name: row for name, row in folder.read_table(workspace.folder, TABLE).items() if not row.get("hidden")}
    taken = {row["asset"] for row in rows.values()}
    try:
        asset_names = assets.names(Datastore(workspace).store)
    except DataError as error:
        raise UserErrorException(str(error)) from error
    return sorted({*rows, *(name for name in asset_names if name not in taken and not is_anonymous(name))})


def is_anonymous(name: str) -> bool:
    """Return whether an asset's name was generated for files without a name."""
    return name.startswith("data-") and len(name) == 17 and all(c in "0123456789abcdef" for c in name[5:])


def versions(workspace: Workspace, name: str, default: Datastore | None = None) -> dict[int, Version]:
    """Return the versions of a data set, oldest first; empty if there is no such data set.

    Args:
        workspace: the workspace.
        name: the data set's name.
        default: the default datastore, if the caller has it: finding it requires composing the config.

    Raises:
        UserErrorException: a datastore cannot be reached.
    """
    row = folder.read_table(workspace.folder, TABLE).get(name)
    found, seen = {}, set()
    default = default or Datastore(workspace)
    stores = {default.name: default}
    try:
        for number, entry in sorted(((int(key), one) for key, one in (row or {}).get("versions", {}).items())):
            datastore = stores.get(entry["datastore"]) or Datastore(workspace, entry["datastore"])
            stores[entry["datastore"]] = datastore
            seen.add((entry["datastore"], entry["number"]))
            made = assets.find(datastore.store, row["asset"] if row else name, entry["number"])
            if made is not None:
                content = Content(datastore, (made.path,), None, made, entry.get("single", False))
                tags = entry.get("tags") or {}
                found[number] = Version(name, number, content, entry.get("table"), entry.get("description") or "", tags)
        _add_plain(default, name, row, found, seen)
    except DataError as error:
        raise UserErrorException(str(error)) from error
    return dict(sorted(found.items()))


def _add_plain(
    datastore: Datastore, name: str, row: Mapping[str, Any] | None, found: dict[int, Version], seen: set[Any]
) -> None:
    """Add the versions that exist only as assets, without a table entry."""
    for made in assets.versions(datastore.store, row["asset"] if row else script_context.asset_name(name)):
        if (datastore.name, made.number) in seen:
            continue
        number = made.number if made.number not in found else max(found) + 1
        content = Content(datastore, (made.path,), None, made)
        all_tables = all(tables.is_table(one) for one in content.files)
        found[number] = Version(name, number, content, tables.ANY if all_tables else None)


def get(workspace: Workspace, name: str, version: Any = "latest") -> Version:
    """Return a version of a data set.

    Raises:
        UserErrorException: there is no such version; the message lists the existing ones.
    """
    found = versions(workspace, name)
    if not found:
        known = ", ".join(names(workspace)) or "none"
        raise UserErrorException(
            f"Cannot find dataset registered with name {name!r} in the workspace. Registered: {known}"
        )
    if version in (None, "latest"):
        return found[max(found)]
    try:
        return found[int(version)]
    except (KeyError, ValueError):
        known = ", ".join(map(str, found))
        message = f"Cannot find dataset {name!r} with version {version!r} in the workspace. Versions: {known}"
        raise UserErrorException(message) from None


def add(
    workspace: Workspace,
    name: str,
    content: Content,
    table: Mapping[str, Any] | None,
    description: str | None = None,
    tags: Mapping[str, Any] | None = None,
    new_version: bool = False,
    hidden: bool = False,
) -> Version:
    """Register files under a name.

    Args:
        workspace: the workspace.
        name: the data set's name.
        content: the files.
        table: the table definition; None for a file data set.
        description: the version's description.
        tags: the version's tags.
        new_version: allow adding a version to an existing data set.
        hidden: leave the data set out of listings.

    Raises:
        UserErrorException: the name already has other content, or maps to the same asset name as another data set.
    """
    _check_near(workspace, name)
    default = Datastore(workspace)
    if content.datastore is None:
        content = content.copied_to(default)
    _ = content.entries()  # hash the files before taking the lock
    with folder.locked(workspace.folder, TABLE):
        _check_near(workspace, name)
        return _added(workspace, name, content, table, description, tags, new_version, hidden, default)


def _check_near(workspace: Workspace, name: str) -> None:
    asset_name = script_context.asset_name(name)
    rows = folder.read_table(workspace.folder, TABLE)
    near = [one for one, row in rows.items() if row["asset"] == asset_name and one != name]
    if near:
        raise UserErrorException(f"{name!r} and {near[0]!r} would both be stored as {asset_name}: give another name")


def _added(
    workspace: Workspace,
    name: str,
    content: Content,
    table: Mapping[str, Any] | None,
    description: str | None,
    tags: Mapping[str, Any] | None,
    new_version: bool,
    hidden: bool,
    default: Datastore,
) -> Version:
    """Do the work of `add` for files in a datastore. The caller holds the table's lock."""
    asset_name = script_context.asset_name(name)
    before = versions(workspace, name, default)
    newest = before[max(before)] if before else None
    if newest is not None and _is_same(newest, content, table):
        number = newest.number
        description, tags = description or newest.description, {**newest.tags, **(tags or {})}
    elif newest is not None and not new_version:
        raise UserErrorException(
            f"There is already a dataset registered under name {name!r}. Specify `create_new_version=True` to register "
            "the dataset as a new version."
        )
    else:
        number = 0
    assert content.datastore is not None
    made, _ = content.register_as(asset_name, content.datastore)
    assert made.asset is not None and made.datastore is not None
    if not number:
        number = max(made.asset.number, 1 + max(before, default=0)) if before else made.asset.number
    entry: dict[str, Any] = {
        "datastore": made.datastore.name,
        "number": made.asset.number,
        "table": None if table is None else dict(table),
        "single": made.is_single,
        "description": description or "",
        "tags": registered.texts(tags),
        "created": timestamp(),
    }
    row = folder.read_table(workspace.folder, TABLE).get(name) or {"asset": asset_name, "versions": {}}
    row["versions"][str(number)] = entry
    folder.put(workspace.folder, TABLE, name, {**row, "hidden": hidden})
    return Version(name, number, made, entry["table"], entry["description"], entry["tags"])


def _is_same(version: Version, content: Content, table: Mapping[str, Any] | None) -> bool:
    """Return whether a version has exactly these files and the same table definition."""
    asset = version.content.asset
    same_table = version.table == (None if table is None else dict(table))
    if asset is None or not same_table or asset.path != content.base:
        return False
    from labrun.data.digests import manifest_digest

    return manifest_digest(content.entries()) == asset.version


def tell(workspace: Workspace, version: Version, description: str | None, tags: Mapping[str, Any]) -> Version:
    """Set a version's description and tags in the table."""
    with folder.locked(workspace.folder, TABLE):
        row = dict(folder.read_table(workspace.folder, TABLE).get(version.name) or {})
        if str(version.number) not in row.get("versions", {}):
            add(workspace, version.name, version.content, version.table)
            row = dict(folder.read_table(workspace.folder, TABLE)[version.name])
        entry = row["versions"][str(version.number)]
        entry["description"] = version.description if description is None else description
        entry["tags"] = registered.texts(tags)
        folder.put(workspace.folder, TABLE, version.name, row)
    return Version(version.name, version.number, version.content, version.table, entry["description"], entry["tags"])


def forget(workspace: Workspace, name: str) -> None:
    """Unregister all versions of a data set; its files stay."""
    try:
        with folder.locked(workspace.folder, TABLE):
            known = {(one.content.store.identity, one.content.asset): one for one in versions(workspace, name).values()}
            for (_, asset), version in known.items():
                if asset is not None:
                    assets.unregister(version.content.store, asset)
            folder.put(workspace.folder, TABLE, name, None)
    except DataError as error:
        raise UserErrorException(str(error)) from error
