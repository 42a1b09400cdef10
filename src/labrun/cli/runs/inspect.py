"""What runs left: `logs`, `metrics`, `files`, `download`, `compare`."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun import checking, terminal
from labrun.checking import suggest
from labrun.cli.runs import filters
from labrun.control import monitor
from labrun.control.query import Pair, StatusResolver
from labrun.errors import RecordError
from labrun.runs import context, files, report, store
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths, flat_config

POLL_S = 0.5


def logs(options: argparse.Namespace, is_raw: bool = True) -> int:
    """What runs printed, as they printed it; with --follow until each has ended."""
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
        raise RecordError(
            f"run {records.read(run_dir).id} has printed nothing yet: there is no {RunPaths(run_dir).log}"
        )
    while follow:
        record = records.read(run_dir)
        view.update()
        if record.finished or shown(run_dir, record) == records.LOST:
            break
        time.sleep(POLL_S)
    view.update()


def metrics(options: argparse.Namespace) -> int:
    """The metrics of runs: a line each, all values, or curves."""
    chosen = filters.select(options)
    writer = csv.writer(terminal.raw(sys.stdout), lineterminator="\n") if options.csv else None
    if writer:
        writer.writerow(["run", "name", "step", "value", "time"])
    for run_dir, record in chosen:
        lines = _lines(run_dir, record, options.name)
        if bad := context.bad_lines(run_dir):
            sys.stderr.write(
                f"lab: left out: {checking.counted(bad, 'line')} of {run_dir / context.METRICS_FILE} "
                f"{'holds' if bad == 1 else 'hold'} no metric\n"
            )
        for line in lines if writer or options.json else []:
            if writer:
                told = [record.id, line["name"], line["step"], line["value"], line["time"]]
                writer.writerow(map(terminal.cell, told))
            else:
                print(json.dumps({"run": record.id, **line, "value": _jsonable(line["value"])}))
        if writer or options.json:
            continue
        print(f"{record.name}  {record.id}" + ("" if lines else ": no metrics"))
        if lines:
            print(
                "\n".join(report.columns([("metric", "values", "last", "lowest", "highest", "at step"), *_last(lines)]))
            )
        if options.plot and lines:
            _plot(run_dir, record, lines, options.output)
    return 0


def _jsonable(value: float) -> Any:
    return value if value == value and abs(value) != float("inf") else str(value)


def _lines(run_dir: Path, record: Record, names: Sequence[str] | None) -> list[dict[str, Any]]:
    lines = context.read_metrics(run_dir)
    there = list(dict.fromkeys(line["name"] for line in lines))
    for name in names or []:
        if not fnmatch.filter(there, name):
            known = ", ".join(there) or "none"
            raise RecordError(f"run {record.id} has no metric {name!r}.{suggest(name, there)} Its metrics: {known}")
    return [line for line in lines if not names or any(fnmatch.fnmatchcase(line["name"], name) for name in names)]


def _last(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys(line["name"] for line in lines):
        own = [line for line in lines if line["name"] == name]
        values = [line["value"] for line in own]
        number = report.number
        yield name, str(len(own)), number(values[-1]), number(min(values)), number(max(values)), str(own[-1]["step"])


def _plot(run_dir: Path, record: Record, lines: Sequence[dict[str, Any]], output: Path | None) -> None:
    drawn = report.terminal_curves(lines)
    print(drawn or "no metric has more than one step, so there is no curve to draw")
    path = output or files.pictures(store.workspace()) / f"curves-{_own_name(record)}.png"
    if drawn and report.learning_curves(lines, files.ready(path), f"{record.name} ({record.id})"):
        print(f"picture: {path}")


def list_files(options: argparse.Namespace) -> int:
    """The files of runs, with their sizes."""
    chosen = filters.select(options)
    for run_dir, record in chosen:
        found = files.of(run_dir)
        if options.json:
            for name, size in found.items():
                print(json.dumps({"run": record.id, "file": name, "bytes": size}))
            continue
        print(f"{record.name}  {record.id}  {run_dir}")
        rows = [(f"  {name}", checking.size_text(size)) for name, size in found.items()]
        print("\n".join(report.columns(rows)) if rows else "  no files")
    return 0


def download(options: argparse.Namespace) -> int:
    """Copy files of runs to a folder."""
    meant, patterns = filters.split_words(options)
    chosen = filters.select(meant)
    for run_dir, record in chosen:
        several = options.output is not None and len(chosen) > 1
        target = options.output if options.output and not several else (options.output or Path()) / _own_name(record)
        copied = files.copy(run_dir, record, patterns, target, options.force)
        print(f"{checking.counted(len(copied), 'file')} of run {record.id} in {target}")
    return 0


def _own_name(record: Record) -> str:
    """A name for what is written of a run, by its own.

    Raises:
        RecordError: its name or id could lead elsewhere: labrun gives no such.
    """
    if not records.is_named_safely(record):
        raise RecordError(
            f"the run's id is {record.id!r:.60} and its name {record.name!r:.60}, and labrun gives no such: say with "
            "-o where to write, for this run alone"
        )
    return f"{record.name}-{record.id}"


def compare(options: argparse.Namespace) -> int:
    """Runs side by side: where their configs differ, their metrics, their curves in one picture."""
    chosen = [(run_dir, records.read(run_dir)) for run_dir, _ in filters.select(options, default=None)]
    if len(chosen) < 2:
        raise RecordError(f"to compare takes two runs or more, and only {chosen[0][1].id} was chosen")
    head = ("", *(record.id for _, record in chosen))
    shown = StatusResolver()
    about = [
        ("experiment", *(record.name for _, record in chosen)),
        ("status", *(shown(*pair) for pair in chosen)),
        ("duration", *(report.duration(record.duration_s or 0) for _, record in chosen)),
    ]
    differing = list(_differences(chosen))
    values = list(_values(chosen))
    if options.json:
        ids = [record.id for _, record in chosen]
        named = {name: dict(zip(ids, row, strict=True)) for name, *row in (*differing, *values)}
        print(
            json.dumps(
                {
                    "runs": ids,
                    "differences": {n[0]: named[n[0]] for n in differing},
                    "metrics": {n[0]: named[n[0]] for n in values},
                }
            )
        )
        return 0
    for title, rows in (("runs", about), ("configuration, where it differs", differing), ("metrics", values)):
        print(title if rows else f"{title}: nothing")
        cells = [tuple(_short(cell) for cell in row) for row in (head, *rows)]
        print("\n".join(f"  {line}" for line in report.columns(cells)) if rows else "", end="\n" if rows else "")
    path = options.output or files.pictures(store.workspace()) / f"compare-{'-'.join(r.id for _, r in chosen)[:80]}.png"
    called = _called([record for _, record in chosen])
    curves = {name: context.read_metrics(run_dir) for name, (run_dir, _) in zip(called, chosen, strict=True)}
    drawn = report.compared_curves(curves, files.ready(path))
    print(f"curves: {drawn}" if drawn else "curves: no metric of these runs has more than one step")
    return 0


def _called(compared: Sequence[Record]) -> list[str]:
    """What each run is called beside the others: by the overrides that tell it from them; no two alike."""
    overrides, _ = report.differing([record.overrides for record in compared])
    names = {record.name for record in compared}
    said = [
        " ".join([*([record.name] if len(names) > 1 else []), *own]) or record.name
        for record, own in zip(compared, overrides, strict=True)
    ]
    return [text if said.count(text) == 1 else f"{text} {one.id}" for text, one in zip(said, compared, strict=True)]


NOT_COMPARED = frozenset(
    {
        "name",
        "tags",
        "notes",
        "compute",
        "sweep",
        "tracking",
        "logger",
        "report",
        "datastore",
        "export",
        "trusted",
    }
)
"""Nodes of a config that say where a run goes, how it is called and shown, and not what is tried in it."""
DERIVED = re.compile(
    r"(.*\.)?(from|resume|script)\.(path|source|python)|script\.(source|python|environment)|.*\.dirpath"
)
"""Keys that labrun fills in: where things lie that other keys name."""


def is_compared(key: str) -> bool:
    """Whether a key of the config is an experiment's own."""
    return key.partition(".")[0] not in NOT_COMPARED and (key == "script.path" or not DERIVED.fullmatch(key))


