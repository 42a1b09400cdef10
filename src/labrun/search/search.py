"""A search: asks the study for trials, submits them, stops unpromising ones, and reports their results to the study.

It supplies the runs of `controller.run`: when one trial ends, the next begins. Runs and search communicate only through
files: metrics and records in one direction, stop requests in the other.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from labrun.backends import registry
from labrun.config.instantiate import build
from labrun.config.schema import Compute, Sweep
from labrun.control import objective
from labrun.control.objective import Objective
from labrun.errors import ConfigError, RecordError
from labrun.runs import context, finalize, sweep_state
from labrun.runs.attempts import Failure
from labrun.runs.end_requests import Request
from labrun.runs.record import CANCELED, COMPLETED, STOPPED, Record, RunPaths, read_record, replace_text
from labrun.runs.sweep_state import SweepState
from labrun.search import takeover
from labrun.search.policies import Curve, Policy
from labrun.search.previous import completed, folders
from labrun.search.reports import Reports
from labrun.search.space import Combination, Dimension, combination_count, combinations, plain_key
from labrun.search.study import OVERRIDES, RUN, TRIALS, Study
from labrun.search.trials import Trials
from labrun.submission import submit
from labrun.submission.submit import FrozenJob

log = logging.getLogger(__name__)

CLOCK_S = 5.0
LARGEST_GRID = 100_000


class SearchEnd(StrEnum):
    """Why a search starts no more trials."""

    REACHED = "reached"
    """A trial has reached `stop_at`."""
    PATIENCE = "patience"
    TIMEOUT = "timeout"
    FAILURES = "failures"
    """More trials have failed than `compute.max_failures` allows."""
    CANCELED = "canceled"


@dataclass
class _Trial:
    number: int
    """Number in the study."""
    run_dir: Path
    reports: Reports
    begun: float | None = None
    stop: str | None = None
    """Reason of the stop request, if any."""


@dataclass
class Search:
    """The runs of a search, for the controller (`controller.RunSource`).

    Args:
        trials: creates the trials.
        settings: the config's `sweep`, with metric and goal resolved.
        objectives: the metrics to optimize.
        plan: the folder's plan; every new run is added to it.
        room: maximum number of concurrent trials.
    """

    trials: Trials
    settings: Sweep
    objectives: Sequence[Objective]
    plan: sweep_state.Plan
    room: int
    study: Study = field(init=False)
    budget: int = field(init=False)

    def __post_init__(self) -> None:
        state = SweepState(self.trials.folder)
        state.make()
        self.study = Study(
            state.study, self.settings.sampler, self.settings.seed, [o.maximize for o in self.objectives]
        )
        self._state = state.search
        self._policy = policy(self.settings)
        self._trials: dict[Path, _Trial] = {}
        self._curves: dict[int, Curve] = {}
        self.variables: dict[Path, Mapping[str, str]] = {}
        """Environment variables of runs that an earlier controller requested but did not start."""
        self._closed: SearchEnd | None = None
        self._is_finite = False
        """Whether the space has a known, finite number of combinations."""
        self._is_measured = self._is_begun = self._is_warned = False
        self._began, self._used_s, self._next_clock = time.monotonic(), 0.0, 0.0
        self.budget = self.settings.max_trials or TRIALS

    # ---- start and resume

    def begin(self, dimensions: Sequence[Dimension]) -> None:
        """Begin the search, or resume that of an earlier controller.

        Args:
            dimensions: the dimensions, to check that it is the same search.

        Raises:
            ConfigError: the folder holds a different search.
        """
        definition = {
            "fixed": _defining(self.trials.space.fixed),
            "space": [repr(one) for one in dimensions],
            "metric": [one.metric for one in self.objectives],
        }
        if self._state.exists():
            then = self._read_state()
            self._used_s = float(then.get("used_s", 0.0))
            changed = [name for name in definition if then.get(name) != definition[name]]
            if changed:
                lines = [f"{name}: then {then.get(name)}, now {definition[name]}" for name in changed]
                raise ConfigError(
                    f"the search in {self.trials.folder} had a different configuration, which cannot change when it is "
                    f"resumed. {'; '.join(lines)}"
                )
        self._definition = definition
        self._write_state()
        self.study.close_without_run()
        if not self.settings.sampler:
            self._enqueue_grid()
        else:
            self._learn()
            self._enqueue_portfolio()
            self._limit_to_space()
        self._resume_trials()

    def _read_state(self) -> dict[str, Any]:
        try:
            then = dict(json.loads(context.content(self._state)))
        except (OSError, ValueError, TypeError) as error:
            raise RecordError(f"{self._state} is damaged or cannot be read: {error}") from error
        known = {trial.user_attrs[RUN] for trial in self.study.trials()}
        in_folder = {path.parent.name for path in self.trials.folder.glob("*/run.json") if path.parent.name.isdecimal()}
        if in_folder - known:
            raise RecordError(
                f"{SweepState(self.trials.folder).study} is damaged or missing: it has {len(known)} trials, "
                f"but the folder has {len(in_folder)}. Restore the journal, or start a new search"
            )
        return then

    def _learn(self) -> None:
        """Add the results of previous searches to the study."""
        for folder in folders(self.settings):
            count = self.study.learn(completed(folder, self.trials.space.dimensions))
            log.info("Learned from %d trials of %s", count, folder)

    def _enqueue_portfolio(self) -> None:
        """Enqueue the initial trials that lie in the space, which may be partly fixed or narrowed."""
        left_out = []
        whole = []
        for parameters in self.settings.portfolio:
            try:
                whole.append(self.trials.complete(parameters))
            except ConfigError as error:
                left_out.append(str(error))
        if left_out:
            log.info("Skipped entries of sweep.portfolio that do not fit: %d (%s)", len(left_out), left_out[0])
        self.study.enqueue_missing(whole)

    def _enqueue_grid(self) -> None:
        total = combination_count(self.trials.space.dimensions)
        assert total is not None, "an interval was rejected when the space was parsed"
        if total > LARGEST_GRID:
            raise ConfigError(
                f"the grid has {total:,} combinations; use sweep=random with sweep.max_trials to try some of them"
            )
        self.budget = min(total, self.settings.max_trials or total)
        whole = combinations(self.trials.space.dimensions)
        self.study.enqueue_missing(list(itertools.islice(whole, self.budget)))

    def _limit_to_space(self) -> None:
        """Limit the budget to the number of combinations of a discrete space, so that none is tried twice."""
        total = combination_count(self.trials.space.dimensions) if self.trials.is_whole else None
        if total is not None and total <= LARGEST_GRID:
            self._is_finite = True
            if total < self.budget:
                log.info("The space has only %d combinations, which limits the number of trials", total)
                self.budget = total

    def _untried(self) -> Combination | None:
        """Return a random untried combination; None if the space is infinite or exhausted."""
        if not self._is_finite:
            return None
        left = self.study.untried(list(combinations(self.trials.space.dimensions)))
        return random.Random(f"{self.settings.seed} {len(left)}").choice(left) if left else None

    def _resume_trials(self) -> None:
        """Take over an earlier controller's trials: record those that have ended, and rerun the others."""
        for trial in self.study.trials():
            run_dir = self.trials.folder / trial.user_attrs[RUN]
            if (run_dir / "run.json").exists():
                self._curve(run_dir, trial.number)
        for trial in self.study.open():
            run_dir = self.trials.folder / trial.user_attrs[RUN]
            if not (run_dir / "run.json").exists():
                made = self._made(trial.user_attrs[OVERRIDES], trial.number, run_dir)
                if made is not None:
                    self.variables[run_dir] = made.environment
                continue
            record = read_record(run_dir)
            self._trials[run_dir] = self._trial(run_dir, trial.number)
            if record.status == CANCELED or finalize.was_killed(record):
                finalize.requeue(run_dir, record)
            elif record.finished:
                self.ended(run_dir, record)
        runs = [trial.user_attrs[RUN] for trial in self.study.trials()]
        self.plan.runs = [run for run in runs if (self.trials.folder / run / "run.json").exists()]
        self.plan.write(self.trials.folder)

    # ---- the source of runs

    @property
    def is_open(self) -> bool:
        """Whether more trials may follow."""
        left = self.study.waiting() if not self.settings.sampler else 1
        return self._closed is None and bool(left) and self.study.counted() < self.budget

    @property
    def patience_s(self) -> float:
        """Maximum time between two looks at the trials; shorter with a policy, to stop bad trials soon."""
        return 0.5 if self._policy is None else 0.1

    def more(self) -> list[tuple[Path, Mapping[str, str]]]:
        """Create as many trials as there is room for; return their folders and environment variables."""
        begun: list[tuple[Path, Mapping[str, str]]] = []
        if not self._is_begun:
            self._is_begun = True
            # A run of an earlier controller may have ended since `begin`; nothing else would report it.
            for run_dir in list(self._trials):
                if (record := read_record(run_dir)).finished:
                    self.ended(run_dir, record)
        while self._closed is None and len(self._trials) < self.room and self.is_open:
            run = self._next_folder()
            untried = self._untried if self.settings.sampler else None
            pending = self.study.ask(self.trials.dimensions, run, untried)
            run_dir = self.trials.folder / run
            made = self._made(pending.overrides, pending.number, run_dir)
            if made is None:
                continue
            self.plan.runs.append(run)
            self.plan.write(self.trials.folder)
            begun.append((run_dir, made.environment))
        return begun

    def _next_folder(self) -> str:
        number = len(self.study.trials())
        while (self.trials.folder / str(number)).exists():
            number += 1
        return str(number)

    def _made(self, overrides: Sequence[str], number: int, run_dir: Path) -> FrozenJob | None:
        try:
            made = self.trials.job(overrides, int(run_dir.name))
        except ConfigError as error:
            why = "; ".join(error.problems)
            log.error("Trial %s cannot be run (%s): %s", run_dir.name, " ".join(overrides), why)
            self.study.fail(number, why)
            return None
        submit.write(made)
        self._trials[run_dir] = self._trial(run_dir, number)
        return made

    def _trial(self, run_dir: Path, number: int) -> _Trial:
        one = _Trial(number, run_dir, Reports(run_dir, number, self.objectives[0]))
        self._curves[number] = one.reports.curve
        return one

    def _curve(self, run_dir: Path, number: int) -> None:
        reports = Reports(run_dir, number, self.objectives[0])
        reports.read()
        reports.curve.running = False
        self._curves[number] = reports.curve

    def ended(self, run_dir: Path, record: Record) -> None:
        """Record the outcome of a trial in the study."""
        one = self._trials.pop(run_dir, None)
        if one is None:
            return
        one.reports.read()
        one.reports.curve.running = False
        if record.status == COMPLETED:
            self._record_result(one, record)
        elif record.status == STOPPED:
            self.study.stop(one.number, one.reports.values, record.reason)
        elif record.status == CANCELED:
            if self._closed is None:
                self.study.fail(one.number, SearchEnd.CANCELED, replaced=self.settings.replace_canceled)
        elif finalize.was_killed(record):  # the trial stays open, like a run of a grid
            log.warning("Trial %s: %s. sweep.resume=last retries it", run_dir.name, record.reason)
        else:
            self.study.fail(one.number, record.reason)
            self._check_failure(record)
        self._check_patience()

    def _check_failure(self, record: Record) -> None:
        """End a search whose data or configuration is unusable: every trial would fail in the same way.

        Errors of the run's own code may depend on its parameters, so the search continues after those.

        Raises:
            ConfigError: with the run's error message.
        """
        error = record.error or Failure()
        if error.is_labruns() and not self._is_measured and not any(trial.values for trial in self.study.trials()):
            raise ConfigError(error.message)

    def _record_result(self, one: _Trial, record: Record) -> None:
        values = objective.values(record)
        if values is not None:
            self._is_measured = True
            self.study.tell(one.number, values)
            self._check_stop_at(values[0])
            return
        missing = " and no ".join(o.metric for o in self.objectives if o.metric not in record.metrics)
        self.study.fail(one.number, f"it logged no {missing}")
        if self._is_measured or any(trial.values for trial in self.study.trials()):
            return
        logged = ", ".join(record.metrics) or "nothing"
        if record.typed.script is None:  # all trials of a model log the same metrics
            raise ConfigError(
                f"sweep.metric={self.objectives[0].metric}: run {record.id} completed but logged no such metric. "
                f"It logged: {logged}"
            )
        if not self._is_warned:
            self._is_warned = True
            log.warning(
                "Run %s logged no %s, so it is not ranked. It logged: %s. If this is true of all runs, stop the search "
                "(Ctrl-C) and set sweep.metric to a metric that they log",
                record.id,
                missing,
                logged,
            )

    def _check_stop_at(self, value: float) -> None:
        """End the search once a trial has reached `stop_at`."""
        limit, first = self.settings.stop_at, self.objectives[0]
        if limit is None or self._closed is not None or not first.score(value) >= first.score(float(limit)):
            return
        why = f"{first.metric}={value:.6g} has reached sweep.stop_at={limit:g}"
        log.info("%s: no more trials are started, and running ones are stopped", why)
        self._closed = SearchEnd.REACHED
        for one in self._trials.values():
            self._stop(one, why)

    def _check_patience(self) -> None:
        """Start no more trials once `patience` trials in a row have not improved on the best."""
        patience, score = self.settings.patience, self.objectives[0].score
        if patience is None or self._closed is not None:
            return
        scores = [score(trial.values[0]) if trial.values else -math.inf for trial in self.study.over()]
        if len(scores) < patience + self.settings.patience_from:
            return
        if max(scores[:-patience], default=-math.inf) >= max(scores[-patience:]) and max(scores) > -math.inf:
            log.info("%d trials in a row are no better (sweep.patience): no more trials are started", patience)
            self._closed = SearchEnd.PATIENCE

    def look(self) -> None:
        """Stop unpromising trials and those past their time limit; handle cancellation and the search's timeout."""
        for one in list(self._trials.values()):
            if one.stop is None:
                self._check_trial_timeout(one)
            if one.stop is None and self._policy is not None:
                one.reports.read()
                self._judge(one, self._policy)
        now = time.monotonic()
        if self._closed is None and takeover.is_canceled(self.trials.folder):
            log.info("Canceled: no more trials are started")
            self._closed = SearchEnd.CANCELED
        limit = self.settings.timeout_min
        if limit is not None and self._closed is None and self._elapsed_s() > 60 * limit:
            why = f"sweep.timeout_min={limit:g}"
            log.info("%s: no more trials are started, and running ones are stopped", why)
            self._closed = SearchEnd.TIMEOUT
            for one in self._trials.values():
                self._stop(one, why)
        if now >= self._next_clock:
            self._next_clock = now + CLOCK_S
            self._write_state()

    def _check_trial_timeout(self, one: _Trial) -> None:
        limit = self.settings.trial_timeout_min
        if limit is None:
            return
        if one.begun is None and RunPaths(one.run_dir).attempts.is_dir():
            one.begun = time.monotonic()
        if one.begun is not None and time.monotonic() - one.begun > 60 * limit:
            self._stop(one, f"sweep.trial_timeout_min={limit:g}")

    def _judge(self, one: _Trial, judge: Policy) -> None:
        others = [curve for number, curve in self._curves.items() if number != one.number and curve.scores]
        while one.reports.judged < len(one.reports.values):
            one.reports.judged += 1
            count = one.reports.judged
            if not judge.is_due(count):
                continue
            reason = judge.verdict(one.reports.curve, others, count, self.objectives[0].maximize)
            if reason is not None:
                value = one.reports.values[count - 1]
                metric = self.objectives[0].metric
                self._stop(one, f"{type(judge).__name__} at report {count} of {metric} ({value:.6g}): {reason}")
                return

    def _stop(self, one: _Trial, why: str) -> None:
        one.stop = why
        finalize.request(one.run_dir, why, Request.STOP)

    def close(self) -> None:
        """Start no more trials: too many have failed."""
        self._closed = SearchEnd.FAILURES

    def done(self) -> None:
        """Mark that the results are being written, so that readers see no gap after the last trial."""
        takeover.mark_ending(self.trials.folder)

    def rest(self) -> None:
        """Save the time used so far."""
        self._write_state()

    @property
    def is_canceled(self) -> bool:
        """Whether the search was canceled."""
        return self._closed is SearchEnd.CANCELED

    # ---- time

    def _elapsed_s(self) -> float:
        return self._used_s + time.monotonic() - self._began

    def _write_state(self) -> None:
        content = {**self._definition, "used_s": round(self._elapsed_s(), 1)}
        replace_text(self._state, json.dumps(content) + "\n", to_disk=False)


