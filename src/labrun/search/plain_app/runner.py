"""Runs the trials of a search: concurrently with labrun's jobs, or in batches with another launcher."""

from __future__ import annotations

import logging
import math
import shlex
import sys
from collections.abc import Callable

from hydra.core.utils import JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from labrun.search.plain_app.search import AppSearch
from labrun.submission.composer import Composer
from labrun.submission.plain_app.job import trace_of
from labrun.submission.plain_app.jobs import Application, Jobs
from labrun.user_errors import EXIT_CANCELED

log = logging.getLogger(__name__)


def run(search: AppSearch, config: DictConfig, run_trials: Callable[[AppSearch], None]) -> None:
    """Search to the end.

    Args:
        search: the search.
        config: config of the sweep, which is saved.
        run_trials: runs every trial of the search: `at_once` or `in_batches`.

    Raises:
        CompactHydraException: see `AppSearch.tell` and `AppSearch.finish`.
        SystemExit: after Ctrl-C (130).
    """
    search.folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, search.folder / "multirun.yaml")
    try:
        run_trials(search)
    except (KeyboardInterrupt, SystemExit) as end:
        if search.can_resume and (isinstance(end, KeyboardInterrupt) or end.code == EXIT_CANCELED):
            where = shlex.quote(f"hydra.sweep.dir={search.folder}")
            sys.stderr.write(f"labrun: {where} hydra.sweeper.resume=true resumes the search\n")
        raise SystemExit(EXIT_CANCELED if isinstance(end, KeyboardInterrupt) else end.code) from None
    search.finish()


def at_once(search: AppSearch, application: Application, make_jobs: Callable[[], Jobs]) -> None:
    """Run trials concurrently, starting the next one whenever one ends.

    Args:
        search: the search.
        application: the application.
        make_jobs: returns what runs its jobs; called once the sweep folder exists.
    """
    composer = Composer(application.prepare(), application.config)
    with make_jobs() as jobs:
        room = min(jobs.room, search.settings.max_concurrent or jobs.room)
        trials = f"{search.left:.0f} trials" if math.isfinite(search.left) else "all combinations"
        log.info("Searching: %s, %d at once, in %s", trials, room, search.folder)
        while True:
            while search.running < room and (asked := search.ask()) is not None:
                number, overrides = asked
                jobs.submit({number: composer.compose(overrides, number)})
            if not jobs.busy:
                return
            for number, result in jobs.ended().items():
                search.tell(number, result)


def in_batches(search: AppSearch, launcher: Launcher) -> None:
    """Run trials in batches with another launcher, which waits for all jobs of a batch."""
    while True:
        batch: dict[int, list[str]] = {}
        while len(batch) < (search.settings.max_concurrent or 1) and (asked := search.ask()) is not None:
            batch[asked[0]] = asked[1]
        if not batch:
            return
        first = min(batch)
        try:
            results = launcher.launch(list(batch.values()), initial_job_idx=first)
        except SystemExit as end:
            if end.code == EXIT_CANCELED:
                raise
            raise CompactHydraException(
                f"labrun: job {first} ended the whole process with sys.exit({'' if end.code is None else end.code})"
                ", so the search ends: return a number instead; hydra/launcher=labrun has a process for each job"
            ) from end
        for number, result in zip(batch, results, strict=True):
            if result.status == JobStatus.FAILED:
                sys.stderr.write(f"{trace_of(result._return_value)}\n")
            search.tell(number, result)
