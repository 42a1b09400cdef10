"""The journal of registered models: their versions, source runs and aliases.

`outputs/.labrun/registry.jsonl` has one line per registration, alias, description and removal, each written with a
single `write` before MLflow is updated. The journal is authoritative; MLflow's registry is a view that can be rebuilt.
This module does not import MLflow, so that commands that only read the journal start fast.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from labrun._io import append_line, sha256_of
from labrun.config import checking
from labrun.errors import ConfigError, CorruptDataError, RecordError
from labrun.messages import suggest
from labrun.runs import context
from labrun.runs.record import cannot_write, is_id, timestamp
from labrun.runs.workspace import Workspace

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
ALIAS = re.compile(r"(?!latest$|v\d+$)[A-Za-z][A-Za-z0-9_-]{0,99}", re.I)
MOST = 2**31
"""Exclusive upper bound of version numbers."""
LOCAL = "local file"
"""Origin of a version that was not registered from a run."""


class Event(StrEnum):
    """What a line of the journal says."""

    REGISTER = "register"
    REMOVE = "remove"
    ALIAS = "alias"
    UNALIAS = "unalias"
    DESCRIBE = "describe"


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: int
    run: str
    """Id of the run that it comes from; empty for a local file or folder."""
    experiment: str
    file: str
    """The registered file or folder, relative to the run's folder; for a local one, its name."""
    files: dict[str, str]
    """SHA-256 of each file in the version's `content`, by relative path; includes the registered file."""
    uri: str
    """MLflow server whose registry holds the version; empty: the workspace's own database."""
    time: str
    mlflow_run: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    description: str = ""

    @property
    def origin(self) -> str:
        """Id of its run, or `local file`."""
        return self.run or LOCAL

    @property
    def title(self) -> str:
        """`name/number`."""
        return f"{self.name}/{self.number}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the registered file; for a folder, `checksums_digest` of its files."""
        name = Path(self.file).name
        return self.files[name] if name in self.files else checksums_digest(below(self.files, name))


def below(files: Mapping[str, str], folder: str) -> dict[str, str]:
    """Return the files of a folder, by their paths in it."""
    return {name[len(folder) + 1 :]: sha256 for name, sha256 in files.items() if name.startswith(f"{folder}/")}


def checksums_digest(files: Mapping[str, str]) -> str:
    """Return the SHA-256 of the list of a folder's files, by path, with their digests, as `sha256sum` prints it.

    Raises:
        ValueError: there are no files.
    """
    if not files:
        raise ValueError("a folder without files has no digest")
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


@dataclass
class RegistryState:
    """State of the registry after all lines of the journal."""

    versions: dict[str, dict[int, Version]] = field(default_factory=dict)
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)
    unaliased: dict[str, set[str]] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    """Highest number that each name ever had; numbers are never reused."""
    removed: dict[str, dict[int, str]] = field(default_factory=dict)
    """Removed version numbers, with the server of each."""
    left_out: int = 0
    """Number of invalid lines, which are skipped."""

    def aliases_of(self, version: Version) -> list[str]:
        """Return the aliases of a version."""
        return sorted(a for a, n in self.aliases.get(version.name, {}).items() if n == version.number)


def path(root: Path) -> Path:
    """Return the path of the journal."""
    return Workspace(root).journal


def folder(root: Path, name: str, number: int) -> Path:
    """Return the MLflow model directory of a version."""
    return Workspace(root).models / name / str(number)


def content(root: Path, version: Version) -> Path:
    """Return the folder with a version's files: the model and its card."""
    return folder(root, version.name, version.number) / "data" / "model"


