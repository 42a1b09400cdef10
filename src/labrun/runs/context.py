"""Logging from inside a run. Uses only the standard library, so that any interpreter can import it.

Each metric value is one JSON line, appended to `metrics.jsonl` with a single `write`. Lines of concurrent processes
therefore never mix, and a kill leaves at most one torn line, the last. The run's supervisor also appends its resource
measurements (`log_system`); these lines are marked, and readers skip them by default.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsFloat

from labrun._io import append_line, write_line

if TYPE_CHECKING:  # typing has what it uses from Python 3.8
    from labrun.runs.metric_line import MetricLine

RUN_DIR_VARIABLE = "LABRUN_RUN_DIR"
ATTEMPT_VARIABLE = "LABRUN_ATTEMPT"
LAUNCH = ".launch"
"""Subfolder of a sweep or a run with the state of its launch (`labrun.runs.sweep_state`)."""
HYDRA = ".hydra"
"""Subfolder of a run with the files that Hydra saves of it, unless `hydra.output_subdir` names another."""
STATE = Path("outputs", ".labrun")
"""The folder of labrun's internal state in a workspace (`labrun.runs.workspace.Workspace`)."""
METRICS_FILE = "metrics.jsonl"
INPUTS_FILE = "logs/azureml/inputs.log"
"""Data that a script read in addition to the mounts of its config: one JSON line each, in the form of a record's
`data`."""
ANNOTATIONS_FILE = "annotations.jsonl"
"""Tags, notes and properties added after submission. Unlike `run.json`, this file may have many writers."""


class RunContext:
    """The run that this process belongs to."""

    def __init__(self, run_dir: str | os.PathLike[str], attempt: int = 1) -> None:
        self.run_dir = Path(run_dir)
        self.attempt = attempt
        self.summary: dict[str, float] = {}
        """The last value of each metric that this process logged."""
        self._steps: dict[str, int] = {}
        self._fd: int | None = None

    def log(self, name: str, value: SupportsFloat, step: int | None = None, epoch: int | None = None) -> None:
        """Append one value of a metric.

        Args:
            name: the metric's name; any text without control characters.
            value: anything that `float` accepts; NaN and infinities are stored as text.
            step: the value's position on the curve; by default the metric's previous step plus one.
            epoch: the pass over the data, starting at 1, for display where steps count something else.

        Raises:
            TypeError, ValueError: the value is not a number, or the name is empty or not printable.
        """
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"a metric's name must be printable text, but {name!r} is not")
        number = float(value)
        if step is None:
            step = self._steps.get(name, -1) + 1
        self._steps[name] = step
        self.summary[name] = number
        line = {
            "time": time.time(),
            "step": int(step),
            "name": name,
            "value": value if type(value) is int else number if math.isfinite(number) else _spelled(number),
            "attempt": self.attempt,
        }
        if epoch is not None:
            line["epoch"] = int(epoch)
        if self._fd is None:
            self._fd = _opened_to_append(self.run_dir)
        write_line(self._fd, _as_json(line))

    def has_logged(self, name: str) -> bool:
        """Return whether this process has logged a metric."""
        return name in self._steps

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def log_system(run_dir: str | os.PathLike[str], attempt: int, step: int, values: dict[str, float]) -> None:
    """Append a supervisor's measurements of a run in a single write, since the run may write at the same time.

    Args:
        run_dir: the run's directory.
        attempt: the number of its attempt.
        step: whole seconds since the run first started.
        values: finite values by name.

    Raises:
        OSError: the file cannot be written.
    """
    head = {"time": time.time(), "step": step}
    lines = [{**head, "name": name, "value": one, "attempt": attempt, SYSTEM: True} for name, one in values.items()]
    fd = _opened_to_append(run_dir)
    try:
        os.write(fd, "".join(f"{_as_json(line)}\n" for line in lines).encode())
    finally:
        os.close(fd)


SYSTEM = "system"
"""Key that marks a supervisor's lines. The metric's name cannot, since a run may log a metric of any name."""


def is_system(line: MetricLine) -> bool:
    """Return whether the supervisor wrote a line of the metrics."""
    return line.get("system") is True


