"""Actions that inspect the output of runs: `logs`, `metrics`, `files`, `download`."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import fnmatch
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labrun import messages, terminal
from labrun.backends import registry
from labrun.cli.runs import filters
from labrun.control import lease, monitor
from labrun.control.query import StatusResolver
from labrun.errors import RecordError
from labrun.messages import suggest
from labrun.remote import links, mirror
from labrun.report import figures, formatting
from labrun.runs import context, files, store
from labrun.runs.metric_line import MetricLine
from labrun.runs.record import LOST, Record, RunPaths, is_named_safely, read_record
from labrun.runs.sweep_state import SweepState

POLL_S = 0.5


def logs(options: argparse.Namespace, is_raw: bool = True) -> int:
    """Print the logs of runs, unchanged; with --follow until each run has ended."""
    shown = StatusResolver()
    chosen = filters.select(options, shown=shown)
    for run_dir, record in chosen:
        if len(chosen) > 1:
            print(f"== {record.name}  {record.id}")
        _log(run_dir, options.follow, shown, is_raw)
    return 0


def _log(run_dir: Path, follow: bool, shown: StatusResolver, is_raw: bool) -> None:
    view = monitor.Follow(run_dir, is_raw)
    if not follow and not RunPaths(run_dir).log.exists():
        raise RecordError(f"run {read_record(run_dir).id} has printed nothing yet: there is no {RunPaths(run_dir).log}")
    while follow:
        mirror.refresh(store.workspace())
        record = read_record(run_dir)
        view.update()
        if record.finished or shown(run_dir, record) == LOST or _is_left_alone(run_dir, record):
            break
        time.sleep(POLL_S)
    view.update()


def _is_left_alone(run_dir: Path, record: Record) -> bool:
    """Whether a remote run has lost its controller, so that it may never continue. If so, print a message."""
    folder = links.folder_of(run_dir, record)
    link = None if folder is None else links.read(folder)
    if folder is None or link is None or link.state != links.STARTED or link.living:
        return False
    remote_compute = dataclasses.replace(record.typed.compute, host=None)
    if lease.living(SweepState(folder)) is not None or registry.chosen(remote_compute, sweep=True).outlives_controller:
        return False
    sys.stderr.write(
        f"lab: the controller of run {record.id} on {link.remote} has ended before the run: "
        f"'lab runs watch {folder}' continues it\n"
    )
    return True


def metrics(options: argparse.Namespace) -> int:
    """Print the metrics of runs: a line for each, all values, or curves."""
    chosen = filters.select(options)
    writer = csv.writer(terminal.raw(sys.stdout), lineterminator="\n") if options.csv else None
    if writer:
        writer.writerow(["run", "name", "step", "value", "time"])
    for run_dir, record in chosen:
        lines = _lines(run_dir, record, options.name)
        if bad := context.bad_lines(run_dir):
            sys.stderr.write(
                f"lab: left out: {messages.counted(bad, 'line')} of {run_dir / context.METRICS_FILE} "
                f"{'holds' if bad == 1 else 'hold'} no metric\n"
            )
        for line in lines if writer or options.json else []:
            if writer:
                row = [record.id, line["name"], line["step"], line["value"], line["time"]]
                writer.writerow(map(terminal.cell, row))
            else:
                print(json.dumps({"run": record.id, **line, "value": _jsonable(line["value"])}))
        if writer or options.json:
            continue
        print(f"{record.name}  {record.id}" + ("" if lines else ": no metrics"))
        if lines:
            print(
                "\n".join(
                    formatting.columns([("metric", "values", "last", "lowest", "highest", "at step"), *_last(lines)])
                )
            )
        if options.plot and lines:
            _plot(run_dir, record, lines, options.output)
    return 0


def _jsonable(value: float) -> Any:
    return value if value == value and abs(value) != float("inf") else str(value)


def _lines(run_dir: Path, record: Record, names: Sequence[str] | None) -> list[MetricLine]:
    lines = context.read_metrics(run_dir, system=bool(names))
    recorded = list(dict.fromkeys(line["name"] for line in lines))
    for name in names or []:
        if not fnmatch.filter(recorded, name):
            known = ", ".join(recorded) or "none"
            raise RecordError(f"run {record.id} has no metric {name!r}.{suggest(name, recorded)} Its metrics: {known}")
    return [line for line in lines if not names or any(fnmatch.fnmatchcase(line["name"], name) for name in names)]


def _last(lines: Sequence[MetricLine]) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys(line["name"] for line in lines):
        of_metric = [line for line in lines if line["name"] == name]
        values = [line["value"] for line in of_metric]
        number = formatting.number
        yield (
            name,
            str(len(of_metric)),
            number(values[-1]),
            number(min(values)),
            number(max(values)),
            str(of_metric[-1]["step"]),
        )


def _plot(run_dir: Path, record: Record, lines: Sequence[MetricLine], output: Path | None) -> None:
    drawn = figures.terminal_curves(lines)
    print(drawn or "no metric has more than one step, so there is no curve to draw")
    path = output or files.pictures(store.workspace()) / f"curves-{_own_name(record)}.png"
    if drawn and figures.learning_curves(lines, files.ready(path), f"{record.name} ({record.id})"):
        print(f"picture: {path}")


def list_files(options: argparse.Namespace) -> int:
    """List the files of runs with their sizes."""
    chosen = filters.select(options)
    for run_dir, record in chosen:
        sizes = files.of(run_dir)
        if options.json:
            for name, size in sizes.items():
                print(json.dumps({"run": record.id, "file": name, "bytes": size}))
            continue
        print(f"{record.name}  {record.id}  {run_dir}")
        rows = [(f"  {name}", messages.size_text(size)) for name, size in sizes.items()]
        print("\n".join(formatting.columns(rows)) if rows else "  no files")
    return 0


def download(options: argparse.Namespace) -> int:
    """Copy files of runs to a folder."""
    meant, patterns = filters.split_words(options)
    chosen = filters.select(meant)
    for run_dir, record in chosen:
        several = options.output is not None and len(chosen) > 1
        target = options.output if options.output and not several else (options.output or Path()) / _own_name(record)
        copied = files.copy(run_dir, record, patterns, target, options.force)
        print(f"{messages.counted(len(copied), 'file')} of run {record.id} in {target}")
    return 0


def _own_name(record: Record) -> str:
    """Return a file name for the output of a run, made of its name and id.

    Raises:
        RecordError: its name or id is unsafe as a file name, and so was not given by labrun.
    """
    if not is_named_safely(record):
        raise RecordError(
            f"the run's id is {record.id!r:.60} and its name {record.name!r:.60}, which labrun never assigns: "
            "choose where to write with -o, for this run alone"
        )
    return f"{record.name}-{record.id}"
