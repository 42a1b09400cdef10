"""Progress display of active runs: a live table on a terminal, plain lines otherwise."""

from __future__ import annotations

import codecs
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrun import terminal
from labrun.control import objective
from labrun.errors import RecordError
from labrun.report import formatting
from labrun.runs import context
from labrun.runs.record import (
    COMPLETED,
    FAILED,
    PREEMPTED,
    QUEUED,
    RUNNING,
    Record,
    RunPaths,
    read_record,
    seconds_between,
    shown_status,
    timestamp,
)
from labrun.terminal import plain

log = logging.getLogger(__name__)

REFRESH_S = 1.0
MAX_LISTED = 20
"""Maximum number of active runs in the live table."""
TAIL_BYTES = 4096


@dataclass
class Tally:
    """Numbers of a sweep's runs by status."""

    total: int
    queued: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    other: int = 0

    def line(self) -> str:
        """Format the numbers in one line."""
        parts = [f"{self.completed} completed"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.other} canceled or stopped"] if self.other else []
        return ", ".join([*parts, f"{self.running} running", f"{self.queued} queued"]) + f", of {self.total}"


class Lines:
    """Prints a line for each run that ends."""

    def __init__(self, folder: Path, total: int | None = None) -> None:
        self._folder = folder
        self._total = total
        self._done = 0

    def update(self, running: bool = True) -> None:
        """Do nothing between the lines."""

    def ended(self, run_dir: Path, record: Record) -> None:
        """Print the run's line."""
        self._done += 1
        of = "" if self._total is None else f"/{self._total}"
        log.info("%d%s  %s", self._done, of, ending(record))


def ending(record: Record) -> str:
    """Describe how a run ended, in one line."""
    by = objective.of(record.typed)[0].metric
    value = record.metrics.get(by)
    if isinstance(value, float) and record.status != FAILED:
        trouble = formatting.trouble(record.training)
        shown = f"{by} {formatting.number(value)}" + (f"  ({trouble})" if trouble else "")
    else:
        shown = record.reason
    took = "" if record.duration_s is None else f"{record.duration_s} s"
    return plain("  ".join(filter(None, [record.status, took, shown, f"[{' '.join(record.overrides)}]"])))


class Follow:
    """Shows the output of one run that another process executes, as it is written.

    Args:
        run_dir: the run.
        is_raw: pass the output through unchanged, including terminal control sequences.
    """

    def __init__(self, run_dir: Path, is_raw: bool = False) -> None:
        self._is_raw = is_raw
        self._log, self._offset = run_dir / "driver.log", 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def update(self, running: bool = True) -> None:
        """Show new output."""
        try:
            file = context.opened(self._log)
        except OSError:
            return
        if file is None:
            return
        with file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        text, view = self._decoder.decode(data), terminal.raw(sys.stdout) if self._is_raw else sys.stdout
        view.write(text if self._is_raw else terminal.log(text))
        view.flush()

    def ended(self, run_dir: Path, record: Record) -> None:
        """Show the remaining output."""
        self.update()


