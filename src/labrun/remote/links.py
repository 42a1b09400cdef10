"""The link between a local folder of runs and its remote copy (`.launch/remote.json`), and the conversion of paths."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.errors import RecordError
from labrun.remote import remotes
from labrun.remote.remotes import Remote
from labrun.runs import context, store
from labrun.runs.groups import Group
from labrun.runs.record import Record, replace_text, sweep_folder
from labrun.runs.sweep_state import SweepState
from labrun.runs.workspace import Workspace

if TYPE_CHECKING:
    from labrun.config.instantiate import Node


class LinkState(StrEnum):
    """State of a linked folder."""

    CARRYING = "carrying"
    """Being transferred."""
    STARTING = "starting"
    """Perhaps started remotely."""
    STARTED = "started"
    OVER = "over"
    """Ended and completely mirrored."""


CARRYING, STARTING, STARTED, OVER = LinkState
CARRIED_PATH = "LABRUN_CARRIED_PATH"
"""Remote variable with the runs' import path that precedes the interpreter's own folders."""
DATA_NODES = ("dataset", "datastore", "datastores", "script")
"""Nodes of a config in which a path may refer to data."""
CLOCKS_S = 5.0
"""Clock difference that is ignored, in seconds."""
CLUSTER = "remote"
"""`cluster` in `Record.job` of a mirrored run, whose process cannot be checked locally."""


@dataclass
class Link:
    """A local folder and its remote copy."""

    remote: str
    workspace: str
    """The remote copy of this workspace, relative to the remote's folder."""
    folder: str
    """The remote copy of the folder, relative to the remote's folder."""
    home: str = ""
    """The local workspace."""
    root: str = ""
    """The absolute path of the remote's folder."""
    state: LinkState = CARRYING
    runs: list[str] | None = field(default_factory=list)
    """The runs that were sent; None: all runs in the remote folder (a search)."""
    is_own: bool = False
    """Whether this machine sent its runs; False: they were adopted from another laptop."""
    is_new: bool = False
    """Whether the remote folder was created for this submission."""
    ahead_s: float = 0.0
    """How far the remote clock is ahead of the local one in seconds, if by more than `CLOCKS_S`."""
    marks: dict[str, Any] = field(default_factory=dict)
    """Mark of the last remote `run.json` that was read, by run."""
    pulled: list[str] = field(default_factory=list)
    """Ended runs whose files are mirrored."""
    left: list[str] = field(default_factory=list)
    """Requests that were forwarded."""
    python: str = ""
    """The remote interpreter of the runs."""
    path: list[str] = field(default_factory=list)
    """The runs' import path before the interpreter's own folders."""
    said: dict[str, int] = field(default_factory=dict)
    """Size of the local annotations when they were last forwarded, by run."""
    said_marks: dict[str, Any] = field(default_factory=dict)
    """Mark of the last remote annotations that were read, by run."""
    owed: bool = False
    """Whether ended runs have annotations that were not forwarded yet."""
    datastores: dict[str, str] = field(default_factory=dict)
    """Local data folders and files, with their remote copies relative to the remote's folder."""
    bases: list[str] = field(default_factory=list)
    """Local folders whose files were sent."""
    words: dict[str, str] = field(default_factory=dict)
    """Arguments of a search, remote -> local; an empty local argument means that there is none."""
    inherited: dict[str, str] = field(default_factory=dict)
    """Local folders of other runs, with their remote copies relative to the remote's folder."""
    place: str = ""
    """The remote's folder at the time of the transfer; `lab remote add` may have changed it since."""
    reached: float = 0.0
    """When the machine last answered, in seconds since the epoch."""
    tried: float = 0.0
    why: str = ""
    """Why it could not be reached the last time, if so."""
    living: bool = False
    """Whether its controller was alive when the machine last answered."""
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Cached file sizes of completely mirrored runs, by run; not saved."""

    @property
    def machine(self) -> Remote:
        """The machine, with the remote folder of these runs.

        Raises:
            ConfigError: the machine is no longer known.
        """
        machine = remotes.get(self.remote)
        return dataclasses.replace(machine, folder=self.place or machine.folder)

    def added(self) -> list[str]:
        """Return the arguments that only the remote search has."""
        return [remote for remote, local in self.words.items() if not local]

    def data_folder(self, base: Path) -> str:
        """Return the path of a local folder's data in the remote's folder, which is unique per submission."""
        return f"datastores/{hashlib.sha256(f'{self.folder} {base}'.encode()).hexdigest()[:16]}"

    def pairs(self, folder: Path, of_data: bool = False) -> list[tuple[str, str]]:
        """Return local folders with their remote copies, longest first; with `of_data`, including those of data."""
        pairs = list(self.machine.data.items()) if of_data else []
        pairs += [(local, f"{self.root}/{remote}") for local, remote in self.datastores.items()] if of_data else []
        pairs += [(self.home, f"{self.root}/{self.workspace}"), (str(folder), f"{self.root}/{self.folder}")]
        return sorted(pairs, key=lambda pair: -len(pair[0]))

    def to_remote(self, value: Any, folder: Path, of_data: bool = False) -> Any:
        """Replace local paths in a value by remote ones."""
        return moved(value, self.pairs(folder, of_data))

    def remote_config(self, config: Node, folder: Path, resolved: Node) -> dict[str, Any]:
        """Return a run's config with remote paths.

        Args:
            config: the config in its record.
            folder: the link's local folder.
            resolved: its nodes that may refer to data, with variables resolved, since a variable may contain a path.
        """
        moving, data = self.pairs(folder), self.pairs(folder, of_data=True)
        moving += [(local, f"{self.root}/{remote}") for local, remote in self.inherited.items()]
        moving.sort(key=lambda pair: -len(pair[0]))
        return {
            key: moved_with(value, resolved.get(key, value), data) if key in DATA_NODES else moved(value, moving)
            for key, value in config.items()
        }

    def to_local(self, value: Any, folder: Path) -> Any:
        """Replace remote paths in a value by local ones."""
        back = [(remote, local) for local, remote in self.pairs(folder, of_data=True)]
        back += [(f"{self.root}/{self.data_folder(Path(base))}", base) for base in self.bases]
        return moved(value, sorted(back, key=lambda pair: -len(pair[0])))


def absolute(value: Any) -> list[str]:
    """Return all strings in a JSON value that are absolute paths."""
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return [path for item in items for path in absolute(item)]
    return [os.path.normpath(value)] if isinstance(value, str) and os.path.isabs(value) and "\0" not in value else []


def moved_with(value: Any, resolved: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """Like `moved`, but also replace a string with variables if `moved` changes its resolved value."""
    if isinstance(value, Mapping):
        inner: Mapping[str, Any] = resolved if isinstance(resolved, Mapping) else {}
        return {key: moved_with(item, inner.get(key, item), pairs) for key, item in value.items()}
    if isinstance(value, list):
        known = resolved if isinstance(resolved, list) and len(resolved) == len(value) else value
        return [moved_with(item, one, pairs) for item, one in zip(value, known, strict=True)]
    if isinstance(value, str) and isinstance(resolved, str) and "${" in value:
        new = moved(resolved, pairs)
        return value if new == resolved else new
    return moved(value, pairs)


def moved(value: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """Return a JSON value, or a group of a record, in which path prefixes are replaced."""
    if isinstance(value, Group):
        return type(value).of(moved(value.as_json(), pairs))
    if isinstance(value, Mapping):
        return {key: moved(item, pairs) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, pairs) for item in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    for old, new in pairs:
        if value == old or value.startswith(f"{old}/"):
            return new + value[len(old) :]
        if os.path.isabs(value) and (plain := os.path.normpath(value)) != value and plain.startswith(old):
            return moved(plain, pairs)
    return value


def file(folder: Path) -> Path:
    """Return the file of a folder's link."""
    return SweepState(folder).remote_link


