"""Actions that control runs: `watch`, `cancel`, `rerun`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labrun.backends import variables
from labrun.cli.runs import filters, inspect
from labrun.control import detached, lease, monitor, results
from labrun.control.cancel import end_runs
from labrun.errors import ConfigError, RecordError
from labrun.remote import links, mirror, remote_search
from labrun.runs import ownership, store, sweep_state
from labrun.runs.record import COMPLETED, FAILED, QUEUED, RUNNING, Record, read_record, sweep_folder
from labrun.runs.sweep_state import SweepState
from labrun.search import takeover

POLL_S = 0.5


def folder_of(reference: str) -> Path:
    """Return the folder with the plan of a sweep or of a run executed elsewhere; for any other run, its directory.

    Raises:
        RecordError: there is no sweep or run for the reference.
    """
    root = store.workspace()
    reference = store.resolve_sdk_id(root, reference)
    for folder in (Path(reference).expanduser(), root / reference):
        if os.path.isfile(SweepState(folder).plan):
            return folder.resolve()
    mirror.refresh(root)
    if reference == "last" and (search := _search_without_trials(root)) is not None:
        return search
    run_dir, record = store.find(root, reference)
    sweep = sweep_folder(run_dir, record)
    return sweep if reference == "last" and sweep is not None else run_dir


def _search_without_trials(root: Path) -> Path | None:
    """Return the newest search if it has no trial yet, because 'last' then means the search and not an older run."""
    newest = max((record.created for _, record in store.listing(root).runs), default="")
    return takeover.fresh(root, newest)


def watch(options: argparse.Namespace) -> int:
    """Follow runs, and take over those without a controller."""
    if filters.is_filtered(options):
        chosen = filters.select(options)
        folders = list(dict.fromkeys(sweep_folder(run_dir, r) or run_dir for run_dir, r in chosen))
    else:
        folders = [folder_of(name) for name in options.run or ["last"]]
    return max([_watch(folder, options.take_over) for folder in folders])


def _watch(folder: Path, is_trusted: bool) -> int:
    if not SweepState(folder).plan.is_file():
        return inspect.logs(argparse.Namespace(run=[str(folder)], follow=True), is_raw=False)
    plan = sweep_state.read_plan(folder)
    if plan.command is not None:
        return _watch_search(folder, is_trusted)
    lacking = sweep_state.never_submitted(folder, plan) if lease.living(SweepState(folder)) is None else 0
    if lacking:
        sys.stderr.write(
            f"lab: {lacking} of its {len(plan.runs)} runs were never submitted: the command was killed before; the "
            f"same command with sweep.resume={folder} runs them\n"
        )
    plan.runs = [name for name in plan.runs if os.path.exists(folder / name / "run.json")] if lacking else plan.runs
    return max(_watch_runs(folder, plan, is_trusted), int(lacking > 0))


def _watch_runs(folder: Path, plan: sweep_state.Plan, is_trusted: bool) -> int:
    run_dirs = store.dirs_of_plan(folder, plan)
    if not run_dirs:
        return 0
    with monitor.shown(folder, run_dirs) as view:
        reported: set[Path] = set()
        while not _over(run_dirs, view, reported):
            if lease.living(SweepState(folder)) is None:
                if _over(run_dirs, view, reported):
                    break
                if not is_trusted:
                    _check_plan(folder, _unfinished(folder, plan))
                _check_variables(folder, plan)
                sys.stderr.write("lab: these runs have no controller any more; continuing them from here\n")
                detached.take_over(folder, {}, view)
                return _code(run_dirs)
            links.note_reader(folder)
            view.update()
            time.sleep(POLL_S)
    _print_results(folder, run_dirs)
    return _code(run_dirs)


def _unfinished(folder: Path, plan: sweep_state.Plan) -> list[tuple[Path, Record]]:
    return [(run_dir, record) for run_dir, record in store.of_plan(folder, plan) if not record.finished]


def _check_plan(folder: Path, unfinished: Sequence[tuple[Path, Record]]) -> None:
    """Check that it is safe to execute a folder's plan and its unfinished runs.

    A plan defines the interpreter, the modules and the code folders, and a record the objects to build. Their author
    can therefore execute any code.

    Raises:
        ConfigError: another user may have written them.
    """
    state = SweepState(folder)
    why = ownership.foreign_writer([state.root, state.plan, *(run_dir / "run.json" for run_dir, _ in unfinished)])
    if why is None and any(record.imported is not None for _, record in unfinished):
        why = "they came from an archive"
    if why is not None:
        raise ConfigError(
            f"the runs in {folder} no longer have a controller, and continuing them executes what their files say, "
            f"as you: {why}. Check them first, then add --take-over"
        )


def _check_variables(folder: Path, plan: sweep_state.Plan) -> None:
    """Check that the environment variables named in the records of unfinished runs are set.

    Raises:
        ConfigError: some are not set on this machine.
    """
    left = _unfinished(folder, plan)
    missing = sorted({name for _, r in left for name in variables.missing(r.typed.environment)})
    if missing:
        raise ConfigError(
            f"these runs have no controller any more, and they were given variables that records do not hold: set "
            f"{', '.join(missing)} here first, then repeat the command"
        )


def _watch_search(folder: Path, is_trusted: bool) -> int:
    """Report each trial of a search as it ends, and resume the search if its controller is gone."""
    reported: set[Path] = set()
    view = monitor.Lines(folder)
    if links.read(folder) is not None:
        remote_search.follow(folder, view)
        return _print_search(folder)
    while True:
        is_over = takeover.is_over(folder)
        plan = sweep_state.read_plan(folder)
        run_dirs = store.dirs_of_plan(folder, plan)
        _over(run_dirs, view, reported)
        if is_over:
            break
        if lease.living(SweepState(folder)) is None and not takeover.is_ending(folder):
            if not is_trusted:
                _check_plan(folder, store.of_plan(folder, plan))
            sys.stderr.write("lab: this search has no controller any more; it is resumed here\n")
            return takeover.take_over(folder)
        time.sleep(POLL_S)
    return _print_search(folder)


def _print_search(folder: Path) -> int:
    run_dirs = store.dirs_of_plan(folder, sweep_state.read_plan(folder))
    print(f"The search is over: {folder} (results.csv, report.html, best.yaml)")
    return int(any(read_record(run_dir).status == FAILED for run_dir in run_dirs))


def _over(run_dirs: Sequence[Path], view: Any, reported: set[Path]) -> bool:
    for run_dir in run_dirs:
        if run_dir not in reported and (record := read_record(run_dir)).finished:
            reported.add(run_dir)
            view.ended(run_dir, record)
    return len(reported) == len(run_dirs)


def _print_results(folder: Path, run_dirs: Sequence[Path], patience_s: float = 60.0) -> None:
    """Print the final table, once the controller has written its results or has ended."""
    end = time.monotonic() + patience_s
    while lease.living(SweepState(folder)) is not None and time.monotonic() < end:
        time.sleep(POLL_S)
    results.print_summary(folder, run_dirs, lambda run_dir: True)


def _code(run_dirs: Sequence[Path]) -> int:
    return int(any(read_record(run_dir).status != COMPLETED for run_dir in run_dirs))


def cancel(options: argparse.Namespace) -> int:
    """Cancel runs, and wait until they have stopped."""
    if filters.is_filtered(options) or not options.run:
        chosen = [run_dir for run_dir, _ in filters.select(options, default=None)]
    else:
        chosen = [run_dir for name in options.run for run_dir in _meant(name)]
    unfinished = [run_dir for run_dir in dict.fromkeys(chosen) if not read_record(run_dir).finished]
    if not chosen:
        print("asked to stop: a search that had started no trial")
        return 0
    if not unfinished:
        print(
            "nothing to cancel: " + ("the run has" if len(chosen) == 1 else f"all {len(chosen)} runs have") + " ended"
        )
        return 0
    left = end_runs(unfinished)
    for run_dir in unfinished:
        record = read_record(run_dir)
        print(f"{record.id}  {record.status if record.finished else 'asked to stop'}")
    if left:
        print(f"{len(left)} are still stopping; 'lab runs ls' shows them")
    return 0


def _meant(name: str) -> list[Path]:
    """Return the runs for a reference. If it is a search, also stop it from starting more trials."""
    root = store.workspace()
    search = _search_without_trials(root) if name == "last" else None
    folder = search or (folder_of(name) if name != "last" else store.find(root, "last")[0])
    if not SweepState(folder).plan.is_file():
        return [folder]
    plan = sweep_state.read_plan(folder)
    if plan.command is not None:
        takeover.cancel(folder)
    return store.dirs_of_plan(folder, plan)


def rerun(options: argparse.Namespace) -> int:
    """Repeat runs from their frozen config and code, with overrides."""
    from labrun.submission.rerun import prepare

    names = [word for word in options.words if "=" not in word.lstrip("~+") and not word.startswith("~")]
    overrides = [word for word in options.words if word not in names]
    chosen = filters.select(argparse.Namespace(**{**vars(options), "run": names}), default=None)
    plans = [prepare(run_dir, overrides, new_code=options.code == "new") for run_dir, _ in chosen]
    worst = 0
    for one in plans:
        record = one.execute()
        print(f"{record.id}  {record.status}  {one.run_dir}")
        if record.status not in (COMPLETED, QUEUED, RUNNING):
            worst = 1
            if record.reason:
                sys.stderr.write(f"lab: run {record.id}: {record.reason}\n  log: {one.run_dir / 'driver.log'}\n")
    if not plans:
        raise RecordError("no runs to repeat")
    return worst
