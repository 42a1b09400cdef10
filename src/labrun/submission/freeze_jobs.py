"""Freezes every job of a sweep before the first one starts, and reports all mistakes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException

from labrun.compose import hydra_files
from labrun.errors import ConfigError, LabrunError
from labrun.submission import submit, sweep_settings
from labrun.submission.composer import Composer
from labrun.submission.fork_map import fork_map


@dataclass
class _Part:
    """Result of freezing some of a sweep's runs."""

    jobs: list[submit.FrozenJob] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Mistakes, as pairs of message and run."""
    not_composed: list[HydraException] = field(default_factory=list)
    """Hydra's errors for runs that cannot be composed."""


def freeze_jobs(
    freezer: submit.Freezer, composer: Composer, job_overrides: Sequence[Sequence[str]], first: int
) -> list[submit.FrozenJob]:
    """Compose and freeze jobs, several at a time in forks of this process.

    Args:
        freezer: freezes the jobs.
        composer: composes them; must work in place.
        job_overrides: the overrides of each job.
        first: number of the first job in the sweep.

    Raises:
        ConfigError: mistakes in some runs.
        HydraException: no run can be composed.
    """

    def work(some: Sequence[tuple[int, Sequence[str]]]) -> _Part:
        return _part(freezer, composer, some, first)

    numbered = list(enumerate(job_overrides, start=first))
    # The first job starts the pool's server; the others are derived from it.
    parts = [work(numbered[:1])]
    rest = numbered[1:]
    parts += fork_map(rest, work, freezer.state) if parts[0].jobs else [work(rest)]
    not_composed = [error for part in parts for error in part.not_composed]
    if not_composed and len(not_composed) == len(job_overrides):
        raise not_composed[0]  # the mistake is in the command itself, so Hydra's error is clearer
    problems: dict[str, list[str]] = {}
    for problem, run in (pair for part in parts for pair in part.problems):
        problems.setdefault(problem, []).append(run)
    if problems:
        raise ConfigError([f"{_listed(runs)}: {problem}" for problem, runs in problems.items()])
    return [job for part in parts for job in part.jobs]


def _listed(runs: Sequence[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


def _part(freezer: submit.Freezer, composer: Composer, some: Sequence[tuple[int, Sequence[str]]], first: int) -> _Part:
    part = _Part()
    for number, overrides in some:
        try:
            config = composer.compose(overrides, number)
            # like `set_config`, but without a copy
            HydraConfig.instance().cfg = config  # type: ignore[assignment]
            sweep_settings.check_composed(composer.master, config)
            part.jobs.append(freezer.freeze(config))
        except (LabrunError, HydraException) as raised:
            error: Exception = raised
            if isinstance(raised, HydraException):
                part.not_composed.append(raised)
                error = composer.refusal(raised, overrides)
            typed = hydra_files.hide_environment(filter_overrides(overrides))
            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            part.problems += [(problem, f"run {number - first} ({', '.join(typed)})") for problem in problems]
    return part
