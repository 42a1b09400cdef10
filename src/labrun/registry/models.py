"""Registered models: named versions of a run's files, stored in the workspace and shown in MLflow's registry.

A version's files are copied to `outputs/.labrun/models/<name>/<number>/`, an MLflow model directory, so that the
version outlives its run. The complete folder is put in place first, then the journal's line is written (see
`labrun.runs.model_journal`). A kill in between leaves a folder without a line, which the next registration replaces.
Numbers are assigned under a lock. MLflow is updated on demand (see `labrun.tracking.mlflow.registry_sync`) and not
imported here, except for models of runs with their own server: it assigns the numbers and is updated at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun._io import file_sha256
from labrun.errors import ConfigError, CorruptDataError, DataError, MissingDataError, RecordError
from labrun.registry import model_folder
from labrun.runs import cards, context, model_journal, seals
from labrun.runs.cards import Card, CardKind
from labrun.runs.model_journal import Version
from labrun.runs.record import (
    PREEMPTED,
    QUEUED,
    RUNNING,
    UNREACHABLE,
    Record,
    cannot_write,
    read_record,
    shown_status,
    timestamp,
)
from labrun.tracking.mlflow import client, registry_sync

if TYPE_CHECKING:
    from labrun.tracking.mlflow.ingester import Ingester

CARD = cards.NAME
KINDS = {
    ".skops": CardKind.ESTIMATOR,
    ".npz": CardKind.CHAINER,
    ".pkl": CardKind.PICKLE,
    ".pickle": CardKind.PICKLE,
    ".joblib": CardKind.PICKLE,
    ".pt": CardKind.TENSORS,
    ".pth": CardKind.TENSORS,
}
"""Kind of a file without a card, by its suffix."""
LOADABLE = frozenset({CardKind.ESTIMATOR, CardKind.NETWORK, CardKind.CHAINER, CardKind.PICKLE})
"""Kinds that `labrun.load_model` can load."""
ONGOING = frozenset({QUEUED, RUNNING, PREEMPTED, UNREACHABLE})


@dataclass
class VersionOrigin:
    """Source of a version's files.

    Attributes:
        path: the file or folder.
        file: its path as stored in the version.
        card: describes how to load it.
        record: record of the run that it comes from; None: no run.
        run_dir: that run's folder.
        metrics: metrics of the model.
    """

    path: Path
    file: str
    card: Card
    record: Record | None = None
    run_dir: Path | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return self.record.id if self.record else ""


@dataclass(frozen=True)
class About:
    """User-editable description of a version."""

    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


def register(
    root: Path,
    run_dir: Path,
    name: str,
    file: str | None = None,
    tags: Mapping[str, str] | None = None,
    about: About | None = None,
    by_run: bool = False,
    exclude: Collection[int] | None = (),
) -> tuple[Version, bool]:
    """Register a file or folder of a run as the next version of a model.

    Args:
        root: the workspace.
        run_dir: folder of the run, which must have ended.
        name: the model's name.
        file: path relative to the run's folder; None: the model that the run's card describes.
        tags: tags of the version.
        about: tags, properties and description of the version; overrides `tags`.
        by_run: whether the run registers the model itself, at its very end.
        exclude: existing versions of this file that do not count as the same; None: none counts, so a new version
            is always created.

    Returns:
        The version, and whether it is new: the same file of the same run is registered only once under a name, unless
        that version is in `exclude`.

    Raises:
        ConfigError, RecordError, DataError: the name, the run or the file is invalid; the run's server refused.
    """
    model_journal.check_name(name)
    record = read_record(run_dir)
    if not by_run and shown_status(run_dir, record) in ONGOING:
        raise RecordError(f"run {record.id} is {record.status}: its files may still change; register it once it ends")
    path, card = described(run_dir, record, file)
    metrics = context.last_values(run_dir) if by_run else record.metrics
    origin = VersionOrigin(path, path.relative_to(run_dir).as_posix(), card, record, run_dir, metrics)
    uri = client.models_address(root, record.typed.tracking)
    return _add(root, name, origin, uri, about or About(tags or {}), exclude)


def register_local(root: Path, path: Path, name: str, about: About | None = None) -> Version:
    """Register a file or folder that belongs to no run as the next version of a model.

    Raises:
        ConfigError, RecordError, DataError: the name or the file is invalid.
    """
    model_journal.check_name(name)
    path = Path(os.path.abspath(path.expanduser()))
    if not path.exists():
        raise MissingDataError(f"cannot register {name}: there is no file or folder {path}")
    content = {"format": 1, "name": path.stem, "kind": _kind(path), "file": path.name, "sha256": _digest(path)}
    return _add(
        root, name, VersionOrigin(path, path.name, Card.of(content)), client.database_uri(root), about or About()
    )[0]


def _add(
    root: Path, name: str, origin: VersionOrigin, uri: str, about: About, exclude: Collection[int] | None = ()
) -> tuple[Version, bool]:
    server = "" if uri == client.database_uri(root) else uri
    if origin.path.is_file() and origin.path.name == CARD and not origin.card.target:
        raise RecordError(f"a file named {CARD} cannot be registered alone: register its folder")
    with registry_sync.alone(root):
        known = _known(root, name, origin, server, exclude)
        if known is not None:
            return known, False
        with contextlib.ExitStack() as stack:
            there = stack.enter_context(_on_server(root, server)) if server else None
            mlflow_run = there.one(origin.run_dir) if there and origin.run_dir else ""
            base = model_journal.folder(root, name, 0).parent
            base.mkdir(parents=True, exist_ok=True)
            _tidy(root, name)
            whole = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".new-", dir=base))) / "whole"
            files = _copy(origin.path, origin.card, whole / model_folder.DATA)
            model_folder.describe(whole, origin.card, origin.record)
            if there and not client.is_database(uri):
                number = _number_there(there, name, f"{origin.run}-{origin.card.sha256}", mlflow_run, whole)
            else:
                number = _next_number(root, uri, name, there)
            record = origin.record
            version = Version(
                name,
                number,
                origin.run,
                record.name if record else "",
                origin.file,
                files,
                server,
                timestamp(),
                mlflow_run,
                dict(origin.metrics),
                _data(record) if record else [],
                dict(about.tags),
                dict(about.properties),
                about.description,
            )
            _move_into_place(whole, model_journal.folder(root, name, number))
            model_journal.add(root, version)
    return version, True


def describe(root: Path, reference: str, change: Callable[[About], About]) -> Version:
    """Change the description of a version.

    Args:
        root: the workspace.
        reference: reference of the version, as in `model_journal.find`.
        change: maps the old description to the new one.

    Raises:
        RecordError: there is no such model.
    """
    version = model_journal.find(root, reference)
    with _changing(root, version):
        version = model_journal.find(root, reference)
        new = change(About(version.tags, version.properties, version.description))
        described = {"tags": dict(new.tags), "properties": dict(new.properties), "description": new.description}
        model_journal.append(root, model_journal.Event.DESCRIBE, version.name, version.number, **described)
    return model_journal.find(root, version.title)


def _kind(path: Path) -> CardKind:
    return CardKind.FOLDER if path.is_dir() else KINDS.get(path.suffix.lower(), CardKind.FILE)


def _digest(path: Path, inside: Path | None = None) -> str:
    """Return the SHA-256 of a file, or of a folder's files."""
    if path.is_file():
        return file_sha256(path)
    return model_journal.checksums_digest({name: file_sha256(path / name) for name in _files(path, inside)})


