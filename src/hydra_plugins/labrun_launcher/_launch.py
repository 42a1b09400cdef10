"""Implementation of the launcher: compose all jobs, then run them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from labrun.compose.paths import PREFLIGHT
from labrun.errors import ConfigError
from labrun.submission.composer import Composer
from labrun.user_errors import UserErrors

if TYPE_CHECKING:
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher
    from labrun.submission.plain_app.jobs import Application, Jobs


def launch(launcher: LabrunLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Run one job per list of overrides; see `LabrunLauncher.launch`."""
    assert launcher.config is not None
    if OmegaConf.select(launcher.config, "hydra.callbacks.labrun._target_") == PREFLIGHT:
        return _own(launcher, job_overrides, first)
    app = application(launcher)
    composer = Composer(app.prepare(), app.config)
    composed = {number: composer.compose(overrides, number) for number, overrides in enumerate(job_overrides, first)}
    with jobs_of(launcher) as jobs:
        return jobs.run(composed)


def application(launcher: LabrunLauncher) -> Application:
    """Return the plain application that a launcher runs.

    Args:
        launcher: the launcher, after `setup`.
    """
    from labrun.submission.plain_app.jobs import Application

    context, function, config = launcher.hydra_context, launcher.task_function, launcher.config
    assert context is not None and function is not None and config is not None
    return Application(context, function, config)


def jobs_of(launcher: LabrunLauncher, shows_all: bool = False) -> Jobs:
    """Return what runs the jobs of a plain application; see `Jobs`.

    Args:
        launcher: the launcher, after `setup`.
        shows_all: see `Jobs`.

    Raises:
        CompactHydraException: a setting of `hydra.launcher` is invalid or not available.
    """
    from hydra_plugins.labrun_launcher._settings import checked
    from labrun.submission.plain_app.jobs import Jobs

    compute, shows_output = checked(launcher.settings)
    return Jobs(application(launcher), compute, shows_output, shows_all)


def _own(launcher: LabrunLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    master = launcher.config
    assert master is not None and launcher.hydra_context is not None
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    composer = Composer(launcher.hydra_context.config_loader, master, in_place=True)

    from hydra_plugins.labrun_launcher._settings import check_no_launcher_settings
    from labrun.compose import hydra_files, hydra_job
    from labrun.control.results import failure
    from labrun.runs.record import COMPLETED
    from labrun.submission import submit
    from labrun.submission.freeze_jobs import freeze_jobs

    def save_config() -> None:
        if OmegaConf.select(master, "sweep.resume") is None:
            hydra_files.save(hydra_files.texts(master, of_sweep=True), sweep_dir)

    with UserErrors():
        check_no_launcher_settings(launcher.settings)
        for key in ("sampler", "early_termination"):
            if OmegaConf.select(master, f"sweep.{key}"):  # labrun's own sweeper would have searched
                raise ConfigError(f"sweep.{key}: only hydra/sweeper=labrun searches; leave hydra/sweeper out")
        sweep_dir = Path(str(master.hydra.sweep.dir)).resolve()
        with submit.Freezer(sweep_dir) as freezer:
            jobs = freeze_jobs(freezer, composer, job_overrides, first)
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
