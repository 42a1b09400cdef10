"""The machines that `compute.host` may name: a file of this user's, `remotes.json`.

An entry holds what `ssh` is called with and where things go there, and no secret: keys, jumps and passwords are ssh's
own matter (`~/.ssh/config`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labrun import checking
from labrun._io import atomic_write
from labrun.errors import ConfigError

VARIABLE = "LABRUN_REMOTES"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Remote:
    """A machine that SSH reaches."""

    name: str
    address: str
    """As `ssh` takes it: a host, `user@host`, or an alias of its configuration."""
    folder: str = "~/.labrun"
    """Where everything goes there: on a disk with room, which a cluster's nodes see too."""
    python: str | None = None
    """An interpreter there that has the packages; None: one is made from those that are here."""
    ssh_config: str | None = None
    """A file for `ssh -F`; None: ssh's own."""
    build: str | None = None
    """How an environment is built there: None, or `slurm` with options of `srun`, where login nodes forbid work."""
    wheelhouse: str | None = None
    """A folder here with wheels, which are sent instead of asking an index; `auto`: made here."""
    data: dict[str, str] = field(default_factory=dict)
    """Folders there that hold what folders here hold: here -> there."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the machine had when it was last asked."""
    packages: dict[str, Any] = field(default_factory=dict)
    """What `python` had when runs first went there (`there`), and which other versions were told (`told`)."""


def file() -> Path:
    """Where they are kept."""
    given = os.environ.get(VARIABLE)
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(given or f"{config}/labrun/remotes.json").expanduser()


def known() -> dict[str, Remote]:
    """All of them, by name.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        content = json.loads(file().read_text(encoding="utf-8"))
        names = {entry.name for entry in dataclasses.fields(Remote)}
        return {
            name: Remote(**{"name": name, **{key: value for key, value in entry.items() if key in names}})
            for name, entry in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file()} is damaged or cannot be read: {error}") from error


def get(name: str) -> Remote:
    """The one of that name.

    Raises:
        ConfigError: there is none.
    """
    found = known()
    if name in found:
        return found[name]
    there = ", ".join(sorted(found)) or "none"
    raise ConfigError(
        f"compute.host={name!r}: no machine is known by that name ({there}).{checking.suggest(name, sorted(found))} "
        f"'lab remote add {name} ADDRESS' makes it known; the address is one that 'ssh ADDRESS' reaches"
    )


def put(remote: Remote) -> None:
    """Keep one, in place of what went by its name.

    Raises:
        ConfigError: the name or the address cannot be one; the file cannot be written.
    """
    if not NAME.fullmatch(remote.name):
        raise ConfigError(f"{remote.name!r} cannot be a name: letters, digits, '_', '-' and '.' can, 63 at most")
    if (
        not remote.address
        or remote.address.startswith("-")
        or any(c.isspace() or not c.isprintable() for c in remote.address)
    ):
        raise ConfigError(f"{remote.address!r} is not an address: give HOST, USER@HOST, or an alias of ~/.ssh/config")
    if ":" in remote.folder or not remote.folder.isprintable():
        raise ConfigError(f"--folder {remote.folder!r}: Python imports from it, so ':' and line ends cannot be in it")
    _write({**known(), remote.name: remote})


def forget(name: str) -> None:
    """Forget one.

    Raises:
        ConfigError: there is none.
    """
    get(name)
    _write({key: remote for key, remote in known().items() if key != name})


def note_facts(name: str, facts: dict[str, Any]) -> None:
    """Remember what a machine has."""
    found = known()
    if name in found and found[name].facts != facts:
        _write({**found, name: dataclasses.replace(found[name], facts=facts)})


def note_packages(name: str, packages: dict[str, Any]) -> None:
    """Remember what an interpreter of a machine has."""
    found = known()
    if name in found and found[name].packages != packages:
        _write({**found, name: dataclasses.replace(found[name], packages=packages)})


def _write(found: dict[str, Remote]) -> None:
    entries = {}
    for name, remote in sorted(found.items()):
        entry = dataclasses.asdict(remote)
        del entry["name"]
        entries[name] = entry
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file()) as target:
            target.write((json.dumps(entries, indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot write {file()}: {error.strerror or error}") from error
