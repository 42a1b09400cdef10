"""A run's directory and its record, `run.json`.

The record has one writer at a time: the submitter until an attempt is claimed, then that attempt's supervisor. Each
write replaces the whole file atomically, so readers see either the old record or the new one and need no lock.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun._io import FileStamp, atomic_write, read_once
from labrun.config import checking, exact
from labrun.config.instantiate import Node
from labrun.config.schema import Config
from labrun.errors import DamagedRecordError, RecordError
from labrun.messages import first_line
from labrun.plugins import TASKS
from labrun.runs import context, machine, sdk_ids
from labrun.runs.attempts import Attempt, Failure, Job, Process
from labrun.runs.groups import (
    Code,
    DataEntry,
    GitState,
    Host,
    HydraFeatures,
    Imported,
    SweepMember,
    ThreadUse,
    Training,
    layout,
    plain,
)
from labrun.runs.status import Status

if TYPE_CHECKING:
    from importlib.metadata import Distribution

FORMAT = 2
"""Format 2 encodes `config` with `config.exact`; format 1 turned NaN and keys that were not strings into strings."""


QUEUED, RUNNING, PREEMPTED = Status.QUEUED, Status.RUNNING, Status.PREEMPTED
COMPLETED, FAILED, CANCELED, STOPPED = Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.STOPPED
LOST, UNREACHABLE = Status.LOST, Status.UNREACHABLE
FINISHED = frozenset({COMPLETED, FAILED, CANCELED, STOPPED})
PROGRAM = "program"
"""Task of a run that a user's program creates and logs to (`labrun.start_run`), instead of a labrun command."""

UNREACHABLE_AFTER_S = 60.0
LOST_ELSEWHERE_AFTER_S = 600.0
HIDDEN = "***"
"""Placeholder for the value of an environment variable in records."""


@dataclass(frozen=True)
class RunPaths:
    """The paths in a run's directory."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / "run.json"

    @property
    def log(self) -> Path:
        return self.root / "driver.log"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    @property
    def requests(self) -> Path:
        return self.root / "requests"


ID = re.compile(r"[0-9a-f]{8}")
TELLING = frozenset({"AssertionError", "IndexError", "KeyError", "StopIteration"})
"""Error types that explain more than their message does."""


@dataclass
class Record:
    """The content of `run.json`."""

    id: str
    """Random, never reused."""
    name: str
    """Name of the experiment, and of the folder that holds its runs."""
    task: str
    """`fit`, `evaluate`, `predict`, `script`, or `program`."""
    status: Status
    created: str
    """Time of submission. All times in a record are ISO 8601, UTC."""
    config: dict[str, Any]
    """Resolved config, except references to the environment and to mounts, which the executing process resolves."""
    overrides: list[str] = field(default_factory=list)
    command: str = ""
    """The command that repeats this run."""
    started: str | None = None
    ended: str | None = None
    duration_s: float | None = None
    parent: str | None = None
    """ID of the run that this one resumed or scored."""
    sweep: SweepMember | None = None
    """For a run of a sweep: its place in the sweep."""
    tags: dict[str, str] = field(default_factory=dict)
    notes: str = ""
    hydra: HydraFeatures | None = None
    properties: dict[str, str] = field(default_factory=dict)
    """Set by the run's own code (Azure ML's `add_properties`); a property never changes once set."""
    signature: str | None = None
    settings: str | None = None
    """If the config refers to the environment: digest of the values it resolved to at submission."""
    code: Code | None = None
    git: GitState | None = None
    """None outside git."""
    packages: dict[str, str] = field(default_factory=dict)
    host: Host | None = None
    """Where a sweep or rerun was submitted, and where any other run was first executed."""
    process: Process | None = None
    job: Job | None = None
    """Cluster job that ran the latest attempt."""
    data: list[DataEntry] = field(default_factory=list)
    """What it read; the data set first."""
    model: dict[str, Any] | None = None
    """The saved model's card (`outputs/model.json`), without its seal."""
    training: Training | None = None
    """For a network: how its training went, and which epoch's weights were tested."""
    directions: dict[str, str] = field(default_factory=dict)
    """Maps a metric to `max` or `min` where the config overrides the direction that the metric's name implies."""
    threads: ThreadUse | None = None
    """For a model: the threads of the latest attempt."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The last value of each metric."""
    imported: Imported | None = None
    """For a run imported from an archive. The processes, jobs and folders in its record belong to the
    machine that it came from."""
    attempts: list[Attempt] = field(default_factory=list)
    error: Failure | None = None
    format: int = FORMAT

    @property
    def typed(self) -> Config:
        """The config with typed parts."""
        return Config(self.config)

    @property
    def number(self) -> int | str | None:
        """Its number in its sweep, or its name there; None outside a sweep."""
        return None if self.sweep is None else self.sweep.number

    @property
    def sdk_id(self) -> str:
        """Its ID in the form of Azure's SDK."""
        return sdk_ids.of_run(self.id, plain(self.sweep), self.config)

    @property
    def is_of_program(self) -> bool:
        """Whether a user's program created the run, instead of a labrun command."""
        return self.task == PROGRAM

    @property
    def needs_hydra(self) -> bool:
        """Whether its process needs Hydra or OmegaConf; a script without references and Hydra settings does not."""
        task = TASKS.find(self.task)
        return task is None or task.uses_hydra or bool(self.hydra) or "${" in repr(self.config)

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def reason(self) -> str:
        """Why the run did not complete: the `first_line` of its error, or "" if it has none.

        The error's type is put first where the line alone says little, as for a bare `assert` or a `KeyError`.
        """
        if self.error is None:
            return ""
        kind = self.error.type
        line = first_line(self.error.message)
        return f"{kind}: {line}".removesuffix(": ") if not line or kind in TELLING else line


