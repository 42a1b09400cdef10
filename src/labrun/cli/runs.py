"""`lab runs`: the record of what ran, and the runs that go on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labrun.errors import RecordError
from labrun.launch import closing, detached, jobs, lease, monitor, results, slurm_jobs
from labrun.runs import record as records
from labrun.runs import report, store
from labrun.runs.record import Record, RunPaths
from labrun.sweep import takeover

POLL_S = 0.5
CANCEL_S = 20.0
"""How long `cancel` waits for the runs to stop before it says that they still do."""


def add(nouns: Any) -> None:
    """Add the noun to the command line."""
    noun = nouns.add_parser("runs", help="the record of what ran, and the runs that go on")
    verbs = noun.add_subparsers(title="verbs", metavar="VERB", required=True)
    which = "'last', the beginning of a run's id, or its folder"
    verb = _verb(verbs, "ls", ls, "the runs of the workspace, newest first")
    verb.add_argument("--experiment", metavar="NAME", help="only runs of this name")
    statuses = [records.QUEUED, records.RUNNING, records.PREEMPTED, *sorted(records.FINISHED)]
    verb.add_argument("--status", choices=[*statuses, records.LOST, records.UNREACHABLE], metavar="STATUS",
                      help="only runs that are shown with this status: %(choices)s")  # fmt: skip
    verb.add_argument("-n", type=_count, metavar="N", help="only so many")
    verb.add_argument("--json", action="store_true", help="one JSON object a line")
    verb = _verb(verbs, "show", show, "all of one run")
    verb.add_argument("run", help=which)
    verb.add_argument("--json", action="store_true", help="the record as it is")
    verb.add_argument("--error", action="store_true", help="the traceback of a failure")
    verb = _verb(verbs, "logs", logs, "what a run printed")
    verb.add_argument("run", help=which)
    verb.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    verb = _verb(verbs, "watch", watch, "follow a sweep or a run; go on with a sweep whose controller is gone")
    verb.add_argument("run", nargs="?", default="last", help=f"a sweep's folder; or {which} (default: last)")
    verb = _verb(verbs, "cancel", cancel, "ask runs to stop")
    verb.add_argument("run", nargs="+", help=f"{which}, or a sweep's folder")


def _verb(verbs: Any, name: str, act: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(act=act)
    return verb


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number of runs")
    return int(text)


METRIC = "accuracy"
"""The metric that the table of runs shows."""


class Shown:
    """Statuses as readers show them; the cluster is asked once, and only if a run needs it."""

    def __init__(self) -> None:
        self._states: dict[str, str] | None = None

    def __call__(self, run_dir: Path, record: Record) -> str:
        return records.shown_status(run_dir, record, self._is_gone)

    def _is_gone(self, job: str) -> bool | None:
        if shutil.which("squeue") is None:
            return None
        if self._states is None or job not in self._states:
            self._states = {**(self._states or {}), **slurm_jobs.states([job])}
        state = self._states.get(job, "GONE")
        return None if state == "UNKNOWN" else state in slurm_jobs.OVER


def ls(options: argparse.Namespace) -> int:
    """The table of runs."""
    shown, rows = Shown(), []
    found = sorted(store.runs(store.workspace()), key=lambda pair: pair[1].created, reverse=True)
    for run_dir, record in found:
        if options.experiment not in (None, record.name):
            continue
        status = shown(run_dir, record)
        if options.status not in (None, status):
            continue
        rows.append((run_dir, record, status))
        if options.n is not None and len(rows) >= options.n:
            break
    if options.json:
        for run_dir, record, status in rows:
            metric = record.metrics.get(METRIC)
            line = {"id": record.id, "name": record.name, "status": status, "created": record.created,
                    "duration_s": record.duration_s, METRIC: metric, "overrides": record.overrides,
                    "folder": str(run_dir)}  # fmt: skip
            print(json.dumps(line))
        return 0
    if not rows:
        print(f"no runs in {store.workspace()}" if not found else "no run is like that")
        return 0
    cells: list[tuple[str, ...]] = [("id", "experiment", "status", "age", "duration", METRIC, "overrides")]
    for _, record, status in rows:
        cells.append(_cells(record, status))
    print("\n".join(columns(cells)))
    return 0


def _cells(record: Record, status: str) -> tuple[str, ...]:
    age = records.seconds_between(record.created, records.now())
    took = "" if record.duration_s is None else monitor.duration(record.duration_s)
    metric = record.metrics.get(METRIC)
    value = report.number(metric) if isinstance(metric, int | float) else ""
    return record.id, record.name, status, monitor.duration(age), took, value, " ".join(record.overrides)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines, each column as wide as its widest cell."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def show(options: argparse.Namespace) -> int:
    """One run."""
    run_dir, record = store.find(store.workspace(), options.run)
    if options.json:
        print(json.dumps(dataclasses.asdict(record), indent=1, default=str))
        return 0
    error = record.error or {}
    if options.error:
        if not error:
            print(f"run {record.id} has no error: it is {Shown()(run_dir, record)}")
            return 1
        print(error.get("traceback") or f"{error.get('type')}: {error.get('message')}")
        return 0
    rows = [
        ("run", f"{record.name}  {record.id}"),
        ("status", Shown()(run_dir, record)),
        ("submitted", record.created),
        ("started", record.started or "not yet"),
        ("ended", f"{record.ended}, after {record.duration_s} s" if record.ended else "not yet"),
        ("host", str((record.process or {}).get("host", "-"))),
    ]
    if record.job:
        node = record.job.get("node")
        rows.append(("job", f"{record.job['cluster']} {record.job['id']}{f' on {node}' if node else ''}"))
    for attempt in record.attempts if len(record.attempts) > 1 else []:
        text = f"{attempt['number']}: {attempt['status']}, begun {attempt['started']}"
        rows.append(("attempt", text + (f" ({attempt['reason']})" if attempt.get("reason") else "")))
    if record.sweep:
        rows.append(("sweep", f"run {record.sweep['number']} of {record.sweep['folder']}"))
    if record.parent:
        rows.append(("parent", record.parent))
    for data in record.data:
        rows.append(("data", f"{data['name']}  {data['digest'][:12]}  {data['files']} files, {data['bytes']:,} bytes"))
    rows += [(name, report.number(value) if isinstance(value, int | float) else str(value))
             for name, value in record.metrics.items()]  # fmt: skip
    if error:
        first = (str(error.get("message")).splitlines() or [""])[0]
        rows.append(("error", f"{error.get('type')}: {first}   (lab runs show {record.id} --error)"))
    if record.tags:
        rows.append(("tags", " ".join(f"{key}={value}" if value else key for key, value in record.tags.items())))
    if record.notes:
        rows.append(("notes", record.notes))
    git, code = record.git or {}, record.code or {}
    if git:
        rows.append(("git", f"{git['commit'][:12]} ({git['branch']}){', with changes' if git['dirty'] else ''}"))
    rows += [("code", str(code.get("digest", "-"))[:12]), ("again", record.command), ("folder", str(run_dir))]
    print(report.table(rows))
    return 0


def logs(options: argparse.Namespace) -> int:
    """A run's log."""
    run_dir, _ = store.find(store.workspace(), options.run)
    view, shown = monitor.Follow(run_dir), Shown()
    if not options.follow and not RunPaths(run_dir).log.exists():
        raise RecordError(
            f"run {records.read(run_dir).id} has printed nothing yet: there is no {RunPaths(run_dir).log}"
        )
    while options.follow:
        record = records.read(run_dir)
        view.update()
        if record.finished or shown(run_dir, record) == records.LOST:
            break
        time.sleep(POLL_S)
    view.update()
    return 0


