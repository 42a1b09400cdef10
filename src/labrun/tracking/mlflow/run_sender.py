"""One run in MLflow: its parameters, metrics, tags, files and status, each sent independently."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from labrun.runs import context
from labrun.runs.metric_line import MetricLine
from labrun.runs.record import Record, RunPaths, flat_config
from labrun.tracking.base import listed
from labrun.tracking.mlflow import names, sending

BATCH = 1000
PER_CALL = {"params": 100, "metrics": BATCH, "tags": 100}
"""Maximum number of items per call for each kind; together at most `BATCH`."""
CALLED = {"params": "the parameter", "metrics": "a value of", "tags": "the tag"}
LINE_BYTES = 2**20
"""Longer lines are not metrics."""
LEAST, MOST = -(2**63), 2**63 - 1
LEFT_OUT = "labrun.left_out"
KINDS = 50
"""Maximum number of distinct reasons for skipped items per run."""


@dataclass
class Sent:
    """What has already been sent of one run."""

    mlflow_id: str
    experiment: str = ""
    offset: int = 0
    """Offset in the metrics file up to which everything has been sent."""
    size: int = 0
    """Size of the metrics file when it was last read."""
    stamp: str = ""
    """Stamp of `run.json` and the annotations when they were last sent; see `stamp_of`."""
    params: bool = False
    ended: bool = False
    tags: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Replacement names whose originals have been sent as tags."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Items that MLflow refused, with their counts."""


class RunGoneError(Exception):
    """The run was deleted in MLflow."""


