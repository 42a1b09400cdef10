"""What a run is: its directory, its record, and who may write it.

`run.json` belongs to the submitter until an attempt is claimed, then to that attempt's supervisor. It is always
replaced whole, so a reader sees the old record or the new one, never a mixture, and needs no lock.
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
from enum import StrEnum
from pathlib import Path
from typing import Any

from labrun import checking, exact
from labrun._io import atomic_write
from labrun.errors import DamagedRecordError, RecordError
from labrun.runs import context

FORMAT = 2
"""Since 2, `config` is written as `labrun.exact` says; before, keys that were no text and NaN had become text."""


class Status(StrEnum):
    """What has become of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    PREEMPTED = "preempted"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    STOPPED = "stopped"
    LOST = "lost"
    """Shown by readers, never written: the process is gone."""
    UNREACHABLE = "unreachable"
    """Shown by readers, never written: no sign of life for a while."""


class EndReason(StrEnum):
    """The type of a run's error where it is none of its own code's."""

    CANCELED = "Canceled"
    STOPPED = "Stopped"
    KILLED = "Killed"
    """By a signal from outside."""
    CRASHED = "Crashed"
    """By a signal that is the process's own fault."""
    EXITED = "Exited"
    LIMIT_EXCEEDED = "LimitExceeded"
    JOB_ENDED = "JobEnded"
    NO_DEVICE = "NoDevice"
    PROCESS_FAILED = "ProcessFailed"
    """Another process of a run of several."""


QUEUED, RUNNING, PREEMPTED = Status.QUEUED, Status.RUNNING, Status.PREEMPTED
COMPLETED, FAILED, CANCELED, STOPPED = Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.STOPPED
LOST, UNREACHABLE = Status.LOST, Status.UNREACHABLE
FINISHED = frozenset({COMPLETED, FAILED, CANCELED, STOPPED})
PROGRAM = "program"
"""The task of a run that no command carries out: a program logs to it (`labrun.start_run`)."""

UNREACHABLE_AFTER_S = 60.0
LOST_ELSEWHERE_AFTER_S = 600.0
HIDDEN = "***"
"""What records hold in place of a variable's value."""


@dataclass(frozen=True)
class RunPaths:
    """Every path of a run, below its directory."""

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
"""Errors whose type says more than their message."""


@dataclass
class Record:
    """The content of `run.json`."""

    id: str
    """Random, never used again."""
    name: str
    """The experiment's name: the folder that holds its runs."""
    task: str
    """`fit`, `evaluate`, `predict`, `script`, or `program`."""
    status: Status
    created: str
    """When it was submitted; ISO 8601, UTC, as all times here."""
    config: dict[str, Any]
    """Resolved, but for references to the environment and to mounts, which are resolved where the run executes."""
    overrides: list[str] = field(default_factory=list)
    command: str = ""
    """The command that repeats this run."""
    started: str | None = None
    ended: str | None = None
    duration_s: float | None = None
    parent: str | None = None
    """The run that this one resumed or scored."""
    sweep: dict[str, Any] | None = None
    """For a sweep's run: the sweep's folder and the run's number in it."""
    tags: dict[str, str] = field(default_factory=dict)
    notes: str = ""
    hydra: dict[str, Any] | None = None
    """What Hydra does around the run beside calling it: `callbacks`, `job_logging`, `verbose`, `chdir`."""
    properties: dict[str, str] = field(default_factory=dict)
    """Set once and never changed, by the run's own code (Azure ML's `add_properties`)."""
    signature: str | None = None
    settings: str | None = None
    """Where the config refers to the environment: a digest of what that gave when the run was submitted."""
    code: dict[str, Any] | None = None
    git: dict[str, Any] | None = None
    packages: dict[str, str] = field(default_factory=dict)
    host: dict[str, Any] | None = None
    process: dict[str, Any] | None = None
    job: dict[str, Any] | None = None
    """The cluster's job that ran the newest attempt: `cluster`, `id`, `node`."""
    data: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    """Of a network: `epochs` that ended, the epoch that was `tested` and `why`, `not_finite` where it ended in NaN,
    `stopped_early` where early stopping ended it."""
    directions: dict[str, str] = field(default_factory=dict)
    """`max` or `min` of metrics for which the config says other than their names tell."""
    threads: dict[str, Any] | None = None
    """Of the newest attempt of a network: `allowed`, and for `training` and `scoring` the `count` and `why`."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The last value of each metric."""
    imported: dict[str, Any] | None = None
    """Of a run that came from an archive: its `file`, and the `time`. What its record names is nobody's here."""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    format: int = FORMAT

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def reason(self) -> str:
        """Why it ended otherwise than completed: the first line of its error; nothing where it has none.

        The error's type comes before it where the line alone says little: a bare `assert`, a key.
        """
        if not self.error:
            return ""
        lines = str(self.error.get("message", "")).splitlines()
        line, kind = next((line.strip() for line in lines if line.strip()), ""), str(self.error.get("type", ""))
        return f"{kind}: {line}".removesuffix(": ") if not line or kind in TELLING else line