def folder_of(reference: str) -> Path:
    """The folder that has a plan: a sweep's, or that of a single run that went elsewhere, or a run's in this terminal.

    Raises:
        RecordError: nothing goes by that name.
    """
    root = store.workspace()
    for folder in (Path(reference).expanduser(), root / reference):
        if (jobs.state_folder(folder) / "plan.json").is_file():
            return folder.resolve()
    run_dir, record = store.find(root, reference)
    if reference == "last" and record.sweep is not None:
        return Path(record.sweep["folder"])
    return run_dir


def watch(options: argparse.Namespace) -> int:
    """Follow; and control from here what nobody controls."""
    folder = folder_of(options.run)
    if not (jobs.state_folder(folder) / "plan.json").is_file():
        options.follow = True
        return logs(argparse.Namespace(run=str(folder), follow=True))
    plan = jobs.read_plan(folder)
    if plan.command is not None:
        return _watch_search(folder)
    run_dirs = jobs.run_dirs(folder, plan)
    with monitor.shown(folder, run_dirs) as view:
        told: set[Path] = set()
        while not _over(run_dirs, view, told):
            if lease.living(jobs.state_folder(folder)) is None:
                if _over(run_dirs, view, told):
                    break
                sys.stderr.write("lab: nobody controls these runs any more; going on with them from here\n")
                detached.take_over(folder, {}, view)
                return _code(run_dirs)
            view.update()
            time.sleep(POLL_S)
    _wait_for_books(folder, run_dirs)
    return _code(run_dirs)