def _defining(fixed: Sequence[str]) -> list[str]:
    """Return the overrides that define what is searched, not how or where."""
    ways = ("sweep", "compute", "tracking", "hydra", "report", "notes", "tags", "name")
    return sorted(text for text in fixed if plain_key(text.partition("=")[0]).split(".")[0] not in ways)


def policy(settings: Sweep) -> Policy | None:
    """Build the early termination policy, if there is one.

    Raises:
        ConfigError: it cannot be built, or there are several metrics.
    """
    node = settings.early_termination
    if not node or "_target_" not in node:  # `none`: keys of the sweep file's own policy may be left over
        return None
    if isinstance(settings.metric, list) and len(settings.metric) > 1:
        raise ConfigError(
            "sweep.early_termination uses a single metric, but sweep.metric lists "
            f"{', '.join(settings.metric)}: leave one of the two out"
        )
    made = build(node, "sweep.early_termination")
    if not isinstance(made, Policy):
        raise ConfigError(
            f"sweep.early_termination._target_={node['_target_']!r} is not a labrun.search.policies.Policy"
        )
    return made


def room(settings: Sweep, plan: sweep_state.Plan, compute: Compute) -> int:
    """Return the number of concurrent trials: the smaller of the sweep's and the backend's limits."""
    wanted = settings.max_concurrent
    backend = registry.get(plan.target)
    allowed = backend.trials(wanted, plan, compute)
    if wanted is not None and wanted > allowed and compute.max_parallel is None and not backend.in_process:
        log.info(
            "%d at once: sweep.max_concurrent=%d, but there is room for %d; compute.max_parallel=%d raises the limit",
            allowed,
            wanted,
            allowed,
            wanted,
        )
    return allowed


def check_fresh(folder: Path) -> None:
    """Check that a new search's folder holds no runs yet.

    Raises:
        RecordError: it does.
    """
    if any(folder.glob("*/run.json")) or SweepState(folder).study.exists():
        raise RecordError(f"{folder} already holds a sweep; a new one needs its own folder, or sweep.resume=FOLDER")