def _opened_to_append(run_dir: str | os.PathLike[str]) -> int:
    return os.open(Path(run_dir) / METRICS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _as_json(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False, ensure_ascii=False)


def _spelled(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


_current: RunContext | None = None


def current() -> RunContext | None:
    """Return the run that this process belongs to, or None outside a run."""
    global _current
    run_dir = os.environ.get(RUN_DIR_VARIABLE)
    if not run_dir:
        return None
    attempt = int(os.environ.get(ATTEMPT_VARIABLE, "1"))
    if _current is None or str(_current.run_dir) != run_dir or _current.attempt != attempt:
        _current = RunContext(run_dir, attempt)
    return _current


_entered: list[RunContext] = []
"""Runs that this program started itself, the innermost last. Unlike `current`, child processes do not inherit them."""


def enter(run: RunContext) -> None:
    """Make `log` write to a run that this program started."""
    _entered.append(run)


def leave(run: RunContext) -> None:
    """Undo `enter`."""
    if run in _entered:
        _entered.remove(run)


def log(name: str, value: SupportsFloat, step: int | None = None, epoch: int | None = None) -> None:
    """Log one value of a metric to the current run; outside a run, print it.

    Args:
        name: the metric's name; any text without control characters.
        value: anything that `float` accepts, also NaN and infinities.
        step: the value's position on the curve; None: the metric's previous step plus one.
        epoch: the pass over the data, starting at 1, for display where steps count something else.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is text that is not a number, or the name is empty or not printable.
    """
    run = _entered[-1] if _entered else current()
    if run is None:
        at = "" if step is None else f" (step {step})"
        sys.stdout.write(f"{name}: {float(value):g}{at}\n")
    else:
        run.log(name, value, step, epoch)


def annotate(
    run_dir: str | os.PathLike[str],
    tags: dict[str, str] | None = None,
    untag: list[str] | None = None,
    note: str | None = None,
    properties: dict[str, str] | None = None,
) -> None:
    """Annotate a run: append one line, which every reader of its record applies.

    Args:
        run_dir: the run's directory.
        tags: tags to set.
        untag: tags to remove.
        note: replaces the run's notes.
        properties: properties to set; one that is already set never changes (Azure ML's rule).

    Raises:
        OSError: the folder is not writable.
    """
    said = {"tags": tags, "untag": untag, "note": note, "properties": properties}
    line = {"time": time.time(), **{key: value for key, value in said.items() if value is not None}}
    append_line(Path(run_dir) / ANNOTATIONS_FILE, json.dumps(line, ensure_ascii=False))


def annotated(run_dir: str | os.PathLike[str], content: dict[str, Any]) -> dict[str, Any]:
    """Return a record's content with all annotations applied in order; torn lines are skipped."""
    try:
        file = opened(os.path.join(run_dir, ANNOTATIONS_FILE))
        if file is None:
            return content
        with file:
            raw = file.read()
    except OSError:
        return content
    tags, properties = dict(content.get("tags") or {}), dict(content.get("properties") or {})
    for text in raw.split(b"\n"):
        try:
            line = json.loads(text)
            tags.update(line.get("tags") or {})
            for name in line.get("untag") or []:
                tags.pop(name, None)
            properties = {**(line.get("properties") or {}), **properties}
            if "note" in line:
                content = {**content, "notes": line["note"]}
        except (ValueError, AttributeError, TypeError, RecursionError):
            continue
    return {**content, "tags": tags, "properties": properties}


def opened(path: str | os.PathLike[str]) -> BinaryIO | None:
    """Open a file for reading. Return None if it is not a regular file: reading a pipe could block forever.

    Raises:
        OSError: the path does not exist or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return os.fdopen(fd, "rb")


def content(path: str | os.PathLike[str], largest: int = 2**30) -> bytes:
    """Read a file that other users may have created, if it is a regular file of at most `largest` bytes.

    Raises:
        OSError: the file does not exist, cannot be read, is not a regular file, or is larger.
    """
    file = opened(path)
    if file is None:
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    with file:
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", os.fspath(path))
        return file.read()


def metric(text: bytes) -> MetricLine | None:
    """Parse a line of the metrics file, with its value as a float; None if the line is torn or is not a metric."""
    try:
        line = json.loads(text)
        step, value = int(line["step"]), line["value"]
        if not isinstance(line["name"], str) or step != line["step"]:
            return None
        line.update(step=step, value=float(value), time=float(line["time"]), attempt=int(line.get("attempt", 1)))
        if type(value) is int:
            line["is_whole"] = True
        parsed: MetricLine = line
        return parsed
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_metrics(run_dir: str | os.PathLike[str], system: bool = False) -> list[MetricLine]:
    """Return all valid lines of a run's metrics, oldest first, with values as floats.

    Lines of an older attempt count only up to the step at which a newer one resumed, since that one repeated the rest.

    Args:
        run_dir: the run's directory.
        system: include the lines that its supervisor wrote (`log_system`).
    """
    found = [line for line in map(metric, _texts(run_dir)) if line is not None]
    return _without_overtaken([line for line in found if system or not is_system(line)])


def _texts(run_dir: str | os.PathLike[str]) -> list[bytes]:
    try:
        file = opened(Path(run_dir) / METRICS_FILE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # there is none
            return []
        raise
    if file is None:
        return []
    with file:
        return file.read().split(b"\n")


def bad_lines(run_dir: str | os.PathLike[str]) -> int:
    """Count the complete lines of a run's metrics that are not valid; blank lines do not count."""
    try:
        file = opened(Path(run_dir) / METRICS_FILE)
    except OSError:
        return 0
    if file is None:
        return 0
    with file:
        *lines, _ = file.read().split(b"\n")
    return sum(bool(text.strip()) and metric(text) is None for text in lines)


def last_values(run_dir: str | os.PathLike[str]) -> dict[str, float]:
    """Return the last value of each metric that a run logged itself."""
    return {line["name"]: line["value"] for line in read_metrics(run_dir)}


def system_values(run_dir: str | os.PathLike[str]) -> dict[str, list[float]]:
    """Return the measurements of a run's supervisor by name, oldest first."""
    mark = b'"' + SYSTEM.encode() + b'"'  # avoids parsing the run's own lines, of which there may be millions
    found: dict[str, list[float]] = {}
    for line in [metric(text) for text in _texts(run_dir) if mark in text]:
        if line is None or not is_system(line):
            continue
        found.setdefault(line["name"], []).append(line["value"])
    return found


def is_system_name(name: str) -> bool:
    """Return whether a metric's name is that of a supervisor's measurement."""
    return name.startswith(f"{SYSTEM}/")


def system_extreme(name: str, values: list[float]) -> float:
    """Return the extreme value of a measurement: the smallest of free resources, else the largest."""
    return min(values) if name.endswith("_free_gb") else max(values)


def _without_overtaken(lines: list[MetricLine]) -> list[MetricLine]:
    if len({line["attempt"] for line in lines}) <= 1:
        return lines
    first_step: dict[tuple[str, int], int] = {}
    for line in lines:
        key = (line["name"], line["attempt"])
        first_step[key] = min(first_step.get(key, line["step"]), line["step"])
    kept = []
    for line in lines:
        newer = [s for (name, attempt), s in first_step.items() if name == line["name"] and attempt > line["attempt"]]
        if not newer or line["step"] < min(newer):
            kept.append(line)
    return kept
