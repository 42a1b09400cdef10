"""Registered models: versions of a run's files under a name, kept in the workspace and shown by MLflow's registry.

A version's files are copied to `outputs/.labrun/models/<name>/<number>/`, an MLflow model directory, so that it
outlives its run. The order is: the folder, whole and in place; then the journal's line (see `labrun.registry.journal`).
A kill in between leaves a folder that no line names, which the next registration replaces. Numbers are given under a
lock. MLflow is told when somebody looks (see `labrun.tracking.mlflow.registry_sync`), and nothing here imports it, but
for models of runs that have a server of their own: that one gives the numbers, and is told at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun._io import file_sha256
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError, RecordError
from labrun.registry import journal, model_folder
from labrun.registry.journal import Version
from labrun.runs import cards, seals
from labrun.runs import record as records
from labrun.runs.record import Record
from labrun.tracking.mlflow import client, registry_sync

if TYPE_CHECKING:
    from labrun.tracking.mlflow.ingester import Ingester

CARD = cards.NAME
KINDS = {
    ".skops": "estimator",
    ".npz": "chainer",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".joblib": "pickle",
    ".pt": "tensors",
    ".pth": "tensors",
}
"""What a file without a card of its own is, by its ending."""
LOADABLE = frozenset({"estimator", "network", "chainer", "pickle"})
"""Kinds that `labrun.load_model` makes a model of."""
ONGOING = frozenset({records.QUEUED, records.RUNNING, records.PREEMPTED, records.UNREACHABLE})


def register(
    root: Path, run_dir: Path, name: str, file: str | None = None, tags: Mapping[str, str] | None = None
) -> tuple[Version, bool]:
    """Make a file of a run the next version of a registered model.

    Args:
        root: the workspace.
        run_dir: the run; it has ended.
        name: the model's name.
        file: relative to the run's folder; None: the model that its card names.
        tags: of the version.

    Returns:
        The version, and whether it is new: the same file of the same run is registered once under a name.

    Raises:
        ConfigError, RecordError, DataError: the name, the run or the file will not do; the run's server refused.
    """
    journal.check_name(name)
    record = records.read(run_dir)
    if records.shown_status(run_dir, record) in ONGOING:
        raise RecordError(f"run {record.id} is {record.status}: its files may still change; register it when it ended")
    source, card = described(run_dir, record, file)
    settings = record.config.get("tracking") or {}  # another tracker's address is no server of MLflow's
    uri = client.address(root, settings if settings.get("kind") in (None, "mlflow", "none") else {})
    server = "" if uri == client.database_uri(root) else uri
    with registry_sync.alone(root):
        known = _known(root, name, record, card["sha256"], server)
        if known is not None:
            return known, False
        with contextlib.ExitStack() as stack:
            there = stack.enter_context(_on_server(root, server)) if server else None
            mlflow_run = there.one(run_dir) if there else ""
            base = journal.folder(root, name, 0).parent
            base.mkdir(parents=True, exist_ok=True)
            _tidy(root, name)
            whole = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".new-", dir=base))) / "whole"
            files = _copy(source, card, whole / model_folder.DATA)
            model_folder.describe(whole, card, record)
            if there and not client.is_database(uri):
                number = _number_there(there, name, f"{record.id}-{card['sha256']}", mlflow_run, whole)
            else:
                number = _next_number(root, uri, name, there)
            version = Version(
                name,
                number,
                record.id,
                record.name,
                source.relative_to(run_dir).as_posix(),
                files,
                server,
                records.now(),
                mlflow_run,
                dict(record.metrics),
                _data(record),
                dict(tags or {}),
            )
            _settle(whole, journal.folder(root, name, number))
            journal.add(root, version)
    return version, True


@contextlib.contextmanager
def _on_server(root: Path, uri: str) -> Iterator[Ingester]:
    """For a change of what a server has: first hear what was changed there, and tell it in the end."""
    with client.told(uri):
        from labrun.tracking.mlflow.ingester import Ingester

        ingester = Ingester(root, uri)
        registry_sync.restore(root, ingester, is_alone=True)
        yield ingester
        registry_sync.restore(root, ingester, is_alone=True)


def _known(root: Path, name: str, record: Record, sha256: str, server: str) -> Version | None:
    """The version that this file of this run is already.

    Raises:
        ConfigError: the name belongs to another MLflow server.
    """
    versions = journal.read(root).versions.get(name, {})
    for version in versions.values():
        if version.uri != server:
            here = "this workspace's own registry"
            raise ConfigError(
                f"model {name} is kept at {version.uri or here}, and run {record.id} belongs to {server or here}: "
                "choose another name"
            )
    return next((one for one in versions.values() if one.run == record.id and one.sha256 == sha256), None)


def described(run_dir: Path, record: Record, file: str | None) -> tuple[Path, dict[str, Any]]:
    """A file of a run, and the card that says how it is loaded: the run's own, or one made for it.

    Raises:
        RecordError, MissingDataError, CorruptDataError: there is no such file or model; it was changed.
    """
    outputs = run_dir / "outputs"
    card: dict[str, Any] = {}
    if file is None and (outputs / CARD).exists():
        card = cards.read(outputs, f"run {record.id}")
    else:
        with contextlib.suppress(DataError):  # a file that is named needs none
            card = cards.read(outputs, f"run {record.id}")
    if file is None and not card:
        made = sorted(p.relative_to(run_dir).as_posix() for p in outputs.rglob("*") if p.suffix in KINDS)
        raise RecordError(
            f"run {record.id} has saved no model with a card ({CARD}): name the file to register. "
            f"Its files that may be models: {', '.join(made[:10]) or 'none'}"
        )
    path = outputs / card["file"] if file is None else _inside(run_dir, record, file)
    if file is None and path.exists() and not path.resolve().is_relative_to(outputs.resolve()):
        raise CorruptDataError(f"{path} is no plain file: it leads to {path.resolve()}. Nothing of it was taken")
    if not path.is_file():
        raise MissingDataError(f"run {record.id} has no file {path.relative_to(run_dir)}: 'lab runs files' lists them")
    own = path.parent == outputs and path.name == card.get("file")
    sha256 = file_sha256(path)
    if own and sha256 != card.get("sha256"):
        raise CorruptDataError(f"{path} was changed since it was saved: expected {card.get('sha256')}, found {sha256}")
    if not own:
        # What a run of labrun's own exports beside its model takes the same samples.
        base = card if path.parent == outputs and path.name in [*(card.get("also") or []), "model.pkl"] else {}
        kind = KINDS.get(path.suffix.lower(), "file")
        card = {"format": 1, "name": path.stem, **base, "kind": kind, "file": path.name, "sha256": sha256}
    if record.imported:  # what is registered outlives the record, which says so
        card.pop(seals.FIELD, None)
    dataset = record.config.get("dataset") or {}
    card["dataset"] = {key: dataset[key] for key in ("target", "ignore") if key in dataset}
    return path, card


def _inside(run_dir: Path, record: Record, file: str) -> Path:
    given = Path(file).expanduser()
    path = Path(os.path.normpath(given if given.is_absolute() else run_dir / given))
    if not path.is_relative_to(run_dir) or not path.resolve().is_relative_to(run_dir.resolve()):
        raise RecordError(f"{file!r} is no file of run {record.id}: give its path in the run's folder {run_dir}")
    return path


def _data(record: Record) -> list[dict[str, Any]]:
    kept = ("name", "input", "digest", "asset", "version", "number", "datastore")
    return [{key: entry[key] for key in kept if entry.get(key) is not None} for entry in record.data]


def _copy(source: Path, card: Mapping[str, Any], target: Path) -> dict[str, str]:
    """The file and its card, copied; the digest of each."""
    try:
        target.mkdir(parents=True)
        shutil.copyfile(source, target / source.name)
        (target / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(records.cannot_write(target, error)) from error
    files = {name: file_sha256(target / name) for name in (source.name, CARD)}
    if files[source.name] != card["sha256"]:
        raise RecordError(f"{source} changed while it was copied: register it when nothing writes to it any more")
    return files


def _next_number(root: Path, uri: str, name: str, there: Ingester | None) -> int:
    """The next number in a database of MLflow's, which has what the journal says.

    Args:
        root: the workspace.
        uri: the database.
        name: the model's.
        there: connected to it; None for the workspace's own, which is not asked.
    """
    found = there.client.search_model_versions(f"name='{name}'") if there else []
    given = journal.read(root).highest.get(name, 0)
    return 1 + max(given, registry_sync.highest_seen(root, uri, name), *(int(one.version) for one in found))


def _number_there(there: Ingester, name: str, key: str, mlflow_run: str, whole: Path) -> int:
    """The number that a server gives to a version."""
    client = there.client
    _ensure_model(client, name)
    for one in client.search_model_versions(f"name='{name}'"):
        if one.tags.get(registry_sync.KEY) == key:  # made by a registration that was killed before its line was written
            return int(one.version)
    below = f"registered/{name}/{key}"
    client.log_artifacts(mlflow_run, str(whole), below)
    source = f"{client.get_run(mlflow_run).info.artifact_uri}/{below}"
    return int(client.create_model_version(name, source, mlflow_run, tags={registry_sync.KEY: key}).version)


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _settle(whole: Path, target: Path) -> None:
    for folder, _, names in os.walk(whole):
        for name in names:
            with open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
    whole.chmod(0o755)
    whole.rename(target)


def _tidy(root: Path, name: str) -> None:
    """Take away what registrations and removals left that were killed; for who holds the lock."""
    there = journal.read(root).versions.get(name, {})
    for path in journal.folder(root, name, 0).parent.glob("*"):
        if not (path.name.isdecimal() and int(path.name) in there):
            shutil.rmtree(path, ignore_errors=True)


def alias(root: Path, reference: str, name: str) -> Version:
    """Have an alias mean a version, and no other any more.

    Raises:
        ConfigError, RecordError: it cannot be an alias; there is no such version.
    """
    journal.check_alias(name)
    version = journal.find(root, reference)
    with _changing(root, version):
        version = journal.find(root, reference)
        journal.append(root, journal.ALIASED, version.name, version.number, alias=name)
    return version


def unalias(root: Path, reference: str) -> Version:
    """Take the alias of `name@alias` away.

    Raises:
        RecordError: there is no such alias.
    """
    model, _, name = journal.parts(reference)
    if not name:
        raise RecordError(f"{reference!r} names no alias to remove: say {model}@ALIAS")
    version = journal.find(root, reference)
    with _changing(root, version):
        version = journal.find(root, reference)
        journal.append(root, journal.UNALIASED, model, version.number, alias=name)
    return version


def remove(root: Path, versions: list[Version]) -> None:
    """Remove versions of one model, files and all; their numbers are not given again.

    Raises:
        RecordError: something cannot be written, or MLflow refused.
    """
    with _changing(root, versions[0]):
        for version in versions:
            journal.append(root, journal.REMOVE, version.name, version.number, uri=version.uri)
        _tidy(root, versions[0].name)
        base = journal.folder(root, versions[0].name, 0).parent
        if base.is_dir() and not any(base.iterdir()):
            base.rmdir()


def needed(root: Path, version: Version) -> list[str]:
    """What has to be named to load a version where it is not trusted by itself; see `seals.needed`."""
    try:
        folder = journal.content(root, version)
        return seals.needed(folder, cards.read(folder, version.title))
    except DataError:
        return []


def untrusted(root: Path, version: Version, imported: bool = False) -> str:
    """Why a version is not trusted by itself; empty where it is. See `seals.refusal`."""
    try:
        card = cards.read(journal.content(root, version), version.title)
    except DataError:
        return seals.UNPROVEN
    return seals.refusal(root, card, version.run, imported)


def is_loadable(root: Path, version: Version) -> bool:
    """Whether `labrun.load_model` can make a model of a version, by its card."""
    try:
        return cards.read(journal.content(root, version), version.title).get("kind") in LOADABLE
    except DataError:
        return False


@contextlib.contextmanager
def _changing(root: Path, version: Version) -> Iterator[None]:
    """Alone; where a server has the model, with what was changed there, and with word of it."""
    with registry_sync.alone(root), _on_server(root, version.uri) if version.uri else contextlib.nullcontext():
        yield
