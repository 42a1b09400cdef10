"""The known machines for `compute.host`, stored in this user's file `remotes.json`.

An entry holds the arguments of `ssh` and the remote paths, but no secrets: ssh itself handles keys, jump hosts and
passwords (`~/.ssh/config`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrun import messages
from labrun._io import atomic_write
from labrun.errors import ConfigError

VARIABLE = "LABRUN_REMOTES"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class InterpreterFacts:
    """A remote interpreter that can be used."""

    version: str
    packages: dict[str, str]
    """Versions of its packages, by normalized name."""


@dataclass(frozen=True)
class Facts:
    """What a remote machine has (`Channel.facts`)."""

    host: str
    system: str
    machine: str
    """Its processor architecture, as `platform.machine` names it."""
    helper: str
    """Version of the Python that executes the helper."""
    cores: int
    memory_gb: float | None
    """Memory in GiB."""
    disk_gb: float
    """Free space of the disk with `Remote.folder`, in GiB."""
    uv: str | None
    """Path of uv."""
    gpus: tuple[str, ...]
    """Names of the GPUs."""
    programs: dict[str, str | None]
    """Paths of the programs of all backends that were installed here at the query; None: not on its PATH."""
    python: InterpreterFacts | str | None = None
    """After a full query: the interpreter `Remote.python`, or why it cannot be used."""
    surveys: dict[str, str | None] = field(default_factory=dict)
    """After a full query: the output of each `Backend.survey`, by the backend's name; None: the command failed."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Facts:
        """Build from the helper's facts or an entry of the file.

        Raises:
            KeyError, TypeError: a fact is missing.
        """
        known = {one.name: content[one.name] for one in dataclasses.fields(cls) if one.name in content}
        python = content.get("python")
        interpreter = InterpreterFacts(python["version"], python["packages"]) if isinstance(python, Mapping) else python
        return cls(**{**known, "gpus": tuple(content["gpus"]), "python": interpreter})

    def has(self, program: str) -> bool:
        """Return whether a program is known to be there."""
        return self.programs.get(program) is not None


@dataclass(frozen=True)
class Remote:
    """A remote machine that is reachable over SSH."""

    name: str
    address: str
    """An address for `ssh`: a host, `user@host`, or an alias in its configuration."""
    folder: str = "~/.labrun"
    """The remote folder for everything, on a disk with enough room that a cluster's nodes can access, too."""
    python: str | None = None
    """A remote interpreter that has the packages; None: an environment is built with the local packages."""
    ssh_config: str | None = None
    """A file for `ssh -F`; None: ssh's default."""
    build: str | None = None
    """How environments are built, as login nodes may forbid it: None: directly; a backend and its options: in a job,
    such as `slurm --time=5`."""
    wheelhouse: str | None = None
    """A local folder with wheels to send instead of using a package index; `auto`: build the wheels locally."""
    data: dict[str, str] = field(default_factory=dict)
    """Remote folders with the same content as local ones: local -> remote."""
    facts: Facts | None = None
    """The machine's facts from the last query; None: it was not queried yet."""
    packages: dict[str, Any] = field(default_factory=dict)
    """The packages of `python` when runs were first sent (`there`), and the version differences reported (`told`)."""


def file() -> Path:
    """Return the path of the file."""
    path = os.environ.get(VARIABLE)
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(path or f"{config}/labrun/remotes.json").expanduser()


def known() -> dict[str, Remote]:
    """Return all known machines, by name.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        content = json.loads(file().read_text(encoding="utf-8"))
        return {name: _remote(name, entry) for name, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file()} is damaged or cannot be read: {error}") from error


def _remote(name: str, entry: Mapping[str, Any]) -> Remote:
    names = {one.name for one in dataclasses.fields(Remote)} - {"facts"}
    known_settings = {key: value for key, value in entry.items() if key in names}
    return Remote(**{"name": name, **known_settings, "facts": _known_facts(entry.get("facts"))})


def _known_facts(content: Mapping[str, Any] | None) -> Facts | None:
    """Return the facts of an entry; None if there are none, or if another version wrote them and some are missing."""
    try:
        return Facts.of(content) if content else None
    except (KeyError, TypeError):
        return None


def get(name: str) -> Remote:
    """Return the machine with this name.

    Raises:
        ConfigError: there is no such machine.
    """
    machines = known()
    if name in machines:
        return machines[name]
    names = ", ".join(sorted(machines)) or "none"
    raise ConfigError(
        f"compute.host={name!r}: there is no machine of that name (known: {names})."
        f"{messages.suggest(name, sorted(machines))} "
        f"'lab remote add {name} ADDRESS' adds it; 'ssh ADDRESS' must reach it"
    )


def put(remote: Remote) -> None:
    """Save a machine, replacing any other of the same name.

    Raises:
        ConfigError: the name or the address is invalid, or the file cannot be written.
    """
    if not NAME.fullmatch(remote.name):
        raise ConfigError(f"{remote.name!r} is not a valid name: use letters, digits, '_', '-' and '.', 63 at most")
    if (
        not remote.address
        or remote.address.startswith("-")
        or any(c.isspace() or not c.isprintable() for c in remote.address)
    ):
        raise ConfigError(f"{remote.address!r} is not an address: give HOST, USER@HOST, or an alias of ~/.ssh/config")
    if ":" in remote.folder or not remote.folder.isprintable():
        raise ConfigError(f"--folder {remote.folder!r}: Python imports from it, so it cannot contain ':' or line ends")
    _write({**known(), remote.name: remote})


def forget(name: str) -> None:
    """Remove a machine.

    Raises:
        ConfigError: there is no such machine.
    """
    get(name)
    _write({key: remote for key, remote in known().items() if key != name})


def note_facts(name: str, facts: Facts) -> None:
    """Save the facts of a machine."""
    found = known()
    if name in found and found[name].facts != facts:
        _write({**found, name: dataclasses.replace(found[name], facts=facts)})


def note_packages(name: str, packages: dict[str, Any]) -> None:
    """Save the packages of a machine's interpreter."""
    found = known()
    if name in found and found[name].packages != packages:
        _write({**found, name: dataclasses.replace(found[name], packages=packages)})


def _write(found: dict[str, Remote]) -> None:
    entries = {}
    for name, remote in sorted(found.items()):
        entry = dataclasses.asdict(remote)
        del entry["name"]
        entry["facts"] = entry["facts"] or {}
        entries[name] = entry
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file()) as target:
            target.write((json.dumps(entries, indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot write {file()}: {error.strerror or error}") from error