def timestamp() -> str:
    """Return the current time in the format of records."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_id(text: object) -> bool:
    """Return whether a value is a labrun run ID: eight hexadecimal digits."""
    return isinstance(text, str) and ID.fullmatch(text) is not None


def is_named_safely(record: Record) -> bool:
    """Return whether a run's ID and name are valid labrun names, and so safe as parts of paths."""
    return is_id(record.id) and checking.names_a_folder(record.name)


def is_scoring(task: str) -> bool:
    """Return whether a task scores the model of another run."""
    found = TASKS.find(task)
    return found is not None and bool(found.scores)


def sweep_folder(run_dir: str | os.PathLike[str], record: Record) -> Path | None:
    """Return the folder of a run's sweep, or None for a run outside any sweep.

    Returns the folder in the record if it contains the run. Otherwise (the workspace was moved, or the record was
    imported) returns the run's parent folder, so that a record never leads to an unrelated folder.
    """
    if record.sweep is None:
        return None
    run_dir = Path(os.path.realpath(run_dir))
    given = record.sweep.folder
    if isinstance(given, str) and given and "\0" not in given:
        folder = Path(os.path.realpath(given))
        near = run_dir.parents[:HIGHEST]
        tops = [place for place, parent in enumerate(near) if parent.name in ("outputs", "multirun")]
        if folder in near[: tops[0] if tops else HIGHEST]:
            return folder
    return run_dir.parent


def seconds_between(start: str, end: str) -> float:
    """Return the seconds between two record times."""
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)


def read_record(run_dir: str | os.PathLike[str]) -> Record:
    """Read a run's record.

    Raises:
        RecordError: the record is missing or damaged.
    """
    path = RunPaths(Path(run_dir)).record
    try:
        raw = context.content(path, LARGEST)
    except FileNotFoundError:
        raise RecordError(f"{path.parent} holds no run.json, so it is not a run's folder") from None
    except OSError as error:
        raise DamagedRecordError(path, str(error)) from error
    return parse_record(raw, path, run_dir)


def parse_record(raw: bytes, path: Path, annotated: str | os.PathLike[str] | None = None) -> Record:
    """Parse a record.

    Args:
        raw: content of the record's file.
        path: the file, for messages.
        annotated: directory of the run whose annotations to apply; None applies none.

    Raises:
        RecordError: the record is damaged.
    """
    try:
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        missing = sorted(REQUIRED - set(content))
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        if raw.count(b"{") + raw.count(b"[") > DEEPEST:  # with fewer brackets it cannot be nested too deeply
            _check_depth(content)
        content = content if annotated is None else context.annotated(annotated, content)
        # Skip entries that are not dicts, keep the rest.
        for name in ("data", "attempts"):
            if isinstance(content.get(name), list):
                content[name] = [one for one in content[name] if isinstance(one, dict)]
        record = Record(**{key: value for key, value in content.items() if key in KEYS})
        _check(record)
        parse_groups(record)
        is_old = record.format == 1
        is_tagged = exact.may_be_tagged(raw)
        if is_old:
            record.config = exact.escaped_before(record.config)
        elif is_tagged:
            record.config = exact.decoded(record.config)
        if is_tagged:
            record.hydra = exact.decoded(record.hydra)
        record.format = FORMAT  # the next write uses the current format
        return record
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedRecordError(path, str(error)) from error