def read(folder: Path) -> Link | None:
    """Read the link of a folder; None if its runs are not on another machine.

    Raises:
        RecordError: the file is damaged.
    """
    try:
        content = json.loads(context.content(file(folder)))
        names = {entry.name for entry in dataclasses.fields(Link)}
        link = Link(**{key: value for key, value in content.items() if key in names})
        link.state = LinkState(link.state)
        return link
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{file(folder)} is damaged or cannot be read: {error}") from error


def write(folder: Path, link: Link) -> None:
    """Save a folder's link, and mark the folder in the workspace while the link is live."""
    SweepState(folder).make()
    kept = {name: value for name, value in vars(link).items() if name != "sizes"}
    replace_text(file(folder), json.dumps(kept) + "\n", to_disk=False)
    mark = _mark(folder, link)
    with contextlib.suppress(OSError):
        if link.state == OVER and not link.owed:
            mark.unlink(missing_ok=True)
        elif not mark.exists():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(str(folder), encoding="utf-8")


def drop(folder: Path) -> None:
    """Remove a folder's link, when its runs are no longer on another machine."""
    file(folder).unlink(missing_ok=True)  # the next call of `live` removes its mark


def live(root: Path) -> list[Path]:
    """Return the folders of a workspace whose runs may be active on other machines."""
    folders = []
    with contextlib.suppress(OSError):
        for mark in sorted(Workspace(root).remotes.iterdir()):
            folder = Path(mark.read_text(encoding="utf-8"))
            if file(folder).is_file():
                folders.append(folder)
            else:
                mark.unlink(missing_ok=True)
    return folders


