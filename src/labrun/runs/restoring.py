"""Making MLflow's model registry what the journal says: after each change of ours, and anew where it was lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.runs import journal, store, tracking
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
    try:
        status = journal.path(root).stat()
    except OSError:
        return
    state = (status.st_size, status.st_mtime_ns)
    if ingester.restored == state:
        return
    with contextlib.nullcontext() if is_alone else alone(root):
        shelf = journal.read(root)
        for name, highest in shelf.highest.items():
            own = {n: one for n, one in shelf.versions.get(name, {}).items() if kept_at(root, one) == ingester.uri}
            if own or tracking.is_database(ingester.uri):
                _restore_model(root, ingester, shelf, name, own, highest)
    ingester.restored = state


def _restore_model(
    root: Path, ingester: Any, shelf: journal.Shelf, name: str, own: dict[int, Version], highest: int
) -> None:
    client = ingester.client
    if not own:
        _delete_model(client, name)
        return
    ensure_model(client, name)
    there = {int(one.version): one for one in client.search_model_versions(f"name='{name}'")}
    for number in sorted(own):
        if number not in there and tracking.is_database(ingester.uri):
            _create(root, ingester, own[number])
        elif number in there and there[number].tags.get("labrun.run") != own[number].run:
            _set_tags(client, own[number])
    for number, one in there.items():
        if number in shelf.removed.get(name, set()) or (PLACEHOLDER in one.tags and number not in own):
            client.delete_model_version(name, str(number))
    present = {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    for alias, number in shelf.aliases.get(name, {}).items():
        if number in own and present.get(alias) != number:
            client.set_registered_model_alias(name, alias, str(number))
    for alias in shelf.unaliased.get(name, set()) & set(present):
        client.delete_registered_model_alias(name, alias)


def _create(root: Path, ingester: Any, version: Version) -> None:
    """A version in the workspace's own registry, under its number."""
    runs = {record.id: run_dir for run_dir, record in store.listing(root).runs}
    mlflow_run = ingester.one(runs[version.run]) if version.run in runs else None
    source = journal.folder(root, version.name, version.number).as_uri()
    while True:
        one = ingester.client.create_model_version(
            version.name, source, mlflow_run, tags={**_tags(version), PLACEHOLDER: "yes"}
        )
        if int(one.version) >= version.number:
            break
        ingester.client.delete_model_version(version.name, one.version)
    ingester.client.delete_model_version_tag(version.name, one.version, PLACEHOLDER)


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