KEYS = frozenset(f.name for f in dataclasses.fields(Record))
LARGEST = 2**28
"""Maximum size of a record, bytes."""
HIGHEST = 8
"""How many of a run's parent folders may be its sweep's folder."""
DEEPEST = 500
REQUIRED = {"id", "name", "task", "status", "created", "config"}
STATUSES = frozenset({QUEUED, RUNNING, PREEMPTED}) | FINISHED


def parse_groups(record: Record) -> None:
    """Parse a record's groups of keys, which its file holds as plain mappings."""
    for name, kind in layout(Record).groups.items():
        content = getattr(record, name)
        if isinstance(content, list):
            setattr(record, name, [kind.of(one) for one in content])
        elif content is not None:
            setattr(record, name, kind.of(content))


def _check_depth(content: Any) -> None:
    """Check that a record's values are not nested too deeply for its readers.

    Raises:
        ValueError: they are.
    """
    level = [content]
    for _ in range(DEEPEST):
        level = [
            value
            for one in level
            for value in (one.values() if isinstance(one, dict) else one)
            if isinstance(value, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"its values are nested more than {DEEPEST} levels deep")


def _check(record: Record) -> None:
    """Check that a record's values have the types that readers rely on.

    Raises:
        ValueError: they do not.
    """
    for kind, names in (
        (str, ("id", "name", "task", "created", "command", "notes")),
        (dict, ("config", "tags", "properties", "packages", "metrics", "directions")),
        (list, ("overrides", "data", "attempts")),
        (
            dict | None,
            ("sweep", "hydra", "code", "git", "host", "process", "job", "training", "threads", "error", "imported"),
        ),
        (int | float | None, ("duration_s",)),
        (int, ("format",)),
        (str | None, ("started", "ended", "parent")),
    ):
        for name in names:
            if not isinstance(getattr(record, name), kind):
                raise ValueError(f"{name} is {getattr(record, name)!r:.60}")
    if record.status not in STATUSES:
        raise ValueError(f"status is {record.status!r}, but must be one of {', '.join(sorted(STATUSES))}")
    record.status = Status(record.status)
    for name in ("created", "started", "ended"):
        time_text = getattr(record, name)
        if time_text is not None and datetime.fromisoformat(time_text).tzinfo is None:
            raise ValueError(f"{name} is {time_text!r}, which has no time zone")
    if not all(isinstance(word, str) for word in (*record.overrides, *record.tags, *record.tags.values())):
        raise ValueError("overrides and tags must hold only text")
    for name, value in record.metrics.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, int) and abs(value) > 10**300):
            raise ValueError(f"metric {name} is {value!s:.40}")


def write_record(run_dir: str | os.PathLike[str], record: Record, to_disk: bool | None = None) -> None:
    """Replace a run's record.

    Args:
        run_dir: the run's directory.
        record: the new record.
        to_disk: wait until it is on disk (fsync). By default only for a finished run, whose record others rely on.

    Raises:
        RecordError: the folder is not writable (full disk, read-only).
    """
    path = RunPaths(Path(run_dir)).record
    replace_text(path, record_json(record), to_disk=record.finished if to_disk is None else to_disk)


def flush_record(run_dir: str | os.PathLike[str]) -> None:
    """Flush a run's record to disk, for a run whose own process did not.

    Raises:
        RecordError: the record cannot be flushed.
    """
    path = RunPaths(Path(run_dir)).record
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordError(cannot_write(path.parent, error)) from error


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False)
_LINES = json.JSONEncoder(ensure_ascii=False, separators=(",\n  ", ": "))