class RunSender:
    """Sends the parts of one run. Parameters, metrics and tags are batched, because calls are expensive.

    Args:
        client: MLflow's client.
        sent: what has already been sent; kept up to date.
        record: the run's record.
        run_dir: the run's folder.
        must_stop: returns whether an error means that MLflow is unusable.
        sent_some: called after each full batch of metrics.
    """

    def __init__(
        self,
        client: Any,
        sent: Sent,
        record: Record,
        run_dir: Path,
        must_stop: Callable[[Exception], bool],
        sent_some: Callable[[], None],
    ) -> None:
        self._client, self._sent, self._record, self._run_dir = client, sent, record, run_dir
        self._must_stop, self._sent_some = must_stop, sent_some
        self._waiting: dict[str, list[Any]] = {"params": [], "metrics": [], "tags": []}
        self._then = Sent(sent.mlflow_id, offset=sent.offset, params=sent.params, tags=sent.tags)
        """State of `sent` once everything queued has been sent."""
        self.failed: dict[str, int] = {}
        """Parts that could not be sent, and will be retried."""

    def part(self, what: str, send: Callable[[], None]) -> None:
        """Send or queue a part; note an error in it.

        Raises:
            RunGoneError: the run was deleted in MLflow.
        """
        try:
            send()
        except RunGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - the other parts are still sent
            self._check(error)
            self.failed[f"{what}: {sending.reason(error)}"] = 1

    def _check(self, error: Exception) -> None:
        if self._must_stop(error):
            raise error
        if not is_there(self._client, self._sent.mlflow_id, self._must_stop):
            raise RunGoneError(self._sent.mlflow_id) from error

    def _left_out(self, what: str) -> None:
        left_out = self._sent.left_out
        if what not in left_out and len(left_out) >= KINDS:
            what = "something else"
        left_out[what] = left_out.get(what, 0) + 1

    def flush(self) -> None:
        """Send everything queued; items that MLflow refuses are skipped and noted."""

        def send(items: Sequence[tuple[str, Any]]) -> None:
            parts: dict[str, list[Any]] = {}
            for kind, item in items:
                parts.setdefault(kind, []).append(item)
            self._client.log_batch(self._sent.mlflow_id, **parts)

        def refused(item: tuple[str, Any], error: Exception) -> None:
            self._left_out(f"{CALLED[item[0]]} {item[1].key!r}: {sending.reason(error)}")

        def is_no_refusal(error: Exception) -> bool:
            self._check(error)
            return False

        while any(self._waiting.values()):
            items: list[tuple[str, Any]] = []
            for kind, waiting in self._waiting.items():
                count = min(PER_CALL[kind], BATCH - len(items))
                items += [(kind, item) for item in waiting[:count]]
                del waiting[:count]
            sending.in_halves(send, items, refused, is_no_refusal)
        self._sent.offset, self._sent.params, self._sent.tags = self._then.offset, self._then.params, self._then.tags
        self._sent.names += self._then.names
        self._then.names = []

    def _add_originals(self, originals: Mapping[str, str]) -> None:
        """Queue a tag with the original of each replaced name."""
        known = {*self._sent.names, *self._then.names}
        new = {key: name for key, name in originals.items() if key != name and key not in known}
        self._add_tags({f"{names.ORIGINAL}{key}": name for key, name in new.items()})
        self._then.names += new

    def _add_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._waiting["tags"] += [RunTag(key, names.text(value)) for key, value in tags.items()]

    def add_params(self) -> None:
        """Queue the config, one parameter per value."""
        from mlflow.entities import Param

        if self._sent.params:
            return
        flat = dict(flat_config(self._record.config))
        originals = {names.allowed(key): key for key in flat}
        self._waiting["params"] += [
            Param(key, names.text(flat[name], names.PARAM_LENGTH)) for key, name in originals.items()
        ]
        self._add_originals(originals)
        self._then.params = True

    def add_tags(self) -> None:
        """Queue the user's tags and labrun's own tags; delete tags that were removed."""
        tags = dict(self._record.tags)
        originals = {names.of_tag(key): key for key in tags}
        shown = {key: tags[name] for key, name in originals.items()} | dict(self._own_tags())
        self._add_tags(shown)
        self._add_originals(originals)
        for gone in sorted(set(self._sent.tags) - set(shown)):
            with contextlib.suppress(Exception):  # it may have been deleted in MLflow, too
                self._client.delete_tag(self._sent.mlflow_id, gone)
        self._then.tags = sorted(shown)

    def _own_tags(self) -> Iterator[tuple[str, str]]:
        record = self._record
        if record.notes:
            yield "mlflow.note.content", record.notes
        if record.git is not None and record.git.commit:
            yield "mlflow.source.git.commit", str(record.git.commit)
        for entry in record.data:
            name = entry.name or entry.asset or entry.input or "data"
            yield names.allowed(f"labrun.data.{name}"), str(entry.digest or entry.version or entry.path or "")
        if record.error:
            yield "labrun.error", f"{record.error.type}: {record.error.message}"

    def add_metrics(self) -> None:
        """Queue new metrics, complete lines only; full batches are sent at once."""
        size = metrics_size(self._run_dir)
        start = 0 if size < self._sent.offset else self._sent.offset  # if it shrank, it is a new file
        counted: set[tuple[Any, ...]] | None = None
        with opened_metrics(self._run_dir) as file:
            file.seek(start)
            for lines, end in _batches(file):
                found = self._metrics(lines)
                if any(line["attempt"] > 1 for line in found):
                    counted = counted or {mark(line) for line in context.read_metrics(self._run_dir, system=True)}
                    found = [line for line in found if mark(line) in counted]
                self._add_metrics(found)
                self._then.offset = end
                if len(lines) == BATCH:
                    self.flush()
                    self._sent_some()
        self._sent.size = size

    def _metrics(self, lines: Iterable[bytes | None]) -> list[MetricLine]:
        """Parse lines into metrics that a database can store; note the others as skipped."""
        found = []
        for text in lines:
            line = None if text is None else context.metric(text)
            if line is None:
                if text is None or text.strip():
                    self._left_out(f"a line of {context.METRICS_FILE} that holds no metric")
            elif not (LEAST <= line["step"] <= MOST and 0 <= line["time"] <= MOST / 1000):
                self._left_out(f"a value of {line['name']!r:.60} whose step or time is out of MLflow's range")
            else:
                found.append(line)
        return found

    def _add_metrics(self, lines: Sequence[MetricLine]) -> None:
        from mlflow.entities import Metric

        originals = {name: names.allowed(name) for name in {line["name"] for line in lines}}
        self._waiting["metrics"] += [
            Metric(originals[line["name"]], line["value"], int(line["time"] * 1000), line["step"]) for line in lines
        ]
        self._add_originals({key: name for name, key in originals.items()})

    def send_files(self, link: Path | None) -> None:
        """Show the run's `outputs/`.

        Args:
            link: local path where MLflow looks for them, to be created as a link; None: upload them.
        """
        outputs = RunPaths(self._run_dir).outputs
        if link is None:
            self._upload(outputs)
        elif not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(outputs, link.parent), target_is_directory=True)

    def _upload(self, outputs: Path) -> None:
        for folder, _, files in os.walk(outputs):
            for name in sorted(files):
                path = Path(folder, name)
                below = path.parent.relative_to(outputs).as_posix()
                try:
                    if not stat.S_ISREG(path.stat().st_mode):
                        raise OSError("it is not a file")
                    if not path.resolve().is_relative_to(self._run_dir.resolve()):
                        raise OSError("it leads out of the run's folder")
                    self._client.log_artifact(self._sent.mlflow_id, str(path), None if below == "." else below)
                except Exception as error:  # noqa: BLE001 - the other files are sent
                    self._check(error)
                    self.failed[f"outputs/{path.relative_to(outputs)}: {sending.reason(error)}"] = 1

    def send_status(self, status: str, is_over: bool) -> None:
        """Send the run's status."""
        if is_over:
            end = milliseconds(self._record.ended)
            self._client.set_terminated(self._sent.mlflow_id, status, end_time=end)
        else:
            self._client.update_run(self._sent.mlflow_id, status=status)

    def tag_left_out(self) -> None:
        """Set a tag on the run's page that lists the skipped items."""
        self._client.set_tag(self._sent.mlflow_id, LEFT_OUT, names.text(listed(self._sent.left_out)))