def _files(folder: Path, inside: Path | None = None) -> list[str]:
    """Return the relative paths of all files below a folder.

    Raises:
        MissingDataError: there are none.
        RecordError: a link leads out of the folder `inside`.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        raise MissingDataError(f"the folder {folder} has no files to register")
    for path in found:
        if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
            raise RecordError(f"{path} leads out of the run's folder, to {path.resolve()}: nothing was registered")
    return [path.relative_to(folder).as_posix() for path in found]


@contextlib.contextmanager
def _on_server(root: Path, uri: str) -> Iterator[Ingester]:
    """Wrap a change of a server's models: first fetch the changes made there, then send the new state on exit."""
    with client.translate_errors(uri):
        from labrun.tracking.mlflow.ingester import Ingester

        ingester = Ingester(root, uri)
        registry_sync.restore(root, ingester, is_alone=True)
        yield ingester
        registry_sync.restore(root, ingester, is_alone=True)


def _known(
    root: Path, name: str, origin: VersionOrigin, server: str, exclude: Collection[int] | None
) -> Version | None:
    """Return the existing version of this file of this run, if any; local files always make a new version.

    Raises:
        ConfigError: the name belongs to another MLflow server.
    """
    versions = model_journal.read(root).versions.get(name, {})
    for version in versions.values():
        if version.uri != server:
            here = "this workspace's own registry"
            what = f"run {origin.run}" if origin.run else "a local file"
            raise ConfigError(
                f"model {name} is stored at {version.uri or here}, but {what} belongs to {server or here}: "
                "choose another name"
            )
    if not origin.run or exclude is None:
        return None
    wanted = (origin.run, origin.card.sha256)
    same = (one for one in versions.values() if (one.run, one.sha256) == wanted)
    return next((one for one in same if one.number not in exclude), None)