def _mark(folder: Path, link: Link) -> Path:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Workspace(Path(link.home)).remotes / digest


def folder_of(run_dir: Path, record: Record) -> Path | None:
    """Return the folder with a run's link: its sweep's folder or its own; None if the run is not on another machine.

    For a run that a script has started below its own run, return the folder of the script's run, since the relative
    path from there to the run is the same on both machines.
    """
    candidates = {sweep_folder(run_dir, record) or run_dir, run_dir.resolve()}
    folder = next((folder for folder in candidates if file(folder).is_file()), None)
    if folder is None and record.is_of_program and record.parent:
        with contextlib.suppress(RecordError):
            return folder_of(*store.find(store.workspace(), record.parent))
    return folder


def remote_workspace(root: Path) -> str:
    """Return a workspace's remote copy, relative to the remote's folder; unique per workspace and local machine."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
    except OSError:
        machine = ""
    digest = hashlib.sha256(f"{machine} {socket.gethostname()} {os.getuid()} {root}".encode()).hexdigest()[:10]
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in root.name)[:40].lstrip(".")
    return f"workspaces/{name or 'root'}-{digest}"


def remote_folder(folder: Path, root: Path, workspace: str) -> str:
    """Return a folder's remote copy, relative to the remote's folder."""
    if folder.is_relative_to(root):
        return f"{workspace}/{folder.relative_to(root).as_posix()}"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
    return f"{workspace}/elsewhere/{digest}/{folder.name}"


def note_reader(folder: Path) -> None:
    """Tell a detached controller that a folder's runs are being read, so that it mirrors changes at once and often."""
    if file(folder).is_file():
        with contextlib.suppress(OSError):
            _read_mark(folder).touch()


def last_read_s(folder: Path) -> float:
    """Return how long ago a folder's runs were last read (`note_reader`), in seconds."""
    try:
        return max(0.0, time.time() - _read_mark(folder).stat().st_mtime)
    except OSError:
        return math.inf


def _read_mark(folder: Path) -> Path:
    return SweepState(folder).remote_read


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock for mirroring a folder's changes; yield False if another process holds it."""
    SweepState(folder).make()
    with open(SweepState(folder).mirror_lock, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield True