def now() -> str:
    """The present time as records hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_id(text: object) -> bool:
    """Whether that is an id as labrun gives them: eight hexadecimal digits."""
    return isinstance(text, str) and ID.fullmatch(text) is not None


def is_named_safely(record: Record) -> bool:
    """Whether a run's id and name are such as labrun gives: they become parts of paths."""
    return is_id(record.id) and checking.names_a_folder(record.name)


def is_scoring(task: str) -> bool:
    """Whether the model of a run with that task is another run's."""
    from labrun.plugins import TASKS

    found = TASKS.find(task)
    return found is not None and bool(found.scores)


def sweep_folder(run_dir: str | os.PathLike[str], record: Record) -> Path | None:
    """The folder of a run's sweep; None of a run that belongs to none.

    As the record says, if the run lies in it. Else (the workspace was moved, or the record is nobody's here) the folder
    above the run's own: no record leads to a folder of another place.
    """
    if record.sweep is None:
        return None
    run_dir = Path(os.path.realpath(run_dir))
    told = record.sweep.get("folder")
    if isinstance(told, str) and told and "\0" not in told:
        folder = Path(os.path.realpath(told))
        near = run_dir.parents[:HIGHEST]
        tops = [place for place, parent in enumerate(near) if parent.name in ("outputs", "multirun")]
        if folder in near[: tops[0] if tops else HIGHEST]:
            return folder
    return run_dir.parent


def seconds_between(start: str, end: str) -> float:
    """Seconds from one record time to another."""
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3)


def read(run_dir: str | os.PathLike[str]) -> Record:
    """Read a run's record.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    path = RunPaths(Path(run_dir)).record
    try:
        raw = context.content(path, LARGEST)
    except FileNotFoundError:
        raise RecordError(f"{path.parent} holds no run.json, so it is not a run's folder") from None
    except OSError as error:
        raise DamagedRecordError(path, str(error)) from error
    return parsed(raw, path, run_dir)


def parsed(raw: bytes, path: Path, annotated: str | os.PathLike[str] | None = None) -> Record:
    """A record, from what its file holds.

    Args:
        raw: the file's content.
        path: the file, for messages.
        annotated: the run whose annotations are applied to it; None: none are.

    Raises:
        RecordError: it is damaged.
    """
    try:
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        missing = sorted(REQUIRED - set(content))
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        if raw.count(b"{") + raw.count(b"[") > DEEPEST:  # else they cannot lie so deep
            _check_depth(content)
        content = content if annotated is None else context.annotated(annotated, content)
        # What is not a group of keys there says nothing; the others count.
        for name in ("data", "attempts"):
            if isinstance(content.get(name), list):
                content[name] = [one for one in content[name] if isinstance(one, dict)]
        record = Record(**{key: value for key, value in content.items() if key in KEYS})
        _check(record)
        is_old = record.format == 1
        is_tagged = exact.may_be_tagged(raw)
        if is_old:
            record.config = exact.escaped_before(record.config)
        elif is_tagged:
            record.config = exact.decoded(record.config)
        if is_tagged:
            record.hydra = exact.decoded(record.hydra)
        record.format = FORMAT  # it is written in the present one
        return record
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedRecordError(path, str(error)) from error


KEYS = frozenset(f.name for f in dataclasses.fields(Record))
LARGEST = 2**28
"""Bytes of a record."""
HIGHEST = 8
"""Folders above a run's own, among which its sweep's is."""
DEEPEST = 500
REQUIRED = {"id", "name", "task", "status", "created", "config"}
STATUSES = frozenset({QUEUED, RUNNING, PREEMPTED}) | FINISHED


def _check_depth(content: Any) -> None:
    """Whether groups of keys lie in each other no deeper than readers can follow.

    Raises:
        ValueError: they do.
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
    raise ValueError(f"its values lie more than {DEEPEST} levels deep")