def is_there(client: Any, mlflow_id: str, must_stop: Callable[[Exception], bool]) -> bool:
    """Return whether MLflow has a run that is not deleted."""
    try:
        return str(client.get_run(mlflow_id).info.lifecycle_stage) == "active"
    except Exception as error:
        if must_stop(error):
            raise
        return False


@contextlib.contextmanager
def opened_metrics(run_dir: Path) -> Iterator[BinaryIO]:
    """Open a run's metrics file, or an empty file if it has none."""
    try:
        file = context.opened(run_dir / context.METRICS_FILE)
    except FileNotFoundError:
        file = None
    with open(os.devnull, "rb") if file is None else file as found:
        yield found


def metrics_size(run_dir: Path) -> int:
    """Return the size of a run's metrics file, bytes."""
    try:
        return (run_dir / context.METRICS_FILE).stat().st_size
    except OSError:
        return 0


def whole_lines(file: BinaryIO) -> Iterator[tuple[bytes | None, int]]:
    """Yield each complete line with its end offset; None in place of a line that is too long."""
    end = file.tell()
    while part := file.readline(LINE_BYTES):
        line: bytes | None = part
        end += len(part)
        while not part.endswith(b"\n"):
            part, line = file.readline(LINE_BYTES), None
            if not part:
                return
            end += len(part)
        yield line, end


def _batches(file: BinaryIO) -> Iterator[tuple[list[bytes | None], int]]:
    lines: list[bytes | None] = []
    end = 0
    for line, end in whole_lines(file):
        lines.append(line)
        if len(lines) == BATCH:
            yield lines, end
            lines = []
    if lines:
        yield lines, end


def mark(line: MetricLine) -> tuple[Any, ...]:
    """Return a key that identifies a value within its run; excludes the value itself, since NaN never equals NaN."""
    return (line["name"], line["step"], line["time"], line["attempt"])


def milliseconds(time_text: str | None) -> int | None:
    """Convert a record's time to milliseconds since the epoch."""
    return None if time_text is None else int(datetime.fromisoformat(time_text).timestamp() * 1000)
