"""Runs a search from start to end: checks before anything runs, the controller, and the final report."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from labrun.backends.base import Backend, Executor
from labrun.compose.hydra_files import hide_environment, quoted
from labrun.config.schema import Sweep, Tracking
from labrun.control import controller, objective, results
from labrun.control.monitor import Lines, Live
from labrun.errors import ConfigError
from labrun.remote import remote_search
from labrun.report import formatting
from labrun.runs import store, sweep_state
from labrun.runs.record import COMPLETED, Record, read_record
from labrun.runs.recording import terminating_politely
from labrun.search import automl, previous, summary, takeover
from labrun.search.search import Search, check_fresh, policy, room
from labrun.search.study import Study
from labrun.search.trials import Trials
from labrun.submission import snapshot, submit
from labrun.submission.publish import publish_location
from labrun.tracking.feed import follow
from labrun.user_errors import EXIT_CANCELED

log = logging.getLogger(__name__)


WIDEST = 90
"""Maximum width of the parameters column; longer ones push the columns after them out of alignment."""


class Table:
    """Prints a line per finished trial with the best so far; on a terminal also a live view of running trials.

    Args:
        search: the search.
        folder: the sweep's folder.
    """

    def __init__(self, search: Search, folder: Path) -> None:
        self._search, self._folder = search, folder
        self._best: float | None = None
        self._live: Live | None = None
        self._is_headed = False
        self._runs: list[Path] = []
        self._width = 0
        self.printed: set[str] = set()
        """Runs whose line has been printed."""
        if sys.stdout.isatty():
            self._live = Live(folder, self._runs)

    def update(self, running: bool = True) -> None:
        """Redraw the live view."""
        if self._live is not None:
            self._runs[:] = [self._folder / run for run in self._search.plan.runs]
            if self._runs or not running:
                self._live.update(running)

    def ended(self, run_dir: Path, record: Record) -> None:
        """Print the line of a finished trial."""
        one = self._search.objectives[0]
        score = objective.rank(record)
        if score > float("-inf"):
            self._best = score if self._best is None else max(self._best, score)
        best = "" if self._best is None else formatting.number(self._best if one.maximize else -self._best)
        value = record.metrics.get(one.metric)
        shown = formatting.number(float(value)) if isinstance(value, int | float) else "-"
        what = automl.pipeline_name(record) or " ".join(summary.varied(record, self._search.trials.space)) or "-"
        if not self._is_headed:
            self._is_headed = True
            first = "ITERATION" if automl.is_pipeline(record) else "TRIAL"
            head = "PIPELINE" if automl.is_pipeline(record) else "PARAMETERS"
            self._width = max(36, min(len(what) + 4, WIDEST))
            results.say(
                f"{first:>9}  {head:<{self._width}}  {'DURATION':>8}  {'METRIC':>8}  {'BEST':>8}  ({one.metric})"
            )
        mark = "" if record.status == COMPLETED else f"  {record.status}: {record.reason}"
        took = "-" if record.duration_s is None else f"{record.duration_s:.1f}"
        results.say(f"{run_dir.name:>9}  {what:<{self._width}}  {took:>8}  {shown:>8}  {best:>8}{mark}")
        self.printed.add(run_dir.name)


def run(
    trials: Trials,
    settings: Sweep,
    arguments: Sequence[str],
    freezer: submit.Freezer,
    resumed: bool,
    prepare: Callable[[], None],
) -> list[Record]:
    """Check everything, then search to the end.

    Args:
        trials: creates the trials.
        settings: the config's `sweep`, as composed.
        arguments: the arguments of the command, for a process that takes the search over.
        freezer: freezes the runs, and holds the pool's server.
        resumed: whether to resume the folder's search.
        prepare: creates the folder, once all checks have passed.

    Returns:
        The runs' records; empty with `compute.detach`, where the search continues in another process.

    Raises:
        ConfigError, DataError, RecordError: user mistakes; nothing has run then.
        SystemExit: after Ctrl-C (130).
    """
    folder = trials.folder
    probes, backend = _check(trials, settings, resumed)
    config = probes[0].record.typed
    compute, words = config.compute, [text for text in arguments if not _is_own(text)]
    with submit.controller_lease(folder, backend) if resumed else contextlib.nullcontext():
        if not resumed:
            check_fresh(folder)
        prepare()
        plan = submit.make_plan(probes, folder, [], backend)
        plan.command = hide_environment(words)
        if trials.code is not None:
            plan.path = snapshot.import_path(trials.code, own=compute.python is None)
        plan.write(folder)
        publish_location(folder, [os.path.relpath(job.run_dir, folder) for job in probes])
        if backend.is_remote:
            remote_search.begin(folder, [job.record for job in probes], plan, words, resumed)
        elif not compute.detach:
            search = Search(trials, config.sweep, objective.of(config), plan, room(settings, plan, compute))
            search.begin(trials.space.dimensions)
            takeover.begin(folder)
    if backend.is_remote:
        return _follow_remote(folder, compute.detach)
    if compute.detach:
        controller.detach(folder, {}, [*words, *_folder_override(folder, resumed)])
        results.say(f"Submitted: a search in {folder}\n  lab runs watch {folder}")
        return []
    return _attended(search, folder, plan, freezer)


def _check(trials: Trials, settings: Sweep, resumed: bool) -> tuple[list[submit.FrozenJob], Backend]:
    """Check a search before anything is written; a resumed one takes its frozen code.

    Returns:
        The probes (see `Trials.probes`), and the backend.

    Raises:
        ConfigError, DataError, RecordError: user mistakes.
    """
    if settings.sampler is not None:
        Study.check(settings.sampler, len(settings.metric) if isinstance(settings.metric, list) else 1)
    policy(settings)
    if resumed:
        first = next(iter(sorted(trials.folder.glob("*/run.json"))), None)
        if first is not None and settings.resume_code == "frozen":
            trials.code = read_record(first.parent).code
    probes = trials.probes()
    if not probes:
        raise ConfigError(
            "there is nothing to search: give a key several values ('model.lr=tag(log,interval(1e-4,1e-1))'), list "
            "them under sweep.space, or choose a component whose file has a search_space"
        )
    backend = submit.check(probes)
    if not backend.supervises and (settings.trial_timeout_min is not None or policy(settings)):
        key = "trial_timeout_min" if settings.trial_timeout_min is not None else "early_termination"
        raise ConfigError(
            f"sweep.{key}: a run of compute={backend.name} has no supervisor that could stop it; choose compute=local"
        )
    config = probes[0].record.typed
    if backend.is_remote and settings.learn_from:
        raise ConfigError("sweep.learn_from: previous searches are on this machine; leave compute.host out")
    previous.check(settings, trials.space.dimensions, [one.metric for one in objective.of(config)])
    return probes, backend


def _is_own(text: str) -> bool:
    """Return whether an argument concerns only this controller process."""
    return bool(re.match(r"^[+~]*(compute\.detach|sweep\.resume|hydra\.sweep\.dir)=", text))


def _folder_override(folder: Path, resumed: bool) -> list[str]:
    return [f"{'sweep.resume' if resumed else 'hydra.sweep.dir'}={quoted(str(folder))}"]


def _follow_remote(folder: Path, is_detached: bool) -> list[Record]:
    if is_detached:
        results.say(f"Submitted: a search in {folder}\n  lab runs watch {folder}")
        return []
    if remote_search.follow(folder, Lines(folder)):
        _say_canceled(folder)
    found = {run: read_record(folder / run) for run in sweep_state.read_plan(folder).runs}
    best = max(found, key=lambda run: objective.rank(found[run]), default=None)
    if best is not None and objective.rank(found[best]) > float("-inf"):
        metric = objective.of(found[best].typed)[0].metric
        results.say(f"best: run {best}, {metric} {found[best].metrics.get(metric)}")
    results.say(f"The search is over: {folder} (results.csv, report.html, best.yaml)")
    return list(found.values())


def _attended(search: Search, folder: Path, plan: sweep_state.Plan, freezer: submit.Freezer) -> list[Record]:
    goals = ", ".join(f"{o.metric} ({'max' if o.maximize else 'min'})" for o in search.objectives)
    left = search.budget - search.study.counted()
    log.info("Searching for %s: %d trials, %d at once, in %s", goals, left, search.room, folder)
    with follow(store.workspace(), Tracking.of(plan.tracking)), terminating_politely():
        table = Table(search, folder)
        try:
            try:
                runner = controller.run(folder, table, search.variables, freezer.head, search)
            finally:
                search.rest()
                table.update(running=False)
        except KeyboardInterrupt:
            controller.cancel_rest(folder, sweep_state.read_plan(folder), "the sweep was canceled")
            _say_canceled(folder)
        try:
            with takeover.ending(folder):
                canceled = search.is_canceled or not _finished(search, runner, folder)
                summary.print_summary(search, folder, runner.draw, table.printed)
        finally:
            runner.close()
    if canceled:
        _say_canceled(folder)
    return [read_record(folder / run) for run in plan.runs]


def _finished(search: Search, runner: Executor, folder: Path) -> bool:
    """Run the final fits of the best pipelines; if interrupted, cancel them and return False."""
    try:
        automl.finish(search, runner, folder)
        return True
    except KeyboardInterrupt:
        runner.cancel_all()
        while runner.busy:
            runner.poll()
        return False


def _say_canceled(folder: Path) -> NoReturn:
    where = shlex.quote(str(folder))
    sys.stderr.write(f"labrun: canceled; the records are in {folder}, and sweep.resume={where} resumes the search\n")
    sys.exit(EXIT_CANCELED)
