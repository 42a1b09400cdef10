"""Logging from inside a run: standard library only, so that any interpreter can use it.

A metric is one JSON line, appended with one `write` to `metrics.jsonl`. Lines of processes that write at the same
time therefore never mix, and a kill leaves at most one torn line, the last. The run's supervisor appends lines too, of
what it measures (`log_system`): they are marked, and nobody reads them but who asks for them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, SupportsFloat

from labrun._io import append_line, write_line

RUN_DIR_VARIABLE = "LABRUN_RUN_DIR"
ATTEMPT_VARIABLE = "LABRUN_ATTEMPT"
METRICS_FILE = "metrics.jsonl"
INPUTS_FILE = "logs/azureml/inputs.log"
"""What a script has read beside what its config mounted: a line of JSON for each, as the record's `data` has them."""
ANNOTATIONS_FILE = "annotations.jsonl"
"""Tags, notes and properties given after the run was submitted, by anyone: `run.json` has one writer, this has many."""


class RunContext:
    """The run that this process works for."""

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
            value: anything that `float` takes; NaN and infinities are kept as text.
            step: where on the curve the value stands; by default one more than this metric's last.
            epoch: the pass over the data, from 1 on, where steps count something else; for whoever watches.

        Raises:
            TypeError, ValueError: the value is not a number, or the name is empty or not printable.
        """
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"a metric's name must be printable text, and {name!r} is not")
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
        """Whether this process has logged that metric."""
        return name in self._steps

    def close(self) -> None:
        """Give the file back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def log_system(run_dir: str | os.PathLike[str], attempt: int, step: int, values: dict[str, float]) -> None:
    """Append what a run's supervisor has measured of it, in one write: the run itself may write at the same time.

    Args:
        run_dir: the run.
        attempt: the number of its attempt.
        step: whole seconds since the run first began.
        values: finite ones, by their names.

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
"""Marks the lines that are not the run's own; a run may log a metric of any name."""


def is_system(line: Mapping[str, Any]) -> bool:
    """Whether a line of the metrics is the supervisor's."""
    return line.get(SYSTEM) is True


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
    """The run that this process works for, or None outside a run."""
    global _current
    run_dir = os.environ.get(RUN_DIR_VARIABLE)
    if not run_dir:
        return None
    attempt = int(os.environ.get(ATTEMPT_VARIABLE, "1"))
    if _current is None or str(_current.run_dir) != run_dir or _current.attempt != attempt:
        _current = RunContext(run_dir, attempt)
    return _current


_entered: list[RunContext] = []
"""Runs that this program has begun itself, the innermost last; unlike `current`, they are none of its children's."""


def enter(run: RunContext) -> None:
    """From now on `log` logs to a run that this program has begun."""
    _entered.append(run)


def leave(run: RunContext) -> None:
    """No longer; see `enter`."""
    if run in _entered:
        _entered.remove(run)


def log(name: str, value: SupportsFloat, step: int | None = None, epoch: int | None = None) -> None:
    """Log one value of a metric to the run that this process works for; outside a run, print it.

    Args and errors: as `RunContext.log`.
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
    """Add what the user, or the run itself, says of a run: one line, which every reader of its record applies.

    Args:
        run_dir: the run.
        tags: set these.
        untag: take these away.
        note: the notes from now on.
        properties: set these; a property once set is never changed (Azure ML's rule).

    Raises:
        OSError: the folder cannot be written.
    """
    said = {"tags": tags, "untag": untag, "note": note, "properties": properties}
    line = {"time": time.time(), **{key: value for key, value in said.items() if value is not None}}
    append_line(Path(run_dir) / ANNOTATIONS_FILE, json.dumps(line, ensure_ascii=False))


def annotated(run_dir: str | os.PathLike[str], content: dict[str, Any]) -> dict[str, Any]:
    """A record's content with every annotation applied, in their order; a torn line is left out."""
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
    """A file, open for reading; None for what is there and is not a file: nobody may ever write to a pipe.

    Raises:
        OSError: there is nothing of that name, or it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return os.fdopen(fd, "rb")


def content(path: str | os.PathLike[str], largest: int = 2**30) -> bytes:
    """What a file holds, of one that others may have made: a plain file, and no larger than its kind ever is.

    Raises:
        OSError: there is none, it cannot be read, it is not a plain file, or it is larger.
    """
    file = opened(path)
    if file is None:
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    with file:
        if os.fstat(file.fileno()).st_size > largest:
            raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", os.fspath(path))
        return file.read()


def metric(text: bytes) -> dict[str, Any] | None:
    """One line of the metrics file, its value as a float; None where it holds no metric, torn or not.

    `is_whole` says that the value was logged as an int.
    """
    try:
        line = json.loads(text)
        step = int(line["step"])
        if not isinstance(line["name"], str) or step != line["step"]:
            return None
        numbers = {"value": float(line["value"]), "time": float(line["time"]), "attempt": int(line.get("attempt", 1))}
        is_whole = {"is_whole": True} if type(line["value"]) is int else {}
        return {**line, "step": step, **numbers, **is_whole}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def read_metrics(run_dir: str | os.PathLike[str], system: bool = False) -> list[dict[str, Any]]:
    """All lines of a run's metrics that hold one, oldest first, values as floats.

    A line of an older attempt counts only up to the step where the newer attempt resumed: what the older one wrote
    beyond that was done again.

    Args:
        run_dir: the run.
        system: those too that its supervisor wrote (`log_system`).
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
    """How many whole lines of a run's metrics hold no metric; blank ones do not count."""
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
    """The last value of each metric that a run logged itself."""
    return {line["name"]: line["value"] for line in read_metrics(run_dir)}


def system_values(run_dir: str | os.PathLike[str]) -> dict[str, list[float]]:
    """What a run's supervisor measured, by name, oldest first."""
    mark = b'"' + SYSTEM.encode() + b'"'  # a run may have logged millions of lines, which need not be parsed
    found: dict[str, list[float]] = {}
    for line in [metric(text) for text in _texts(run_dir) if mark in text]:
        if line is None or not is_system(line):
            continue
        found.setdefault(line["name"], []).append(line["value"])
    return found


def is_system_name(name: str) -> bool:
    """Whether a name is one of those that supervisors measure."""
    return name.startswith(f"{SYSTEM}/")


def system_extreme(name: str, values: list[float]) -> float:
    """Of what was measured the value that tells most: the largest, of what is left the smallest."""
    return min(values) if name.endswith("_free_gb") else max(values)


def _without_overtaken(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
