"""Implementation of the launcher: compose all jobs, then run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.errors import CompactHydraException, HydraException
from omegaconf import OmegaConf

from hydra_plugins.labrun_launcher._compose import Composer
from hydra_plugins.labrun_launcher._node import NODE
from labrun.compose.paths import PREFLIGHT
from labrun.errors import ConfigError, LabrunError
from labrun.user_errors import UserErrors

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader

    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher
    from labrun.submission import submit


def launch(launcher: LabrunLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run one job per list of overrides; see `LabrunLauncher.launch`."""
    config = launcher.config
    assert config is not None and launcher.hydra_context is not None
    if OmegaConf.select(config, "hydra.callbacks.labrun._target_") == PREFLIGHT:
        setup_globals()
        configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        composer = Composer(launcher.hydra_context.config_loader, config, in_place=True)
        return _own(launcher, composer, job_overrides, first)
    from hydra_plugins.labrun_launcher._foreign import launch_foreign

    loader = prepare(launcher)
    composer = Composer(loader, config)
    composed = [composer.compose(overrides, number) for number, overrides in enumerate(job_overrides, start=first)]
    return launch_foreign(launcher, composed, first)


def prepare(launcher: LabrunLauncher) -> ConfigLoader:
    """Create the sweep folder of an application, and return the loader to compose its jobs."""
    config = launcher.config
    assert config is not None and launcher.hydra_context is not None
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    sweep_dir = Path(str(config.hydra.sweep.dir))
    sweep_dir.mkdir(parents=True, exist_ok=True)
    if OmegaConf.select(config, "hydra.sweep.mode") is not None:
        sweep_dir.chmod(int(str(config.hydra.sweep.mode), 8))
    return launcher.hydra_context.config_loader


def check_settings(launcher: LabrunLauncher) -> None:
    """Check that labrun's own runs set nothing in `hydra.launcher`, because `compute` replaces it.

    Raises:
        ConfigError: a key of `hydra.launcher` is set.
    """
    for key, value in launcher.settings.items():
        if value != NODE[key] and key == "show_output":
            raise ConfigError("hydra.launcher.show_output is for other applications; lab runs logs -f shows a run's")
        if value != NODE[key]:
            raise ConfigError(f"hydra.launcher.{key}={value}: labrun's own runs are configured with compute.{key}")


def _own(
    launcher: LabrunLauncher, composer: Composer, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    from labrun.compose import hydra_files, hydra_job
    from labrun.control.results import failure
    from labrun.runs.record import COMPLETED
    from labrun.submission import submit

    assert launcher.config is not None
    with UserErrors():
        check_settings(launcher)
        for key in ("sampler", "early_termination"):
            if OmegaConf.select(launcher.config, f"sweep.{key}"):  # labrun's own sweeper would have searched
                raise ConfigError(f"sweep.{key}: only hydra/sweeper=labrun searches; leave hydra/sweeper out")
        sweep_dir = Path(str(launcher.config.hydra.sweep.dir)).resolve()
        with submit.Freezer(sweep_dir) as freezer:
            jobs = _frozen(freezer, composer, job_overrides, first)
            master = launcher.config

            def save_config() -> None:
                if OmegaConf.select(master, "sweep.resume") is None:
                    hydra_files.save(hydra_files.texts(master, of_sweep=True), sweep_dir)

            hydra_job.configure_own_log(master.hydra)
            records = submit.execute_jobs(jobs, sweep_dir, freezer.head, save_config)
    results = []
    for overrides, record in zip(job_overrides, records, strict=True):
        result = JobReturn()
        result.overrides = hydra_files.hide_environment(filter_overrides(overrides))  # Hydra prints them
        on_its_way = record.typed.compute.detach and not record.finished
        fine = record.status == COMPLETED or on_its_way
        result.status = JobStatus.COMPLETED if fine else JobStatus.FAILED
        result.return_value = record.metrics if fine else failure(record)
        results.append(result)
    failed = [result for result in results if result.status == JobStatus.FAILED]
    if failed:
        # Hydra's sweeper raises the first failure, with this text and without a traceback.
        message = f"{len(failed)} of {len(records)} runs did not complete; the table above names them"
        for result in failed:
            result.return_value = CompactHydraException(message)
    return results


def _of(runs: Sequence[str]) -> str:
    return runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


@dataclass
class _Part:
    """Result of freezing some of a sweep's runs."""

    jobs: list[submit.FrozenJob] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Mistakes, as pairs of message and run."""
    not_composed: list[HydraException] = field(default_factory=list)
    """Hydra's errors for runs that cannot be composed."""


def _frozen(
    freezer: submit.Freezer, composer: Composer, job_overrides: Sequence[Sequence[str]], first: int
) -> list[submit.FrozenJob]:
    """Freeze every job before the first one starts; report all mistakes together.

    Raises:
        ConfigError: mistakes in some runs.
        HydraException: no run can be composed.
    """
    from labrun.submission.fork_map import fork_map

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
        raise ConfigError([f"{_of(runs)}: {problem}" for problem, runs in problems.items()])
    return [job for part in parts for job in part.jobs]


def _part(freezer: submit.Freezer, composer: Composer, some: Sequence[tuple[int, Sequence[str]]], first: int) -> _Part:
    from labrun.compose import hydra_files
    from labrun.submission import once

    part = _Part()
    for number, overrides in some:
        try:
            config = composer.compose(overrides, number)
            # like `set_config`, but without a copy
            HydraConfig.instance().cfg = config  # type: ignore[assignment]
            once.check(composer.master, config)
            part.jobs.append(freezer.freeze(config))
        except (LabrunError, HydraException) as raised:
            error: Exception = raised
            if isinstance(raised, HydraException):
                part.not_composed.append(raised)
                error = composer.refusal(raised, overrides)
            typed = hydra_files.hide_environment(filter_overrides(overrides))
            part.problems.append((str(error), f"run {number - first} ({', '.join(typed)})"))
    return part