def _check(record: Record) -> None:
    """Whether a record's values are of the kinds that readers rely on.

    Raises:
        ValueError: they are not.
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
        raise ValueError(f"status is {record.status!r}, and must be one of {', '.join(sorted(STATUSES))}")
    record.status = Status(record.status)
    for name in ("created", "started", "ended"):
        time_text = getattr(record, name)
        if time_text is not None and datetime.fromisoformat(time_text).tzinfo is None:
            raise ValueError(f"{name} is {time_text!r}, which has no time zone")
    if not all(isinstance(word, str) for word in (*record.overrides, *record.tags, *record.tags.values())):
        raise ValueError("overrides and tags hold something else than text")
    for name, value in record.metrics.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, int) and abs(value) > 10**300):
            raise ValueError(f"metric {name} is {value!s:.40}")


def write(run_dir: str | os.PathLike[str], record: Record, to_disk: bool | None = None) -> None:
    """Replace a run's record, whole.

    Args:
        run_dir: the run.
        record: the new one.
        to_disk: wait until the disk has it. By default only of one that has ended: it is what others rely on.

    Raises:
        RecordError: the folder cannot be written (full disk, read-only).
    """
    path = RunPaths(Path(run_dir)).record
    replace_text(path, text(record), to_disk=record.finished if to_disk is None else to_disk)


def force_to_disk(run_dir: str | os.PathLike[str]) -> None:
    """Wait until the disk has a run's record as it is: for one whose process did not wait itself.

    Raises:
        RecordError: the disk does not take it.
    """
    path = RunPaths(Path(run_dir)).record
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordError(cannot_write(path.parent, error)) from error


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str, allow_nan=False)
_LINES = json.JSONEncoder(ensure_ascii=False, separators=(",\n  ", ": "))


def text(record: Record) -> str:
    """A record as JSON, its keys, and the keys below them, a line each: json's own indentation is ten times as slow."""
    lines = []
    for entry in dataclasses.fields(record):
        value = getattr(record, entry.name)
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
    except (ValueError, TypeError):  # numbers that JSON has not, or keys
        return _ENCODER.encode(_strict(value))


def replace_text(path: Path, text: str, to_disk: bool = True) -> None:
    """Write a file under a name of its own, then put it in place in one step.

    Args:
        path: the file.
        text: its new content.
        to_disk: wait until the disk has it: it then survives a power failure.

    Raises:
        RecordError: the folder cannot be written.
    """
    try:
        with atomic_write(path, to_disk) as file:
            # Halves of characters, which no encoding has, as JSON has them.
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise RecordError(cannot_write(path.parent, error)) from error


LONGEST_NAME, LONGEST_PATH = 255, 3800
"""Bytes that file systems take for one name, and for a run's folder with all that is to lie below it."""


def check_place(run_dir: Path) -> None:
    """Whether a run's folder has a path that file systems take.

    Raises:
        RecordError: a name in it, or all of it, is too long.
    """
    for part in run_dir.parts:
        if (size := len(os.fsencode(part))) > LONGEST_NAME:
            raise RecordError(
                f"the run's folder would have a name of {size} bytes, and file systems take {LONGEST_NAME}: "
                f"{part[:80]!r}... Leave keys out of it (hydra.job.config.override_dirname.exclude_keys=[KEY,...]), or "
                "say hydra.sweep.subdir='${hydra.job.num}' or another name=..."
            )
    if (size := len(os.fsencode(str(run_dir)))) > LONGEST_PATH:
        raise RecordError(f"the run's folder would have a path of {size} bytes, and file systems take 4096: {run_dir}")


def cannot_write(folder: Path, error: OSError) -> str:
    """The one message for a full disk or a read-only folder."""
    advice = "Free some space there, or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
    return (
        f"cannot write to {folder}: {error.strerror or error}. {advice} another place for the runs with the variable "
        "LABRUN_ROOT=/another/folder"
    )


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinities; they are kept as text."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