def _short(cell: str) -> str:
    return cell if len(cell) <= 60 else cell[:57] + "..."


def _differences(chosen: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    """Keys of the config, and what else a run depends on, that not all runs have alike."""
    found = [dict(flat_config(record.config)) for _, record in chosen]
    keys = list(dict.fromkeys(key for config in found for key in config))
    rows = [(key, *(config.get(key, "-") for config in found)) for key in keys if is_compared(key)]
    rows = [row for row in rows if not _repeats(row, rows)]
    rows.append(("code", *(str((record.code or {}).get("sources", "-"))[:12] for _, record in chosen)))
    rows.append(
        ("script", *(str(((record.code or {}).get("script") or {}).get("digest", "-"))[:12] for _, record in chosen))
    )
    rows.append(("git commit", *(str((record.git or {}).get("commit", "-"))[:12] for _, record in chosen)))
    rows.append(("data", *(" ".join(_read(d) for d in r.data) or "-" for _, r in chosen)))
    packages = [record.packages for _, record in chosen]
    for name in sorted({name for one in packages for name in one}):
        rows.append((f"package {name}", *(one.get(name, "-") for one in packages)))
    yield from (row for row in rows if len(set(row[1:])) > 1)


def _repeats(row: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> bool:
    """Whether a key has the values of one of the same name above it: `model.optimizer.lr` takes `model.lr`."""
    above, _, name = row[0].rpartition(".")
    places = above.split(".")
    others = {".".join([*places[:depth], name]) for depth in range(1, len(places))}
    return any(other[0] in others and other[1:] == row[1:] for other in rows)


def _read(entry: Mapping[str, Any]) -> str:
    """The digest of the data that a run read, and of what code made of them."""
    return "/".join(str(entry[key])[:12] for key in ("digest", "content") if entry.get(key))


def _values(chosen: Sequence[Pair]) -> Iterator[tuple[str, ...]]:
    for name in dict.fromkeys(name for _, record in chosen for name in record.metrics):
        cells = [record.metrics.get(name) for _, record in chosen]
        yield name, *(report.number(v) if isinstance(v, int | float) else "-" if v is None else str(v) for v in cells)
