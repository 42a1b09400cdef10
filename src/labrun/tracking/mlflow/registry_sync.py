"""Syncs MLflow's model registry with the journal, on demand, and rebuilds it if it was lost.

Alias changes made in MLflow's UI are written back to the journal, unless the journal has changed the same alias, too.
Deletions there are not: models are removed with `lab models rm`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.errors import RecordError
from labrun.runs import context, model_journal, store
from labrun.runs.model_journal import RegistryState, Version
from labrun.runs.record import replace_text
from labrun.runs.workspace import Workspace
from labrun.tracking.mlflow import client, names, sending

if TYPE_CHECKING:
    from labrun.tracking.mlflow.ingester import Ingester

PLACEHOLDER = "labrun.placeholder"
"""Tag of versions created only to advance MLflow's counter, and of a version that is being created."""
KEY = "labrun.key"
"""Tag of versions on a server: the run and the file's digest."""
RUN = "labrun.run"
MOST_GAP = 1000
"""Maximum gap of numbers before a version: each one has to be created in MLflow and deleted."""


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the registry lock: only one process at a time changes registered models."""
    from filelock import FileLock, Timeout

    Workspace(root).state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Workspace(root).registry_lock, timeout=300):
            yield
    except Timeout:
        raise RecordError(
            "another process has held the lock on the registered models for 5 minutes: check what it is doing"
        ) from None


def kept_at(root: Path, version: Version) -> str:
    """Return the URI of the MLflow database or server whose registry holds a version."""
    return version.uri or client.database_uri(root)


@dataclass
class _Model:
    """State of a model at the last sync; later differences are changes in MLflow or in the journal."""

    versions: list[int] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    highest: int = 0
    """Highest version number seen in MLflow."""


@dataclass
class _SyncState:
    """State at the last sync."""

    database: str
    size: int = -1
    """Size of the journal, bytes."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Summary of MLflow's registry at that time; see `_in_short`."""
    models: dict[str, _Model] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path, uri: str, database: str) -> _SyncState:
        try:
            content = json.loads(context.content(client.kept(root, "registry.told", uri)))
            models = {name: _Model(**one) for name, one in content.pop("models").items()}
            found = cls(**content, models=models)
            return found if database in (found.database, "") else cls(database)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(database)

    def save(self, root: Path, uri: str) -> None:
        replace_text(client.kept(root, "registry.told", uri), json.dumps(asdict(self)))


def highest_seen(root: Path, uri: str, name: str) -> int:
    """Return the highest version number of a model in an MLflow database at the last sync."""
    last_sync = _SyncState.load(root, uri, "")
    return last_sync.models[name].highest if name in last_sync.models else 0


def restore(root: Path, ingester: Ingester, is_alone: bool = False) -> None:
    """Sync MLflow's registry with the journal: versions with their numbers, aliases, removals.

    Args:
        root: the workspace.
        ingester: connection to the database or server; items that cannot be shown are added to its `left_out`.
        is_alone: whether the caller holds the lock.
    """
    if not model_journal.path(root).exists():
        return
    # Registrations never touch the workspace's own database, so it needs no lock here; they do use all others.
    is_own = ingester.uri == client.database_uri(root)
    with contextlib.nullcontext() if is_alone or is_own else alone(root):
        _restore(root, ingester, is_alone or not is_own)


def _restore(root: Path, ingester: Ingester, is_alone: bool) -> None:
    size, state = model_journal.path(root).stat().st_size, model_journal.read(root)
    known = [name for name in state.highest if ingester.uri in _places(root, state, name)]
    if not known:
        return
    last_sync = _SyncState.load(root, ingester.uri, f"{ingester.uri} {ingester.identity}")
    models = _models(ingester.client)
    if last_sync.size == size and last_sync.seen == _in_short(models):
        return
    runs = {record.id: run_dir for run_dir, record in store.listing(root).runs}
    for name in known:
        try:
            side = _ModelSync(root, ingester, state, name, models.get(name), last_sync.models.get(name), runs, is_alone)
            last_sync.models[name] = side.restore()
        except Exception as error:
            if ingester.must_stop(error):
                raise
            ingester.left_out.add(f"model {name}", {f"{type(error).__name__}: {sending.reason(error)}": 1})
            size = -1  # retry next time
    last_sync.size, last_sync.seen = size, _in_short(_models(ingester.client))
    last_sync.save(root, ingester.uri)