def described(run_dir: Path, record: Record, file: str | None) -> tuple[Path, Card]:
    """Return a file of a run with the card that describes how to load it: the run's card, or one made for the file.

    Raises:
        RecordError, MissingDataError, CorruptDataError: there is no such file or model, or it was changed.
    """
    outputs = run_dir / "outputs"
    card: Card | None = None
    if file is None and (outputs / CARD).exists():
        card = cards.read(outputs, f"run {record.id}")
    else:
        with contextlib.suppress(DataError):  # an explicitly given file needs no card
            card = cards.read(outputs, f"run {record.id}")
    path = _model_of(run_dir, record, card) if file is None else _inside(run_dir, record, file)
    if not path.is_file() and (file is None or not path.is_dir() or path == run_dir):
        raise MissingDataError(f"run {record.id} has no file {path.relative_to(run_dir)}: 'lab runs files' lists them")
    sha256 = _digest(path, run_dir)
    content: dict[str, Any] = {}
    if card is not None and path == outputs / card.file:
        if sha256 != card.sha256:
            raise CorruptDataError(f"{path} was changed since it was saved: expected {card.sha256}, found {sha256}")
        content |= card.content
    else:
        content |= {"format": 1, "name": path.stem}
        if card is not None and path.parent == outputs and path.name in (*card.also, "model.pkl"):
            content |= card.content  # other formats that labrun exports next to a model take the same inputs
        content |= {"kind": _kind(path), "file": path.name, "sha256": sha256}
    if record.imported is not None:  # the version outlives the record, which marks the run as imported
        content.pop(seals.FIELD, None)
    dataset = record.typed.dataset
    content["dataset"] = {key: dataset[key] for key in ("target", "ignore") if key in dataset}
    return path, Card.of(content)


def _model_of(run_dir: Path, record: Record, card: Card | None) -> Path:
    """Return the file of a run's model, which its card names."""
    outputs = run_dir / "outputs"
    if card is None:
        made = sorted(p.relative_to(run_dir).as_posix() for p in outputs.rglob("*") if p.suffix in KINDS)
        raise RecordError(
            f"run {record.id} has saved no model with a card ({CARD}): specify the file to register. "
            f"Files that may be models: {', '.join(made[:10]) or 'none'}"
        )
    path = outputs / card.file
    if path.exists() and not path.resolve().is_relative_to(outputs.resolve()):
        raise CorruptDataError(f"{path} is not a plain file: it leads to {path.resolve()}. Nothing was registered")
    return path


def _inside(run_dir: Path, record: Record, file: str) -> Path:
    given = Path(file).expanduser()
    path = Path(os.path.normpath(given if given.is_absolute() else run_dir / given))
    if not path.is_relative_to(run_dir) or not path.resolve().is_relative_to(run_dir.resolve()):
        raise RecordError(f"{file!r} is not a file of run {record.id}: give its path in the run's folder {run_dir}")
    return path


def _data(record: Record) -> list[dict[str, Any]]:
    kept = ("name", "input", "digest", "asset", "version", "number", "datastore")
    return [{key: value for key in kept if (value := getattr(entry, key)) is not None} for entry in record.data]