def record_json(record: Record) -> str:
    """Return a record as JSON, with one line per first- and second-level key: `json`'s `indent` is ten times slower."""
    lines = []
    for entry in dataclasses.fields(record):
        value = plain(getattr(record, entry.name))
        if entry.name in ("config", "hydra"):
            value = exact.encoded(value)
        if isinstance(value, dict) and value:
            if all(type(part) is str for pair in value.items() for part in pair):  # packages: hundreds of them
                inner = "  " + _LINES.encode(value)[1:-1]
            else:
                inner = ",\n".join(f"  {_encoded(str(key))}: {_encoded(item)}" for key, item in value.items())
            text = f"{{\n{inner}\n }}"
        else:
            text = _encoded(value)
        lines.append(f' "{entry.name}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _encoded(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except (ValueError, TypeError):  # NaN, infinities, or keys that JSON does not support
        return _ENCODER.encode(_strict(value))


def replace_text(path: Path, text: str, to_disk: bool = True) -> None:
    """Replace a file's content atomically.

    Args:
        path: the file.
        text: its new content.
        to_disk: wait until it is on disk (fsync), so that it survives a power failure.

    Raises:
        RecordError: the folder is not writable.
    """
    try:
        with atomic_write(path, to_disk) as file:
            # Lone surrogates, which UTF-8 cannot encode, are escaped as in JSON.
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise RecordError(cannot_write(path.parent, error)) from error


LONGEST_NAME, LONGEST_PATH = 255, 3800
"""Maximum bytes of a file name, and of the path of a run's folder, which leaves room for the files in it."""


def check_path_length(run_dir: Path) -> None:
    """Check that the path of a run's folder is not too long for file systems.

    Raises:
        RecordError: a part of the path, or the whole path, is too long.
    """
    for part in run_dir.parts:
        if (size := len(os.fsencode(part))) > LONGEST_NAME:
            raise RecordError(
                f"the run's folder would have a name of {size} bytes, but file systems allow {LONGEST_NAME}: "
                f"{part[:80]!r}... Leave keys out of it (hydra.job.config.override_dirname.exclude_keys=[KEY,...]), or "
                "set hydra.sweep.subdir='${hydra.job.num}' or another name=..."
            )
    if (size := len(os.fsencode(str(run_dir)))) > LONGEST_PATH:
        raise RecordError(f"the run's folder would have a path of {size} bytes, but file systems allow 4096: {run_dir}")


def cannot_write(folder: Path, error: OSError) -> str:
    """Return the error message for a full disk or a read-only folder."""
    advice = "Free some space there, or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
    return (
        f"cannot write to {folder}: {error.strerror or error}. {advice} another place for the runs with the variable "
        "LABRUN_ROOT=/another/folder"
    )


def _strict(value: Any) -> Any:
    """Convert NaN and infinities, which JSON lacks, to strings."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def claim_attempt(run_dir: str | os.PathLike[str]) -> int:
    """Claim a run's next attempt by creating its file exclusively. Only the process that succeeds may run it.

    Returns:
        The attempt's number, starting at 1.

    Raises:
        RecordError: another process has just claimed the attempt, or the folder is not writable.
    """
    folder = RunPaths(Path(run_dir)).attempts
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), default=0)
        with open(folder / str(number), "x", encoding="utf-8") as file:
            json.dump(process_identity().as_json(), file)
    except FileExistsError:
        raise RecordError(f"another process has just begun attempt {number} of the run in {run_dir}") from None
    except OSError as error:
        raise RecordError(cannot_write(folder, error)) from error
    return number


def newest_attempt(run_dir: str | os.PathLike[str]) -> int:
    """Return the number of the latest attempt, or 0."""
    folder = RunPaths(Path(run_dir)).attempts
    try:
        return max((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), default=0)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def note_claimed_attempts(run_dir: str | os.PathLike[str], record: Record, before: int | None = None) -> None:
    """Add to a record the attempts that were claimed but killed before they could add themselves.

    Args:
        run_dir: the run's directory.
        record: its record, changed in memory only.
        before: add only attempts older than this one; None adds all.
    """
    record.attempts = [one for one in record.attempts if one.number]
    known = {attempt.number for attempt in record.attempts}
    for number in range(1, (before or newest_attempt(run_dir) + 1)):
        if number not in known:
            record.attempts.append(Attempt(number, status=LOST, reason="ended as it began"))
    record.attempts.sort(key=lambda attempt: attempt.number)


@functools.cache
def boot_id() -> str:
    """Return an ID of the machine's current boot (on Linux the kernel's `boot_id`)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return f"boot-{psutil.boot_time():.0f}"