def read(root: Path) -> RegistryState:
    """Read the registry; an incomplete last line is ignored.

    Raises:
        RecordError: the journal cannot be read.
    """
    state = RegistryState()
    try:
        raw = context.content(path(root))
    except FileNotFoundError:
        return state
    except OSError as error:
        raise RecordError(f"{path(root)} cannot be read: {error.strerror or error}") from error
    *lines, torn = raw.split(b"\n")
    for text in (*lines, torn):
        try:
            _apply(state, json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            state.left_out += text is not torn and bool(text.strip())
    return state


def _apply(state: RegistryState, line: Mapping[str, Any]) -> None:
    kind, name, number = line["event"], line["name"], line["number"]
    if not NAME.fullmatch(name) or type(number) is not int or not 0 < number < MOST:
        raise ValueError(f"invalid name or version number: {line!r:.100}")
    if kind in (Event.ALIAS, Event.UNALIAS) and not ALIAS.fullmatch(line["alias"]):
        raise ValueError(f"invalid alias: {line!r:.100}")
    versions, aliases = state.versions.setdefault(name, {}), state.aliases.setdefault(name, {})
    if kind == Event.REGISTER:
        versions[number] = _version(line)
        state.highest[name] = max(number, state.highest.get(name, 0))
    elif kind == Event.REMOVE:
        versions.pop(number, None)
        state.removed.setdefault(name, {})[number] = str(line.get("uri", ""))
        for alias in [a for a, n in aliases.items() if n == number]:
            del aliases[alias]
    elif kind == Event.ALIAS:
        aliases[str(line["alias"])] = number
        state.unaliased.setdefault(name, set()).discard(str(line["alias"]))
    elif kind == Event.DESCRIBE:
        if number in versions:
            versions[number] = _described(versions[number], line)
    elif kind == Event.UNALIAS:
        aliases.pop(str(line["alias"]), None)
        state.unaliased.setdefault(name, set()).add(str(line["alias"]))


def _described(version: Version, line: Mapping[str, Any]) -> Version:
    """Return a version with the tags, properties and description of a line.

    Raises:
        ValueError: they are not strings.
    """
    tags, properties, description = line["tags"], line["properties"], line["description"]
    if not all(isinstance(one, str) for one in (description, *tags.values(), *properties.values())):
        raise ValueError(f"invalid description of a version: {line!r:.100}")
    return replace(version, tags=dict(tags), properties=dict(properties), description=description)


def _version(line: Mapping[str, Any]) -> Version:
    """Parse the version that a line registers.

    Raises:
        ValueError, KeyError, TypeError: a field is missing or has the wrong type.
    """
    version = Version(**{f.name: line[f.name] for f in fields(Version) if f.name in line})
    texts = (
        version.run,
        version.experiment,
        version.file,
        version.uri,
        version.time,
        version.mlflow_run,
        version.description,
    )
    mappings = (version.files, version.metrics, version.tags, version.properties)
    if not (
        all(isinstance(one, dict) for one in (*mappings, *version.data))
        and all(isinstance(one, str) for one in (*texts, *version.tags.values(), *version.properties.values()))
        and all(map(_is_file, version.files.items()))
        and version.sha256
    ):
        raise ValueError(f"invalid registration: {line!r:.100}")
    return version


def _is_file(item: tuple[Any, Any]) -> bool:
    """Return whether an item is a valid relative path and digest; the path must stay below the version's folder."""
    name, sha256 = item
    return checking.is_below(name) and checking.is_sha256(sha256)


def append(root: Path, event: Event, name: str, number: int, **more: Any) -> None:
    """Append a line and flush it to disk.

    Raises:
        RecordError: the journal cannot be written.
    """
    line = {"event": event, "time": timestamp(), "name": name, "number": number, **more}
    try:
        path(root).parent.mkdir(parents=True, exist_ok=True)
        append_line(path(root), json.dumps(line, ensure_ascii=False, default=str), durable=True)
    except OSError as error:
        raise RecordError(cannot_write(path(root).parent, error)) from error


def add(root: Path, version: Version) -> None:
    """Add a registration.

    Raises:
        RecordError: the journal cannot be written.
    """
    own = {key: value for key, value in asdict(version).items() if key not in ("name", "number", "time")}
    append(root, Event.REGISTER, version.name, version.number, **own)


def check_name(name: str) -> str:
    """Return the name if it is valid for a registered model.

    Raises:
        ConfigError: it is not.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid model name: use 1 to 100 letters, digits, '_', '-' and '.', and begin with a "
            "letter, a digit or '_'"
        )
    return name


def check_alias(alias: str) -> str:
    """Return the alias if it is valid.

    Raises:
        ConfigError: it is not.
    """
    if not ALIAS.fullmatch(alias):
        raise ConfigError(
            f"{alias!r} is not a valid alias: use a letter, then letters, digits, '_' and '-'. MLflow reserves "
            "'latest' and 'v' with a number"
        )
    return alias


def parts(reference: str) -> tuple[str, str, str]:
    """Split `name`, `name/3` or `name@alias`, optionally after `models:/`, into name, number (as text) and alias."""
    text = reference.strip().removeprefix("models:").lstrip("/")
    name, sign, alias = text.partition("@")
    if sign:
        return name, "", alias
    name, _, number = text.partition("/")
    return name, "" if number == "latest" else number, ""


def chosen(root: Path, reference: str) -> list[Version]:
    """Return the version that a reference selects, or all versions of a name, newest last.

    Raises:
        RecordError: there is no such model.
    """
    state = read(root)
    name, number, alias = parts(reference)
    versions = state.versions.get(name) or {}
    if not versions:
        known = sorted(one for one, found in state.versions.items() if found)
        is_run = name == "last" or is_id(name)
        raise RecordError(
            f"no model is registered as {name!r} in {root}.{suggest(name, known)} Registered: "
            f"{', '.join(known) or 'none'}"
            + ("" if known else " (lab models register RUN --name NAME registers one)")
            + (f". A run's own model is run:{name}" if is_run else "")
        )
    if alias:
        aliases = state.aliases.get(name, {})
        if alias not in aliases or aliases[alias] not in versions:
            there = ", ".join(sorted(aliases)) or "none"
            raise RecordError(f"model {name} has no alias {alias!r}.{suggest(alias, aliases)} Its aliases: {there}")
        return [versions[aliases[alias]]]
    if number:
        if not number.isdecimal() or int(number) not in versions:
            there = ", ".join(map(str, sorted(versions)))
            raise RecordError(f"model {name} has no version {number!r}. Its versions: {there}")
        return [versions[int(number)]]
    return [versions[one] for one in sorted(versions)]


def find(root: Path, reference: str) -> Version:
    """Return the version that `name`, `name/3` or `name@alias` refers to; for a bare name, the newest.

    Raises:
        RecordError: there is no such model.
    """
    return chosen(root, reference)[-1]


def model_folder(root: Path, reference: str) -> Path:
    """Return the MLflow model directory of a version, given a reference as in `find`.

    Raises:
        RecordError: there is no such model.
    """
    version = find(root, reference)
    return folder(root, version.name, version.number)


def registered_runs(root: Path) -> dict[str, list[str]]:
    """Return the ids of the runs that registered models come from, with the versions of each."""
    found: dict[str, list[str]] = {}
    for version in every(read(root)):
        if version.run:
            found.setdefault(version.run, []).append(version.title)
    return found


def every(state: RegistryState) -> Iterator[Version]:
    """Yield every version, ordered by name and number."""
    for name in sorted(state.versions):
        for number in sorted(state.versions[name]):
            yield state.versions[name][number]


def check(root: Path, version: Version) -> Path:
    """Verify a version's files against the journal's digests, and return their folder.

    Raises:
        CorruptDataError: a file is missing or was changed.
    """
    place = content(root, version)
    for name, wanted in version.files.items():
        try:
            file: Any = context.opened(place / name)
            if file is None:
                raise OSError(errno.EINVAL, "it is not a plain file")
            with file:
                found = sha256_of(file)
        except OSError as error:
            raise CorruptDataError(
                f"model {version.title} is incomplete: {place / name}: {error.strerror or error}. Register it again "
                f"from {f'run {version.run}' if version.run else 'its original file'}"
            ) from error
        if found != wanted:
            raise CorruptDataError(
                f"model {version.title}: {place / name} was changed since it was registered: expected SHA-256 "
                f"{wanted}, found {found}. It was not loaded"
            )
    return place
