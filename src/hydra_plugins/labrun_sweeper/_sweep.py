"""Implementation of the sweeper: run a plain grid, whose jobs Hydra generates, or a search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.labrun_sweeper._settings import check_no_sweeper_settings, search_settings
from labrun.compose.paths import PREFLIGHT
from labrun.config.checking import check_fields
from labrun.config.schema import Sweep
from labrun.errors import ConfigError
from labrun.user_errors import UserErrors

if TYPE_CHECKING:
    from hydra_plugins.labrun_sweeper.sweeper import LabrunSweeper
    from labrun.search.plain_app.settings import Settings

SEARCHING = ("sampler", "max_trials", "max_concurrent", "timeout_min", "trial_timeout_min", "early_termination")
"""Keys of `sweep` that a plain grid does not use."""


def settings_of(config: DictConfig) -> Sweep | None:
    """Return the checked `sweep` node of a config; None in a plain Hydra application.

    Raises:
        ConfigError: lists every mistake in the node.
    """
    if OmegaConf.select(config, "hydra.callbacks.labrun._target_") != PREFLIGHT:
        return None
    plain = OmegaConf.to_container(config.sweep, resolve=True)
    assert isinstance(plain, dict)
    given = {str(key): value for key, value in plain.items()}
    problems = list(check_fields(given, Sweep, "sweep"))
    if problems:
        raise ConfigError(problems)
    return Sweep(**given)


def sweep(sweeper: LabrunSweeper, arguments: Sequence[str]) -> Any:
    """Run a sweep or search; see `LabrunSweeper.sweep`."""
    assert sweeper.config is not None
    with UserErrors():
        settings = settings_of(sweeper.config)
        if settings is None:
            return _plain(sweeper, list(arguments))
        check_no_sweeper_settings(sweeper)
        return _own(sweeper, settings, list(arguments))


def _plain(sweeper: LabrunSweeper, arguments: list[str]) -> Any:
    """Run a search, or Hydra's own grid, of a plain Hydra application."""
    found = search_settings(sweeper, arguments)
    if found is not None:
        return _search_plain(sweeper, *found)
    try:
        return sweeper.grid(arguments)
    except HydraException as error:
        given = [*(f"{key}={value}" for key, value in sweeper.params.items()), *arguments]
        if not any(one.is_interval_sweep() for one in OverridesParser.create().parse_overrides(given)):
            raise
        raise ConfigError(
            "an interval has infinitely many values, and a grid tries every one. Give a list or a range(), or search: "
            "hydra.sweeper.sampler=tpe (random, gp, cmaes, qmc)"
        ) from error


def _search_plain(sweeper: LabrunSweeper, settings: Settings, texts: Sequence[str]) -> None:
    from hydra_plugins.labrun_launcher._launch import application, jobs_of
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher  # Hydra may have re-executed the module
    from labrun.search.plain_app import runner
    from labrun.search.plain_app.search import AppSearch

    config, launcher = sweeper.config, sweeper.launcher
    assert config is not None and sweeper.hydra_context is not None and launcher is not None
    folder = Path(str(config.hydra.sweep.dir)).resolve()
    search = AppSearch(folder, settings, texts, sweeper.hydra_context.config_loader)
    if isinstance(launcher, LabrunLauncher):
        app, jobs = application(launcher), partial(jobs_of, launcher, shows_all=True)
        runner.run(search, config, partial(runner.at_once, application=app, make_jobs=jobs))
    else:
        runner.run(search, config, partial(runner.in_batches, launcher=launcher))


def _check_launcher(sweeper: LabrunSweeper) -> None:
    """Check that a search of labrun's own runs uses labrun's launcher, without settings in `hydra.launcher`.

    Raises:
        ConfigError: it does not.
    """
    from hydra_plugins.labrun_launcher._settings import check_no_launcher_settings
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher

    if not isinstance(sweeper.launcher, LabrunLauncher):
        name = type(sweeper.launcher).__name__
        raise ConfigError(
            f"hydra/launcher ({name}): a search of labrun's own runs uses labrun's launcher: leave it out"
        )
    check_no_launcher_settings(sweeper.launcher.settings)


def _own(sweeper: LabrunSweeper, settings: Sweep, arguments: list[str]) -> Any:
    from labrun.search.space import as_text, flattened, grid_overrides, parse_space

    master = sweeper.config
    assert master is not None and sweeper.hydra_context is not None and sweeper.launcher is not None
    if sweeper.max_batch_size is not None:
        raise ConfigError("hydra.sweeper.max_batch_size: the number of concurrent runs is compute.max_parallel")
    loader: Any = sweeper.hydra_context.config_loader
    texts = [f"{key}={as_text(value)}" for key, value in flattened(settings.space)]
    texts += [f"{key}={value}" for key, value in sweeper.params.items()]
    space = parse_space([*texts, *arguments], loader, settings.zip, finite=settings.sampler is None)
    if not any(getattr(settings, key) for key in SEARCHING) and not isinstance(settings.metric, list):
        return sweeper.launch(grid_overrides(space) if texts or settings.zip else _products(sweeper, arguments))
    _check_launcher(sweeper)
    if settings.sampler is None and not space.dimensions:
        raise ConfigError("sweep=grid: no key was given several values")
    from labrun.search import from_config

    return from_config.search(master, settings, space, loader)


def _products(sweeper: LabrunSweeper, arguments: Sequence[str]) -> Sequence[Sequence[str]]:
    """Return the jobs of a plain grid as Hydra splits and orders them, but without saving the runs' variables."""
    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    (jobs,) = sweeper.split_arguments(parser.parse_overrides(list(arguments)), None)
    return jobs