def process_start(pid: int) -> float | None:
    """Return the start time of a process, or None if it does not exist or is a zombie.

    On Linux the time is in seconds since boot, which clock adjustments do not affect; on other systems since the epoch.
    """
    if sys.platform != "linux":
        return _process_start_by_clock(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _process_start_by_clock(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def process_identity() -> Process:
    """Return what identifies this process uniquely: its PID, host, boot ID and start time."""
    pid = os.getpid()
    return Process(pid, socket.gethostname(), boot_id(), process_start(pid))


def process_lives(process: Process | None) -> bool | None:
    """Return whether a recorded process is still alive, or None if this host cannot know."""
    if process is None or process.pid is None or process.host != socket.gethostname():
        return None
    if process.boot_id != boot_id():
        return False
    try:  # anybody may have written the record
        pid, recorded = int(process.pid), float(process.start_time or 0)
    except (TypeError, ValueError, OverflowError):
        return None
    # Older records hold seconds since the epoch on all systems.
    start = (process_start if recorded < 1e8 else _process_start_by_clock)(pid)
    return start is not None and abs(start - recorded) < 0.05


def shown_status(
    run_dir: str | os.PathLike[str],
    record: Record,
    job_is_over: Callable[[Job], bool | None] | None = None,
) -> Status:
    """Return the status to show: as recorded, unless the run's process is gone or its heartbeat is overdue.

    A run in a cluster job counts as lost only when the cluster reports the end of the job, which it may still requeue.

    Args:
        run_dir: the run's directory.
        record: its record.
        job_is_over: returns whether a cluster job (`Record.job`) is over, or None if unknown. Without it, no cluster
            is queried.
    """
    if record.status not in (RUNNING, PREEMPTED):
        return record.status
    lives = process_lives(record.process)
    age = heartbeat_age_s(run_dir)
    if record.job is not None:
        is_over = job_is_over(record.job) if job_is_over is not None else None
        if is_over and not lives:
            return LOST
        if record.status == PREEMPTED:
            return PREEMPTED
        return UNREACHABLE if lives is False or (age is not None and age > UNREACHABLE_AFTER_S) else RUNNING
    if record.status == PREEMPTED:
        return PREEMPTED
    if lives is False:
        return LOST
    if lives is None and age is not None and age > LOST_ELSEWHERE_AFTER_S:
        return LOST
    return UNREACHABLE if age is not None and age > UNREACHABLE_AFTER_S else RUNNING


def heartbeat_age_s(run_dir: str | os.PathLike[str]) -> float | None:
    """Return the seconds since the last heartbeat, or None before the first."""
    return file_age_s(RunPaths(Path(run_dir)).heartbeat)


def file_age_s(path: Path) -> float | None:
    """Return the seconds since a file was written, or None if it does not exist.

    The current time comes from the file system's clock if its folder is writable, else from the local clock.
    """
    try:
        written = path.stat().st_mtime
    except OSError:
        return None
    probe = path.parent / f".clock.{os.getpid()}"
    try:
        probe.touch()
        present = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        present = time.time()
    return max(0.0, present - written)


def describe_host() -> Host:
    """Describe this machine."""
    return Host(
        name=socket.gethostname(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpus=machine.cores(),
        memory_gb=round(machine.memory_gb(), 1),
        gpus=[name for _, name in machine.gpu_names()],
        python=platform.python_version(),
        executable=sys.executable,
    )


_IDENTITIES: dict[str, tuple[FileStamp, tuple[str, str] | None]] = {}
"""Name and version of each distribution, by the path of its METADATA, with the stamp of the file that was read."""


def installed_packages() -> dict[str, str]:
    """Return the version of each installed distribution; of duplicates, the one that an import would find."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for name, version in filter(None, map(_identity, distributions())):
        found.setdefault(name, version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _identity(one: Distribution) -> tuple[str, str] | None:
    """Return a distribution's name and version, from a file that is read again only after it has changed."""
    path = f"{getattr(one, '_path', '')}/METADATA"  # no public attribute gives this folder
    try:
        return read_once(path, _IDENTITIES, functools.partial(_read_identity, one))
    except OSError:  # an egg, or inside an archive
        return _read_identity(one)


def _read_identity(one: Distribution) -> tuple[str, str] | None:
    # Read only these two lines: parsing all metadata as e-mail, as importlib does, takes ten times as long.
    text = one.read_text("METADATA") or one.read_text("PKG-INFO") or ""
    header = text.partition("\n\n")[0].splitlines()
    fields = dict(line.split(": ", 1) for line in header if line.startswith(("Name: ", "Version: ")))
    if "Name" not in fields or "Version" not in fields:
        return None
    return fields["Name"].strip(), fields["Version"].strip()


def flat_config(config: Node, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value of a config with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
