"""What ties a folder of runs here to its double there: `.launch/remote.json`; and the paths of the one in the other."""

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
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.remote import remotes
from labrun.remote.remotes import Remote
from labrun.runs import context, store
from labrun.runs import record as records
from labrun.runs.record import Record
from labrun.runs.sweep_state import SweepState

CARRYING, STARTING, STARTED, OVER = "carrying", "starting", "started", "over"
"""How far a folder is: on its way there; perhaps begun there; begun there; all of it is here again."""
CARRIED_PATH = "LABRUN_CARRIED_PATH"
"""The variable that names, there, the folders that runs import from before the interpreter's own."""
OF_DATA = ("dataset", "datastore", "datastores", "script")
"""The nodes of a config in which a path may be one of data."""
CLOCKS_S = 5.0
"""By how much clocks may differ before anybody minds."""
CLUSTER = "remote"
"""What `Record.job` of a mirrored run names: no reader of here may judge its process."""


@dataclass
class Link:
    """A folder here, and its double there."""

    remote: str
    workspace: str
    """The double of this workspace, relative to the remote's folder."""
    folder: str
    """The double of the folder, relative to the remote's folder."""
    home: str = ""
    """This workspace."""
    root: str = ""
    """The remote's folder, as an absolute path there."""
    state: str = CARRYING
    runs: list[str] | None = field(default_factory=list)
    """The runs that were carried; None: those that lie there (a search)."""
    is_own: bool = False
    """Whether its runs were carried from here; False: they were taken in, as another laptop has sent them."""
    is_new: bool = False
    """Whether the folder there was made for this submission."""
    ahead_s: float = 0.0
    """By how much its clock is ahead of this machine's, where that is more than `CLOCKS_S`."""
    marks: dict[str, Any] = field(default_factory=dict)
    """By run: which `run.json` of there was seen last."""
    pulled: list[str] = field(default_factory=list)
    """The runs whose files are here."""
    left: list[str] = field(default_factory=list)
    """The requests that were passed on."""
    python: str = ""
    """The interpreter of the runs there."""
    path: list[str] = field(default_factory=list)
    """Where they import from before its own folders."""
    said: dict[str, int] = field(default_factory=dict)
    """By run: how long its annotations were here when they were passed on last."""
    said_marks: dict[str, Any] = field(default_factory=dict)
    """By run: which annotations of there were seen last."""
    owed: bool = False
    """Whether something was said of runs that are over, and was not passed on yet."""
    datastores: dict[str, str] = field(default_factory=dict)
    """Folders and files of data here, and their doubles relative to the remote's folder."""
    bases: list[str] = field(default_factory=list)
    """The folders here whose files were sent."""
    words: dict[str, str] = field(default_factory=dict)
    """Of a search, by its words there: the words here; nothing where there is none."""
    inherited: dict[str, str] = field(default_factory=dict)
    """Folders of other runs here, and their doubles relative to the remote's folder."""
    place: str = ""
    """The remote's folder as it was named when the runs were carried: it may be another since (`lab remote add`)."""
    reached: float = 0.0
    """When the machine last answered (seconds since the epoch)."""
    tried: float = 0.0
    why: str = ""
    """Why it was not reached, if it was not."""
    living: bool = False
    """Whether its controller lived when the machine last answered."""
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By run that is here whole: how far its files are. Kept nowhere."""

    @property
    def machine(self) -> Remote:
        """The machine, with the folder that these runs lie in.

        Raises:
            ConfigError: it is not known any more.
        """
        found = remotes.get(self.remote)
        return dataclasses.replace(found, folder=self.place or found.folder)

    def added(self) -> list[str]:
        """The words that a search has there alone."""
        return [there for there, here in self.words.items() if not here]

    def double(self, base: Path) -> str:
        """Where the data of a folder here lie there, relative to the remote's folder: another for each submission."""
        return f"datastores/{hashlib.sha256(f'{self.folder} {base}'.encode()).hexdigest()[:16]}"

    def pairs(self, folder: Path, of_data: bool = False) -> list[tuple[str, str]]:
        """Folders here and their doubles there, the longest first; data may lie in a workspace's own folder."""
        found = list(self.machine.data.items()) if of_data else []
        found += [(here, f"{self.root}/{there}") for here, there in self.datastores.items()] if of_data else []
        found += [(self.home, f"{self.root}/{self.workspace}"), (str(folder), f"{self.root}/{self.folder}")]
        return sorted(found, key=lambda pair: -len(pair[0]))

    def there(self, value: Any, folder: Path, of_data: bool = False) -> Any:
        """A value with the paths of there in place of those of here."""
        return moved(value, self.pairs(folder, of_data))

    def config_there(self, config: Mapping[str, Any], folder: Path, settled: Mapping[str, Any]) -> dict[str, Any]:
        """A run's config with the paths of there.

        Args:
            config: as its record has it.
            folder: the link's, here.
            settled: its nodes that may name data, with the values of variables: a path may stand in one.
        """
        moving, data = self.pairs(folder), self.pairs(folder, of_data=True)
        moving += [(here, f"{self.root}/{there}") for here, there in self.inherited.items()]
        moving.sort(key=lambda pair: -len(pair[0]))
        return {
            key: moved_with(value, settled.get(key, value), data) if key in OF_DATA else moved(value, moving)
            for key, value in config.items()
        }

    def here(self, value: Any, folder: Path) -> Any:
        """A value with the paths of here in place of those of there."""
        back = [(there, here) for here, there in self.pairs(folder, of_data=True)]
        back += [(f"{self.root}/{self.double(Path(base))}", base) for base in self.bases]
        return moved(value, sorted(back, key=lambda pair: -len(pair[0])))