def _places(root: Path, state: RegistryState, name: str) -> set[str]:
    """Return the databases and servers that have or had versions of a model."""
    uris = [*(one.uri for one in state.versions.get(name, {}).values()), *state.removed.get(name, {}).values()]
    return {uri or client.database_uri(root) for uri in uris}


def _models(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_registered_models(max_results=1000, page_token=token)
        found |= {one.name: one for one in page}
        token = page.token
        if not token:
            return found


def _in_short(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary that changes when versions or aliases are added or removed."""
    return {
        name: [one.last_updated_timestamp, {alias: str(number) for alias, number in one.aliases.items()}]
        for name, one in models.items()
    }


class _ModelSync:
    """Syncs one model between the journal and MLflow.

    Args:
        root: the workspace.
        ingester: connection to MLflow.
        state: the journal's state.
        name: the model's name.
        model: MLflow's registered model; None: MLflow has none.
        last_sync: state at the last sync; None: never synced.
        runs: folders of the workspace's runs, by id.
        is_alone: whether the caller holds the journal's lock.
    """

    def __init__(
        self,
        root: Path,
        ingester: Ingester,
        state: RegistryState,
        name: str,
        model: Any,
        last_sync: _Model | None,
        runs: Mapping[str, Path],
        is_alone: bool,
    ) -> None:
        self._root, self._ingester, self._client = root, ingester, ingester.client
        self._name, self._state, self._model, self._last_sync = name, state, model, last_sync
        self._runs, self._is_alone = runs, is_alone
        self._is_database = client.is_database(ingester.uri)
        """Whether MLflow is a database, which follows the journal; a server assigns numbers itself, and is shared."""
        versions = state.versions.get(name, {})
        self._own = {n: one for n, one in versions.items() if kept_at(root, one) == ingester.uri}
        removed = state.removed.get(name, {})
        self._gone = {n for n, uri in removed.items() if (uri or client.database_uri(root)) == ingester.uri}
        self._there: dict[int, Any] = {}
        """MLflow's versions that labrun created, by number."""
        self._others: set[int] = set()
        """Numbers of versions that users or other workspaces created in MLflow."""

    def restore(self) -> _Model:
        """Sync MLflow's side with the journal; return the new state."""
        if self._model is not None:
            for one in self._client.search_model_versions(f"name='{self._name}'"):
                number = int(one.version)
                is_shared = not self._is_database and number not in self._own and number not in self._gone
                if {RUN, PLACEHOLDER, KEY} & set(one.tags) and not is_shared:
                    self._there[number] = one
                else:
                    self._others.add(number)
        highest = max([0, self._last_sync.highest if self._last_sync else 0, *self._there, *self._others])
        self._remove()
        for number in sorted(self._own):
            self._show(number)
        aliases = self._sync_aliases() if self._model is not None else {}
        return _Model(sorted(self._own), aliases, max([highest, *self._there]))

    def _remove(self) -> None:
        """Delete removed versions and placeholders in MLflow."""
        for number, one in list(self._there.items()):
            if number in self._own and PLACEHOLDER in one.tags:
                self._client.delete_model_version_tag(self._name, str(number), PLACEHOLDER)
            elif number not in self._own and (number in self._gone or PLACEHOLDER in one.tags):
                self._client.delete_model_version(self._name, str(number))
                del self._there[number]
        if self._model is not None and self._is_database and not (self._own or self._there or self._others):
            self._client.delete_registered_model(self._name)
            self._model = None

    def _show(self, number: int) -> None:
        version = self._own[number]
        if number in self._there:
            there = self._there[number].tags
            for key, value in _tags(version).items():
                if there.get(key) != value:
                    self._client.set_model_version_tag(self._name, str(number), key, value)
        elif number in self._others:
            self._left_out(version, "MLflow has another version of that number, which labrun did not create")
        elif self._is_database and number not in (self._last_sync.versions if self._last_sync else []):
            self._make(version)

    def _left_out(self, version: Version, why: str) -> None:
        self._ingester.left_out.add(f"model {version.title}", {why: 1})

    def _make(self, version: Version) -> None:
        """Create a version in the workspace's own registry, under its number.

        MLflow assigns increasing numbers. Missing lower numbers are therefore created and deleted, and a number below
        the highest one cannot be created.
        """
        if self._model is None:
            self._model = self._client.create_registered_model(self._name)
        source = model_journal.folder(self._root, version.name, version.number).as_uri()
        tags, run, number = {**_tags(version), PLACEHOLDER: "yes"}, self._run(version), 0
        highest = max([0, *self._there, *self._others])
        if version.number > highest + MOST_GAP:
            self._left_out(version, f"MLflow only counts up, and the highest number there is {highest}")
            return
        if version.number > highest:
            while number < version.number:
                made = self._client.create_model_version(self._name, source, run, tags=tags)
                number = int(made.version)
                if number == version.number:
                    self._there[number] = made
                else:
                    self._client.delete_model_version(self._name, made.version)
        if number == version.number:
            self._client.delete_model_version_tag(self._name, str(number), PLACEHOLDER)
        else:
            self._left_out(version, "MLflow already has later versions, and only counts up")

    def _run(self, version: Version) -> str | None:
        """Return the MLflow id of the run that a version comes from; None if the run is not available."""
        if version.run not in self._runs:
            return None
        try:
            return self._ingester.one(self._runs[version.run])
        except Exception as error:
            if self._ingester.must_stop(error):
                raise
            return None

    def _sync_aliases(self) -> dict[str, int]:
        """Sync the aliases of both sides; return the result."""
        with contextlib.nullcontext() if self._is_alone else alone(self._root):
            ours = dict(model_journal.read(self._root).aliases.get(self._name, {}))
            there = self._client.get_registered_model(self._name).aliases
            theirs = {alias: int(number) for alias, number in there.items()}
            before = self._last_sync.aliases if self._last_sync else {}
            for alias in sorted({*ours, *theirs, *before}):
                self._sync_alias(alias, ours, theirs, before.get(alias))
        return {alias: number for alias, number in ours.items() if number in self._there}

    def _sync_alias(self, alias: str, ours: dict[str, int], theirs: Mapping[str, int], before: int | None) -> None:
        mine, other = ours.get(alias), theirs.get(alias)
        is_taken_away = self._last_sync is None and alias in self._state.unaliased.get(self._name, set())
        if mine == other:
            return
        if mine == before and not is_taken_away:  # changed only there
            if other in self._own and other in self._there:
                ours[alias] = other
                model_journal.append(self._root, model_journal.Event.ALIAS, self._name, other, alias=alias)
            elif mine is not None and (other is not None or mine in self._there):  # else the version was deleted there
                del ours[alias]
                model_journal.append(self._root, model_journal.Event.UNALIAS, self._name, mine, alias=alias)
        elif mine is not None and mine in self._there:
            self._client.set_registered_model_alias(self._name, alias, str(mine))
        elif mine is None and (before is not None or is_taken_away) and other in self._own:
            self._client.delete_registered_model_alias(self._name, alias)


def _tags(version: Version) -> dict[str, str]:
    """Return the tags that MLflow's page of a version shows."""
    tags = {RUN: version.origin, "labrun.experiment": version.experiment, "labrun.file": version.file}
    tags |= {"labrun.sha256": version.sha256}
    for entry in version.data:
        kind = entry.get("asset") or entry.get("name") or entry.get("input") or "data"
        tags[names.allowed(f"data.{kind}")] = str(
            entry.get("version") or entry.get("digest") or entry.get("path") or ""
        )
    own = {f"metric.{name}": str(value) for name, value in version.metrics.items()}
    given = {names.of_tag(key): value for key, value in version.tags.items()}
    tags |= {names.allowed(key): value for key, value in own.items()} | given
    return {key: names.text(value) for key, value in tags.items()}