def claim(run_dir: str | os.PathLike[str]) -> int:
    """Claim the run's next attempt by exclusive creation: who does not get it does not run.

    Returns:
        The attempt's number, from 1 on.

    Raises:
        RecordError: somebody else claimed it in the same moment, or the folder cannot be written.
    """
    folder = RunPaths(Path(run_dir)).attempts
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), default=0)
        with open(folder / str(number), "x", encoding="utf-8") as file:
            json.dump(process_identity(), file)
    except FileExistsError:
        raise RecordError(f"another process has just begun attempt {number} of the run in {run_dir}") from None
    except OSError as error:
        raise RecordError(cannot_write(folder, error)) from error
    return number


def newest_attempt(run_dir: str | os.PathLike[str]) -> int:
    """The number of the newest attempt, or 0."""
    folder = RunPaths(Path(run_dir)).attempts
    try:
        return max((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), default=0)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def note_claimed(run_dir: str | os.PathLike[str], record: Record, before: int | None = None) -> None:
    """Add to a record the attempts that were claimed, and killed before they could write themselves into it.

    Args:
        run_dir: the run.
        record: its record; not written here.
        before: only attempts older than this one; None: all.
    """
    record.attempts = [one for one in record.attempts if type(one.get("number")) is int]
    told = {attempt["number"] for attempt in record.attempts}
    for number in range(1, (before or newest_attempt(run_dir) + 1)):
        if number not in told:
            record.attempts.append({"number": number, "status": LOST, "reason": "ended as it began"})
    record.attempts.sort(key=lambda attempt: int(attempt["number"]))


@functools.cache
def boot_id() -> str:
    """What tells one start of a machine from the next (Linux: the kernel's own id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return f"boot-{psutil.boot_time():.0f}"


def process_start(pid: int) -> float | None:
    """When a process began, or None if there is no such process, or only its zombie.

    On Linux in seconds since the machine's start, which no step of its clock changes; elsewhere since the epoch.
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


def process_identity() -> dict[str, Any]:
    """What identifies this process among all that a host has had: pid, boot and start time."""
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "boot_id": boot_id(), "start_time": process_start(pid)}


def process_lives(process: object) -> bool | None:
    """Whether a recorded process still lives; None if that is unknown on this host."""
    if not isinstance(process, dict) or process.get("host") != socket.gethostname():
        return None
    if process.get("boot_id") != boot_id():
        return False
    try:
        pid, recorded = int(process["pid"]), float(process.get("start_time") or 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    # Records of before labrun 0.2 have seconds since the epoch everywhere.
    start = (process_start if recorded < 1e8 else _process_start_by_clock)(pid)
    return start is not None and abs(start - recorded) < 0.05


def shown_status(
    run_dir: str | os.PathLike[str],
    record: Record,
    job_is_over: Callable[[Mapping[str, Any]], bool | None] | None = None,
) -> Status:
    """The status as a reader shows it: as written, unless the run's process or its heartbeat is gone.

    A run in a cluster's job is lost only once the cluster says that the job is over: until then it may requeue it.

    Args:
        run_dir: the run.
        record: its record.
        job_is_over: whether a cluster's job (`Record.job`) is over; None: unknown. Without it, no cluster is
            asked.
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
    """Seconds since the last heartbeat; None before the first."""
    return file_age_s(RunPaths(Path(run_dir)).heartbeat)


def file_age_s(path: Path) -> float | None:
    """Seconds since a file was written, by its file system's own clock where it can be asked; None without the file."""
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


def describe_host() -> dict[str, Any]:
    """The machine: name, system, cores, memory, GPUs, interpreter."""
    import psutil

    return {
        "name": socket.gethostname(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpu_names(),
        "python": platform.python_version(),
        "executable": sys.executable,
    }


def _gpu_names() -> list[str]:
    import shutil
    import subprocess

    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def installed_packages() -> dict[str, str]:
    """Every installed distribution and its version; of one that is there twice, what an import would find."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for one in distributions():
        # The two lines alone: parsing the whole of them as e-mail, as the library does, takes ten times as long.
        text = one.read_text("METADATA") or one.read_text("PKG-INFO") or ""
        fields = dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines() if _is_identity(line))
        if "Name" in fields and "Version" in fields:
            found.setdefault(fields["Name"].strip(), fields["Version"].strip())
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _is_identity(line: str) -> bool:
    return line.startswith(("Name: ", "Version: "))


def flat_config(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a config under its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