def _copy(source: Path, card: Card, target: Path) -> dict[str, str]:
    """Copy the file or folder and its card; return the digest of each file."""
    try:
        target.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target / source.name)
            names = [f"{source.name}/{name}" for name in _files(target / source.name)]
        else:
            shutil.copyfile(source, target / source.name)
            names = [source.name]
        (target / CARD).write_text(json.dumps(card.content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecordError(cannot_write(target, error)) from error
    files = {name: file_sha256(target / name) for name in (*names, CARD)}
    if _digest(target / source.name) != card.sha256:
        raise RecordError(f"{source} changed while it was being copied: register it once nothing writes to it")
    return files


def _next_number(root: Path, uri: str, name: str, there: Ingester | None) -> int:
    """Return the next version number in an MLflow database, whose numbers follow the journal.

    Args:
        root: the workspace.
        uri: the database.
        name: the model's name.
        there: connection to it; None for the workspace's own database, which is not queried.
    """
    found = there.client.search_model_versions(f"name='{name}'") if there else []
    given = model_journal.read(root).highest.get(name, 0)
    return 1 + max(given, registry_sync.highest_seen(root, uri, name), *(int(one.version) for one in found))


def _number_there(there: Ingester, name: str, key: str, mlflow_run: str, whole: Path) -> int:
    """Create the version on a server, and return the number that the server assigns."""
    client = there.client
    _ensure_model(client, name)
    for one in client.search_model_versions(f"name='{name}'"):
        if one.tags.get(registry_sync.KEY) == key:  # left by a registration killed before it wrote its line
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


def _move_into_place(whole: Path, target: Path) -> None:
    for folder, _, names in os.walk(whole):
        for name in names:
            with open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
    whole.chmod(0o755)
    whole.rename(target)


def _tidy(root: Path, name: str) -> None:
    """Remove leftovers of killed registrations and removals; the caller holds the lock."""
    there = model_journal.read(root).versions.get(name, {})
    for path in model_journal.folder(root, name, 0).parent.glob("*"):
        if not (path.name.isdecimal() and int(path.name) in there):
            shutil.rmtree(path, ignore_errors=True)


def alias(root: Path, reference: str, name: str) -> Version:
    """Point an alias to a version, moving it if it exists.

    Raises:
        ConfigError, RecordError: the alias is invalid, or there is no such version.
    """
    model_journal.check_alias(name)
    version = model_journal.find(root, reference)
    with _changing(root, version):
        version = model_journal.find(root, reference)
        model_journal.append(root, model_journal.Event.ALIAS, version.name, version.number, alias=name)
    return version


def unalias(root: Path, reference: str) -> Version:
    """Remove the alias of the reference `name@alias`.

    Raises:
        RecordError: there is no such alias.
    """
    model, _, name = model_journal.parts(reference)
    if not name:
        raise RecordError(f"{reference!r} contains no alias to remove: use {model}@ALIAS")
    version = model_journal.find(root, reference)
    with _changing(root, version):
        version = model_journal.find(root, reference)
        model_journal.append(root, model_journal.Event.UNALIAS, model, version.number, alias=name)
    return version


def remove(root: Path, versions: list[Version]) -> None:
    """Remove versions of one model with their files; their numbers are not reused.

    Raises:
        RecordError: the workspace cannot be written, or MLflow refused.
    """
    with _changing(root, versions[0]):
        for version in versions:
            model_journal.append(root, model_journal.Event.REMOVE, version.name, version.number, uri=version.uri)
        _tidy(root, versions[0].name)
        base = model_journal.folder(root, versions[0].name, 0).parent
        if base.is_dir() and not any(base.iterdir()):
            base.rmdir()


def needed(root: Path, version: Version) -> list[str]:
    """Return what the user must explicitly allow to load an untrusted version; see `seals.needed`."""
    try:
        folder = model_journal.content(root, version)
        return seals.needed(folder, cards.read(folder, version.title))
    except DataError:
        return []


def untrusted(root: Path, version: Version, imported: bool = False) -> str:
    """Return why a version is not trusted automatically; empty if it is. See `seals.refusal`."""
    try:
        card = cards.read(model_journal.content(root, version), version.title)
    except DataError:
        return seals.UNPROVEN
    return seals.refusal(root, card, version.origin, imported)


def is_loadable(root: Path, version: Version) -> bool:
    """Return whether `labrun.load_model` can load a version, according to its card."""
    try:
        return cards.read(model_journal.content(root, version), version.title).kind in LOADABLE
    except DataError:
        return False


@contextlib.contextmanager
def _changing(root: Path, version: Version) -> Iterator[None]:
    """Hold the registry lock during a change; if a server has the model, sync with it before and after."""
    with registry_sync.alone(root), _on_server(root, version.uri) if version.uri else contextlib.nullcontext():
        yield
