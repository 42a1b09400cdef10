"""Making MLflow's model registry what the journal says: after each change of ours, and anew where it was lost.

What people change in MLflow's pages comes back: an alias set, moved or removed there is a line in the journal. What
they delete there is not: a model is removed with `lab models rm`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs import journal, store, tracking
from labrun.runs import record as records
from labrun.runs.journal import Version

PLACEHOLDER = "labrun.placeholder"
"""A tag of versions that are made only for the numbers after them, and of a version that is being made."""


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One process at a time changes what is registered."""
    from filelock import FileLock, Timeout

    store.state_folder(root).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.state_folder(root) / "registry.lock", timeout=300):
            yield
    except Timeout:
        raise RecordError(
            "another process has been changing the registered models for 5 minutes: see what it does"
        ) from None


def kept_at(root: Path, version: Version) -> str:
    """MLflow's database or server that has a version in its registry."""
    return version.uri or tracking.database_uri(root)


def restore_if_lost(root: Path) -> None:
    """Where models are registered and MLflow's database is gone, make it anew with all of them.

    Raises:
        RecordError: it cannot be made.
    """
    if not tracking.database_path(root).exists() and journal.path(root).exists():
        from labrun.runs.ingesting import Ingester

        uri = tracking.database_uri(root)
        with tracking.told(uri):
            restore(root, Ingester(root, uri))


def restore(root: Path, ingester: Any, is_alone: bool = False) -> None:
    """Make MLflow's registry what the journal says: versions with their numbers, aliases, removals.

    Args:
        root: the workspace.
        ingester: connected to the database or server in question.
        is_alone: the caller holds the lock.
    """
    if not journal.path(root).exists():
        return
    with contextlib.nullcontext() if is_alone else alone(root):
        shelf = journal.read(root)
        told = _Told.load(root, ingester)
        if told.size == journal.path(root).stat().st_size and _adopt(root, ingester, shelf):
            shelf = journal.read(root)
        for name in shelf.highest:
            _restore_model(root, ingester, shelf, name, told.lost.setdefault(name, []))
        told.size = journal.path(root).stat().st_size
        told.save(root)


@dataclass
class _Told:
    """What MLflow was told last, so that what differs then was changed in MLflow since."""

    database: str
    size: int = -1
    """Of the journal."""
    lost: dict[str, list[int]] = field(default_factory=dict)
    """Versions that someone deleted in MLflow: their numbers cannot be given again there."""

    @classmethod
    def load(cls, root: Path, ingester: Any) -> _Told:
        database = f"{ingester.uri} {ingester.identity()}"
        try:
            content = json.loads(_told(root).read_text(encoding="utf-8"))
            return cls(**content) if content["database"] == database else cls(database)
        except (OSError, ValueError, KeyError, TypeError):
            return cls(database)

    def save(self, root: Path) -> None:
        text = json.dumps(asdict(self))
        if not _told(root).exists() or _told(root).read_text(encoding="utf-8") != text:
            records.replace_text(_told(root), text)


def _told(root: Path) -> Path:
    return store.state_folder(root) / "registry.told.json"


def _kept_there(root: Path, ingester: Any, shelf: journal.Shelf, name: str) -> dict[int, Version]:
    versions = shelf.versions.get(name, {})
    return {number: one for number, one in versions.items() if kept_at(root, one) == ingester.uri}


def _adopt(root: Path, ingester: Any, shelf: journal.Shelf) -> bool:
    """Take over aliases that someone set, moved or removed in MLflow's pages; whether there were any."""
    found = False
    models = {one.name: one for one in ingester.client.search_registered_models(max_results=1000)}
    for name, aliases in shelf.aliases.items():
        own = _kept_there(root, ingester, shelf, name)
        if not own or name not in models:
            continue
        present = {alias: int(number) for alias, number in models[name].aliases.items()}
        for alias, number in present.items():
            if number in own and aliases.get(alias) != number:
                journal.append(root, journal.ALIASED, name, number, alias=alias)
                found = True
        for alias in set(aliases) - set(present):
            journal.append(root, journal.UNALIASED, name, aliases[alias], alias=alias)
            found = True
    return found


def _restore_model(root: Path, ingester: Any, shelf: journal.Shelf, name: str, lost: list[int]) -> None:
    client, is_ours = ingester.client, tracking.is_database(ingester.uri)
    own = _kept_there(root, ingester, shelf, name)
    gone = {n for n, uri in shelf.removed.get(name, {}).items() if (uri or tracking.database_uri(root)) == ingester.uri}
    if not own and is_ours:
        _delete_model(client, name)
        return
    if not own and not gone:
        return
    ensure_model(client, name)
    there = {int(one.version): one for one in client.search_model_versions(f"name='{name}'")}
    for number in sorted(own):
        if number not in there and number not in lost and is_ours:
            if not _create(root, ingester, own[number], max(there, default=0)):
                lost.append(number)
                continue
        elif number in there and there[number].tags.get("labrun.run") != own[number].run:
            _set_tags(client, own[number])
        there.setdefault(number, None)
    for number, one in there.items():
        if one is not None and (number in gone or PLACEHOLDER in one.tags):
            if number in own:
                client.delete_model_version_tag(name, str(number), PLACEHOLDER)
            else:
                client.delete_model_version(name, str(number))
    present = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    for alias, number in shelf.aliases.get(name, {}).items():
        if number in own and number in there and present.get(alias) != number:
            client.set_registered_model_alias(name, alias, str(number))
    for alias in shelf.unaliased.get(name, set()) & set(present):
        client.delete_registered_model_alias(name, alias)


def _create(root: Path, ingester: Any, version: Version, highest: int) -> bool:
    """Make a version in the workspace's own registry, under its number; whether that could be.

    MLflow counts up: numbers before it that are removed are made and deleted, and one that is behind what is there
    was deleted in MLflow, by someone, and cannot come back.
    """
    if version.number < highest:
        return False
    runs = {record.id: run_dir for run_dir, record in store.listing(root).runs}
    mlflow_run = ingester.one(runs[version.run]) if version.run in runs else None
    source = journal.folder(root, version.name, version.number).as_uri()
    number = 0
    while number < version.number:
        made = ingester.client.create_model_version(
            version.name, source, mlflow_run, tags={**_tags(version), PLACEHOLDER: "yes"}
        )
        number = int(made.version)
        if number != version.number:
            ingester.client.delete_model_version(version.name, made.version)
    if number == version.number:
        ingester.client.delete_model_version_tag(version.name, str(number), PLACEHOLDER)
    return number == version.number


def _tags(version: Version) -> dict[str, str]:
    """What MLflow's page of a version shows."""
    tags = {"labrun.run": version.run, "labrun.experiment": version.experiment, "labrun.file": version.file}
    tags |= {"labrun.sha256": version.sha256}
    for entry in version.data:
        kind = entry.get("asset") or entry.get("name") or entry.get("input") or "data"
        tags[f"data.{kind}"] = str(entry.get("version") or entry.get("digest") or "")
    tags |= {f"metric.{name}": str(value) for name, value in version.metrics.items()}
    return {tracking.allowed(key): value[:5000] for key, value in {**tags, **version.tags}.items()}


def _set_tags(client: Any, version: Version) -> None:
    for key, value in _tags(version).items():
        client.set_model_version_tag(version.name, str(version.number), key, value)


def ensure_model(client: Any, name: str) -> None:
    """Have MLflow know a model of that name."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _delete_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