def absolute(value: Any) -> list[str]:
    """Every text of a value of JSON that is an absolute path."""
    if isinstance(value, Mapping | list | tuple):
        items = value.values() if isinstance(value, Mapping) else value
        return [path for item in items for path in absolute(item)]
    return [os.path.normpath(value)] if isinstance(value, str) and os.path.isabs(value) and "\0" not in value else []


def moved_with(value: Any, settled: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """As `moved`; a text that refers to a variable moves if what it stands for does."""
    if isinstance(value, Mapping):
        inner: Mapping[str, Any] = settled if isinstance(settled, Mapping) else {}
        return {key: moved_with(item, inner.get(key, item), pairs) for key, item in value.items()}
    if isinstance(value, list):
        known = settled if isinstance(settled, list) and len(settled) == len(value) else value
        return [moved_with(item, one, pairs) for item, one in zip(value, known, strict=True)]
    if isinstance(value, str) and isinstance(settled, str) and "${" in value:
        new = moved(settled, pairs)
        return value if new == settled else new
    return moved(value, pairs)


def moved(value: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """A value of JSON in which paths have another beginning."""
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
    """Where a folder's link is kept."""
    return SweepState(folder).root / "remote.json"


def read(folder: Path) -> Link | None:
    """The link of a folder; None if its runs are no other machine's.

    Raises:
        RecordError: it is damaged.
    """
    try:
        content = json.loads(context.content(file(folder)))
        names = {entry.name for entry in dataclasses.fields(Link)}
        return Link(**{key: value for key, value in content.items() if key in names})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{file(folder)} is damaged or cannot be read: {error}") from error


def write(folder: Path, link: Link) -> None:
    """Keep a folder's link, and note in the workspace whether it is live."""
    SweepState(folder).make()
    kept = {name: value for name, value in vars(link).items() if name != "sizes"}
    records.replace_text(file(folder), json.dumps(kept) + "\n", to_disk=False)
    mark = _mark(folder, link)
    with contextlib.suppress(OSError):
        if link.state == OVER and not link.owed:
            mark.unlink(missing_ok=True)
        elif not mark.exists():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(str(folder), encoding="utf-8")


def drop(folder: Path) -> None:
    """The folder's runs are no other machine's any more."""
    file(folder).unlink(missing_ok=True)  # its mark goes with the next look at all of them


def live(root: Path) -> list[Path]:
    """The folders of a workspace whose runs may go on elsewhere."""
    found = []
    with contextlib.suppress(OSError):
        for mark in sorted((store.state_folder(root) / "remote").iterdir()):
            folder = Path(mark.read_text(encoding="utf-8"))
            if file(folder).is_file():
                found.append(folder)
            else:
                mark.unlink(missing_ok=True)
    return found


def _mark(folder: Path, link: Link) -> Path:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return store.state_folder(Path(link.home)) / "remote" / digest


def folder_of(run_dir: Path, record: Record) -> Path | None:
    """The folder whose link a run has: its sweep's, or its own; None if it is no other machine's.

    Of a run that a script has begun below its own, that one's: the way from there to the run is the same on both sides.
    """
    found = {records.sweep_folder(run_dir, record) or run_dir, run_dir.resolve()}
    folder = next((folder for folder in found if file(folder).is_file()), None)
    if folder is None and record.task == records.PROGRAM and record.parent:
        with contextlib.suppress(RecordError):
            return folder_of(*store.find(store.workspace(), record.parent))
    return folder


def workspace_there(root: Path) -> str:
    """The double of a workspace, relative to the remote's folder: another for each workspace of each machine."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
    except OSError:
        machine = ""
    digest = hashlib.sha256(f"{machine} {socket.gethostname()} {os.getuid()} {root}".encode()).hexdigest()[:10]
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in root.name)[:40].lstrip(".")
    return f"workspaces/{name or 'root'}-{digest}"


def folder_there(folder: Path, root: Path, workspace: str) -> str:
    """The double of a folder, relative to the remote's folder."""
    if folder.is_relative_to(root):
        return f"{workspace}/{folder.relative_to(root).as_posix()}"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
    return f"{workspace}/elsewhere/{digest}/{folder.name}"


def ask(folder: Path) -> None:
    """Somebody looks at a folder's runs: a detached controller brings their news at once, and often for a while."""
    if file(folder).is_file():
        with contextlib.suppress(OSError):
            _asked(folder).touch()


def asked_s(folder: Path) -> float:
    """How long ago somebody looked (`ask`), seconds."""
    try:
        return max(0.0, time.time() - _asked(folder).stat().st_mtime)
    except OSError:
        return math.inf


def _asked(folder: Path) -> Path:
    return SweepState(folder).root / "looked"


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Inside, nobody else brings a folder's news; False: somebody else does."""
    SweepState(folder).make()
    with open(SweepState(folder).root / "mirror.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield True