def _watch_search(folder: Path) -> int:
    """Tell each trial as it ends; go on with a search that nobody conducts any more."""
    told: set[Path] = set()
    view = monitor.Lines(folder)
    while True:
        is_over = takeover.is_over(folder)
        run_dirs = jobs.run_dirs(folder, jobs.read_plan(folder))
        _over(run_dirs, view, told)
        if is_over:
            break
        if lease.living(jobs.state_folder(folder)) is None and not takeover.is_ending(folder):
            sys.stderr.write("lab: nobody conducts this search any more; going on with it from here\n")
            return takeover.take_over(folder)
        time.sleep(POLL_S)
    print(f"The search is over: {folder} (results.csv, report.html, best.yaml)")
    return int(any(records.read(run_dir).status == records.FAILED for run_dir in run_dirs))


def _over(run_dirs: Sequence[Path], view: Any, told: set[Path]) -> bool:
    for run_dir in run_dirs:
        if run_dir not in told and (record := records.read(run_dir)).finished:
            told.add(run_dir)
            view.ended(run_dir, record)
    return len(told) == len(run_dirs)


def _wait_for_books(folder: Path, run_dirs: Sequence[Path], patience_s: float = 60.0) -> None:
    """Show the table; the controller, if it still lives, writes it, else it is written here."""
    end = time.monotonic() + patience_s
    while lease.living(jobs.state_folder(folder)) is not None and time.monotonic() < end:
        time.sleep(POLL_S)
    results.tell(folder, run_dirs, lambda run_dir: True)


def _code(run_dirs: Sequence[Path]) -> int:
    return int(any(records.read(run_dir).status != records.COMPLETED for run_dir in run_dirs))


def cancel(options: argparse.Namespace) -> int:
    """Ask runs to stop, and wait until they have."""
    chosen: list[Path] = []
    for reference in options.run:
        folder = folder_of(reference) if reference != "last" else store.find(store.workspace(), "last")[0]
        has_plan = (jobs.state_folder(folder) / "plan.json").is_file()
        plan = jobs.read_plan(folder) if has_plan else None
        if plan is not None and plan.command is not None:
            takeover.cancel(folder)
        chosen += jobs.run_dirs(folder, plan) if plan is not None else [folder]
    unfinished = [run_dir for run_dir in dict.fromkeys(chosen) if not records.read(run_dir).finished]
    if not unfinished:
        print(
            "nothing to cancel: " + ("the run has" if len(chosen) == 1 else f"all {len(chosen)} runs have") + " ended"
        )
        return 0
    shown = Shown()
    for run_dir in unfinished:
        closing.request(run_dir)
        record = records.read(run_dir)
        home = jobs.state_folder(Path(record.sweep["folder"]) if record.sweep else run_dir)
        if lease.living(home) is None:
            _end_uncontrolled(run_dir, record, shown, home)
    end = time.monotonic() + CANCEL_S
    while (left := [d for d in unfinished if not records.read(d).finished]) and time.monotonic() < end:
        time.sleep(POLL_S)
    for run_dir in unfinished:
        record = records.read(run_dir)
        print(f"{record.id}  {record.status if record.finished else 'asked to stop'}")
    if left:
        print(f"{len(left)} still stop; 'lab runs ls' shows them")
    return 0


def _end_uncontrolled(run_dir: Path, record: Record, shown: Shown, home: Path) -> None:
    """What no controller will cancel: a run that waits for nobody, in a job that waits, or that is lost."""
    job = slurm_jobs.known_jobs(home / "jobs.jsonl").get(run_dir)
    if job is not None and slurm_jobs.states([job]).get(job) == "PENDING":
        slurm_jobs.scancel([job])
    elif job is not None or shown(run_dir, record) in (records.RUNNING, records.UNREACHABLE):
        return  # its own supervisor obeys
    record = records.read(run_dir)
    if not record.finished:
        closing.close(run_dir, record, records.CANCELED, "Canceled", "canceled before it ended, with nobody in control")
