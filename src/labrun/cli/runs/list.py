"""The actions `ls` and `show`: the table of runs, and the details of one."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labrun import garbage, messages, terminal
from labrun.cli.runs import filters
from labrun.config import exact
from labrun.control import lease, query
from labrun.control.query import Pair, StatusResolver
from labrun.report import formatting
from labrun.runs import comparable, context, store, sweep_state
from labrun.runs.groups import Code, DataEntry, plain
from labrun.runs.record import LOST, QUEUED, Record, RunPaths, read_record, seconds_between, sweep_folder, timestamp
from labrun.runs.status import Status
from labrun.runs.sweep_state import SweepState
from labrun.tasks import threads
from labrun.tracking import trackers

USUAL = ("accuracy", "r2", "AUC_weighted", "val_accuracy", "val_loss", "test_loss", "loss", "score")
"""Metrics for the table, in order of preference, if none is given."""


def _content(record: Record) -> dict[str, Any]:
    """Return a record as a dictionary, with its config encoded as in `run.json`."""
    content = {entry.name: plain(getattr(record, entry.name)) for entry in dataclasses.fields(record)}
    return {**content, "config": exact.encoded(record.config)}


def ls(options: argparse.Namespace) -> int:
    """Print the table of runs."""
    with garbage.gc_disabled():
        return _list(options)


def _list(options: argparse.Namespace) -> int:
    root, shown = store.workspace(), StatusResolver()
    found = filters.listed(root).runs
    rows = query.filtered(found, filters.filters(options), shown) if found else []
    if options.json:
        for pair in rows:
            print(json.dumps(_summary(pair, shown), default=str))
    elif options.csv:
        _write_csv(rows, shown)
    elif not rows:
        print(f"no runs in {root}" if not found else "no runs match")
    else:
        metric = _metric(options, rows)
        print("\n".join(_table(rows, metric, shown)))
        if options.sort and metric and (why := comparable.mixture([record for _, record in rows], metric)) is not None:
            print(f"note: {why}", file=sys.stderr)
    return 0


def _metric(options: argparse.Namespace, rows: Sequence[Pair]) -> str | None:
    """Return the requested metric, else the first usual one, if all runs with metrics have it; None for neither."""
    sort = store.parse_metric(options.sort, [record for _, record in rows])[0] if options.sort else None
    requested = [options.metric, sort, *(one.key for one in options.where or [])]
    recorded = {name for _, record in rows for name in record.metrics}
    names = [name for name in requested if name and (name in recorded or context.is_system_name(name))]
    usual = [name for name in USUAL if any(name in record.metrics for _, record in rows)]
    having = [record.metrics for _, record in rows if record.metrics]
    if rows:
        filters.check_metric(options.metric, rows)
    if names:
        return str(names[0])
    if not having:
        return USUAL[0]
    return usual[0] if usual and all(usual[0] in metrics for metrics in having) else None


def _summary(pair: Pair, shown: StatusResolver) -> dict[str, Any]:
    run_dir, record = pair
    return {
        "id": record.id,
        "name": record.name,
        "status": shown.once(run_dir, record),
        "created": record.created,
        "started": record.started,
        "ended": record.ended,
        "duration_s": record.duration_s,
        "accuracy": record.metrics.get("accuracy"),
        "metrics": record.metrics,
        "tags": record.tags,
        "notes": record.notes,
        "parent": record.parent,
        "sweep": None if record.sweep is None else record.sweep.folder,
        "overrides": record.overrides,
        "folder": str(run_dir),
    }


def _write_csv(rows: Sequence[Pair], shown: StatusResolver) -> None:
    metrics = sorted({name for _, record in rows for name in record.metrics})
    fields = ["id", "name", "status", "created", "duration_s", "tags", "overrides", "folder"]
    writer = csv.writer(terminal.raw(sys.stdout), lineterminator="\n")
    writer.writerow(map(terminal.cell, [*fields[:5], *metrics, *fields[5:]]))
    for pair in rows:
        summary = _summary(pair, shown) | {
            "tags": formatting.tags(pair[1].tags),
            "overrides": " ".join(pair[1].overrides),
        }
        values = [pair[1].metrics.get(name, "") for name in metrics]
        row = [*(summary[f] for f in fields[:5]), *values, *(summary[f] for f in fields[5:])]
        writer.writerow(map(terminal.cell, row))


def _table(rows: Sequence[Pair], metric: str | None, shown: StatusResolver) -> Iterator[str]:
    shown_overrides, common = formatting.differing([record.overrides for _, record in rows])
    cells: list[tuple[str, ...]] = [("id", "experiment", "status", "age", "duration", metric or "metric", "overrides")]
    now = timestamp()
    for (run_dir, record), different in zip(rows, shown_overrides, strict=True):
        took = "" if record.duration_s is None else formatting.duration(record.duration_s)
        age = formatting.duration(max(0.0, seconds_between(record.created, now)))
        value = _value((run_dir, record), metric)
        overrides = " ".join(different) + (f"  [{formatting.tags(record.tags)}]" if record.tags else "")
        cells.append((record.id, record.name, shown.once(run_dir, record), age, took, value, overrides))
    lines = itertools.chain(formatting.columns(cells), [f"all of them: {' '.join(common)}"] if common else [])
    if not sys.stdout.isatty():
        return lines
    width = os.get_terminal_size().columns
    return (line if len(line) <= width else line[: width - 3] + "..." for line in lines)


def _value(pair: Pair, metric: str | None) -> str:
    record = pair[1]
    name = metric or next((name for name in USUAL if name in record.metrics), next(iter(record.metrics), None))
    value = None if name is None else query.metric_of(pair, name)
    if value is None:
        return ""
    text = formatting.number(value) if isinstance(value, int | float) else str(value)
    return text if metric is not None else f"{name} {text}"


def show(options: argparse.Namespace) -> int:
    """Print the details of the selected runs."""
    shown, code = StatusResolver(), 0
    for run_dir, _ in filters.select(options, shown=shown):
        record = read_record(run_dir)
        error = record.error
        if options.json:
            print(json.dumps(_content(record), indent=1, default=str))
        elif options.error and error is None:
            print(f"run {record.id} has no error: it is {shown(run_dir, record)}")
            code = 1
        elif options.error and error is not None:
            print(error.traceback or f"{error.type}: {error.message}")
        else:
            print(formatting.table(list(_rows(run_dir, record, shown(run_dir, record)))))
    return code


def _rows(run_dir: Path, record: Record, status: Status) -> Iterator[tuple[str, str]]:
    yield "run", f"{record.name}  {record.id}"
    yield "status", status
    yield "submitted", record.created
    yield "started", record.started or "not yet"
    yield "ended", f"{record.ended}, after {record.duration_s} s" if record.ended else "not yet"
    yield "host", "-" if record.process is None else str(record.process.host)
    if record.job:
        node = record.job.node
        yield "job", f"{record.job.cluster} {record.job.id}{f' on {node}' if node else ''}"
    if record.training is not None:
        yield "epoch", formatting.tested(record.training)
        if (trouble := formatting.trouble(record.training)) is not None:
            yield "training", trouble
    if record.threads is not None:
        yield "threads", threads.describe(record.threads)
    for attempt in record.attempts if len(record.attempts) > 1 else []:
        text = f"{attempt.number}: {attempt.status}, begun {attempt.started or '?'}"
        yield "attempt", text + (f" ({attempt.reason})" if attempt.reason else "")
    if record.sweep is not None:
        yield "sweep", f"run {record.sweep.number} of {record.sweep.folder}"
        if above := sweep_state.parent_of(run_dir.parent):
            yield "  below", f"run {above}"
    if record.parent:
        yield "parent", record.parent
    if record.imported is not None:
        yield "imported", f"from {record.imported.file}, {record.imported.time}"
    for data in record.data:
        yield "data", _data(data)
    for name, value in record.metrics.items():
        yield name, formatting.number(value) if isinstance(value, int | float) else str(value)
    yield from _measured(run_dir)
    if record.error is not None:
        yield "error", f"{record.error.type}: {record.reason}   (lab runs show {record.id} --error)"
    if record.tags:
        yield "tags", formatting.tags(record.tags)
    if record.notes:
        yield "notes", record.notes
    for key, value in record.properties.items():
        yield "property", f"{key}={value}"
    if (git := record.git) is not None:
        yield "git", f"{str(git.commit)[:12]} ({git.branch}){', with changes' if git.dirty else ''}"
    code = record.code or Code()
    yield "code", f"{str(code.digest or '-')[:12]}  {code.folder or ''}"
    if record.is_of_program:
        yield "program", record.command or "a notebook, or a script's own run"
    else:
        if status == LOST or (status == QUEUED and _is_left(run_dir, record)):
            yield "continue", _how_to_continue(run_dir, record)
        yield "repeat", f"{record.command}   (or, as it was: lab runs rerun {record.id})"
    yield "folder", str(run_dir)
    page = trackers.page(store.workspace(), run_dir, record.typed.tracker)
    if page is not None:
        yield "page", page


def _measured(run_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield a row for each system metric, with its last and its most extreme value."""
    with contextlib.suppress(OSError):  # the rest of the record can still be shown
        for name, values in context.system_values(run_dir).items():
            bound = "at least" if name.endswith("_free_gb") else "at most"
            extreme = context.system_extreme(name, values)
            yield name, f"{formatting.number(values[-1])}, {bound} {formatting.number(extreme)}"


def _is_left(run_dir: Path, record: Record) -> bool:
    """Whether a queued run has no controller, for example because it was killed."""
    state = SweepState(sweep_folder(run_dir, record) or run_dir)
    return state.plan.is_file() and lease.living(state) is None


def _how_to_continue(run_dir: Path, record: Record) -> str:
    """Return advice on how to continue a run whose process is gone."""
    if record.sweep is not None:
        folder = sweep_folder(run_dir, record)
        return f"the sweep's command with sweep.resume={folder}, or lab runs watch {folder}"
    if (RunPaths(run_dir).checkpoints / "last.ckpt").is_file():
        return formatting.resume_command(record)
    return f"it left no checkpoint: lab runs rerun {record.id} starts it over"


def _data(data: DataEntry) -> str:
    name, files, size = data.name or data.input or data.asset or "?", data.files, data.bytes
    sizes = f"{messages.counted(files, 'file')}, {size:,} bytes" if type(files) is int and type(size) is int else ""
    return "  ".join(part for part in (str(name), str(data.digest or "")[:12], sizes, str(data.path or "")) if part)