class Live:
    """A table on a terminal that follows the records of a sweep.

    Args:
        folder: the sweep.
        run_dirs: its runs.
    """

    def __init__(self, folder: Path, run_dirs: list[Path]) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._folder, self._run_dirs = folder, run_dirs
        self._records: dict[Path, tuple[int, Record]] = {}
        self._began, self._next = time.monotonic(), 0.0
        self._done_before: int | None = None
        # Log messages are printed above the table.
        self._live = RichLive(
            console=Console(file=terminal.raw(sys.stdout)),
            auto_refresh=False,
            redirect_stdout=True,
            redirect_stderr=True,
        )
        self._live.start()

    def update(self, running: bool = True) -> None:
        """Read changed records and draw the table; `running=False` draws it for the last time."""
        if running and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REFRESH_S
        self._live.update(self.table(), refresh=True)
        if not running:
            self._live.stop()

    def ended(self, run_dir: Path, record: Record) -> None:
        """Report a failure at once; the table shows other ends."""
        if record.status == FAILED:
            log.info("%s", ending(record))

    def table(self) -> Any:
        """Return the current state as a rich renderable."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        found = [(run_dir, self._read(run_dir)) for run_dir in self._run_dirs]
        pairs = [(run_dir, record) for run_dir, record in found if record is not None]
        present = [record for _, record in pairs]
        tally = count(present)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("run", "status", "for", "epoch", "last metric", "overrides"):
            table.add_column(column, no_wrap=column != "overrides", overflow="ellipsis")
        running = [pair for pair in pairs if pair[1].status == RUNNING]
        differing, _ = formatting.differing([record.overrides for record in present])
        overrides = {run_dir: " ".join(own) for (run_dir, _), own in zip(pairs, differing, strict=True)}
        for run_dir, record in running[:MAX_LISTED]:
            epoch, metric = progress(run_dir)
            seconds = seconds_between(record.started or timestamp(), timestamp())
            status = shown_status(run_dir, record)
            cells = (run_dir.name, status, f"{seconds:.0f} s", epoch, metric, overrides[run_dir])
            table.add_row(*(Text(plain(cell)) for cell in cells))
        if len(running) > MAX_LISTED:
            table.add_row("...", f"{len(running) - MAX_LISTED} more")
        lines: list[Any] = [
            Text(f"{plain(self._folder.parent.name)}  {tally.line()}{self._left(tally)}", style="bold"),
            table,
        ]
        wanted = objective.common(present) if present else None
        best = max(present, key=lambda record: objective.rank(record, wanted), default=None)
        if best is not None and wanted is not None and objective.rank(best, wanted) > float("-inf"):
            by = wanted.metric
            number, value = best.number, formatting.number(float(best.metrics[by]))
            lines.append(Text(plain(f"best so far: run {number}, {by} {value}  {' '.join(best.overrides)}")))
        return Group(*lines)

    def _read(self, run_dir: Path) -> Record | None:
        """Return a run's record; None if the run was removed meanwhile."""
        path = RunPaths(run_dir).record
        try:
            stamp = path.stat().st_mtime_ns
            known = self._records.get(run_dir)
            if known is None or known[0] != stamp:
                known = self._records[run_dir] = (stamp, read_record(run_dir))
            return known[1]
        except (OSError, RecordError):
            return None

    def _left(self, tally: Tally) -> str:
        done = tally.total - tally.queued - tally.running
        if self._done_before is None:
            self._done_before = done
        here = done - self._done_before
        if here < 1 or done == tally.total:
            return ""
        seconds = (time.monotonic() - self._began) / here * (tally.total - done)
        return f"; about {formatting.duration(seconds)} left"


def count(present: list[Record]) -> Tally:
    """Count a sweep's runs by status."""
    tally = Tally(len(present))
    for record in present:
        kinds = {QUEUED: "queued", PREEMPTED: "queued", RUNNING: "running"}
        kinds |= {COMPLETED: "completed", FAILED: "failed"}
        kind = kinds.get(record.status, "other")
        setattr(tally, kind, getattr(tally, kind) + 1)
    return tally


def progress(run_dir: Path) -> tuple[str, str]:
    """Return an active run's epoch and last metric, from the end of its metrics file."""
    try:
        file = context.opened(run_dir / context.METRICS_FILE)
    except OSError:
        return "", ""
    if file is None:
        return "", ""
    with file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        lines = file.read().splitlines()
    epoch, metric = "", ""
    for raw in lines:
        line = context.metric(raw)
        if line is None or context.is_system(line):
            continue
        metric = f"{line['name']} {formatting.number(line['value'])}"
        if "epoch" in line:
            epoch = str(line["epoch"])
        elif line["name"] in ("train_loss", "val_loss"):
            epoch = str(line["step"])
    return epoch, metric


@contextmanager
def shown(folder: Path, run_dirs: list[Path]) -> Iterator[Lines | Live | Follow]:
    """Provide a suitable view: the output of a single run; for a sweep a live table on a terminal, otherwise lines."""
    view: Lines | Live | Follow
    if run_dirs == [folder]:
        view = Follow(folder)
    elif sys.stdout.isatty():
        view = Live(folder, run_dirs)
    else:
        view = Lines(folder, len(run_dirs))
    try:
        yield view
    finally:
        view.update(running=False)
