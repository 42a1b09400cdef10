"""Implementation of the sweeper: run a plain grid, whose jobs Hydra generates, or a search."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import CompactHydraException, HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from labrun.compose.paths import PREFLIGHT
from labrun.config.checking import check_fields
from labrun.config.schema import Sweep
from labrun.errors import ConfigError
from labrun.user_errors import UserErrors

if TYPE_CHECKING:
    from hydra_plugins.labrun_sweeper.sweeper import LabrunSweeper

SEARCHING = ("sampler", "max_trials", "max_concurrent", "timeout_min", "trial_timeout_min", "early_termination")
"""Keys of `sweep` that a plain grid does not use."""


NUMBERED = ("${hydra.job.num}", "${hydra.job.id}", "${hydra:job.num}", "${hydra:job.id}")
"""Values allowed for `hydra.sweep.subdir` in a search."""


def settings_of(config: DictConfig) -> Sweep | None:
    """Return the checked `sweep` node of a config; None in an application other than labrun.

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
            return _foreign(sweeper, list(arguments))
        _check_settings(sweeper)
        return _own(sweeper, settings, list(arguments))


def _foreign(sweeper: LabrunSweeper, arguments: list[str]) -> Any:
    """Run a search, or Hydra's own grid, of an application other than labrun."""
    from hydra_plugins.labrun_sweeper import _search

    found = _search.settings_of(sweeper, arguments)
    if found is not None:
        _search.Search(sweeper, *found).run()
        return None
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


def _check_settings(sweeper: LabrunSweeper) -> None:
    """Check that labrun's own runs set nothing in `hydra.sweeper`, because `sweep` replaces it.

    Raises:
        ConfigError: a key of `hydra.sweeper` is set; the message gives its replacement.
    """
    from hydra_plugins.labrun_sweeper import _sweeper_translation
    from hydra_plugins.labrun_sweeper._nodes import NODE

    other = _sweeper_translation.detect_sweeper(sweeper.settings)
    if other is not None:
        found = _sweeper_translation.translate(other, sweeper.settings, sweeper.params, sweeper.max_batch_size)
        lines = [
            f"hydra/sweeper={other} is not used for labrun's own runs, which have their own searches: sweep=tpe "
            "(random, gp, cmaes, qmc), with sweep.max_trials, sweep.goal, sweep.seed (or sweep.sampler.seed) and "
            "sweep.space. Instead of these settings, use:",
            f"  labrun -m {' '.join(found.in_sweep())}",
            "in a YAML: 'override /sweep: tpe' in its defaults, not hydra/sweeper, and these keys under sweep",
        ]
        raise ConfigError("\n".join([*lines, *(f"  left out: {why}" for why in (*found.remarks, *found.refused))]))
    changed = [key for key, value in sweeper.settings.items() if value != NODE.get(key, value)]
    if changed:
        raise ConfigError([f"hydra.sweeper.{key}: labrun's own runs are searched with sweep.{key}" for key in changed])


def _check_launcher(sweeper: LabrunSweeper) -> None:
    """Check that a search of labrun's own runs uses labrun's launcher, without settings in `hydra.launcher`.

    Raises:
        ConfigError: it does not.
    """
    from hydra_plugins.labrun_launcher._launch import check_settings
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher

    if not isinstance(sweeper.launcher, LabrunLauncher):
        name = type(sweeper.launcher).__name__
        raise ConfigError(
            f"hydra/launcher ({name}): a search of labrun's own runs uses labrun's launcher: leave it out"
        )
    check_settings(sweeper.launcher)


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
    folder = Path(str(master.hydra.sweep.dir)).resolve()
    subdir = str(OmegaConf.to_container(master.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
    if subdir not in NUMBERED:
        raise ConfigError(f"hydra.sweep.subdir={subdir}: a search numbers the folders of its runs; leave it out")
    from hydra_plugins.labrun_launcher._compose import Composer, options
    from labrun.compose import hydra_files, hydra_job
    from labrun.control.objective import rank
    from labrun.runs.record import FAILED
    from labrun.search import command
    from labrun.search.trials import Trials
    from labrun.submission import once
    from labrun.submission.submit import Freezer

    setup_globals()
    hydra_job.configure_own_log(master.hydra)
    # A search composes until its end: edits meanwhile must have no effect.
    loader.repository = HeldFiles(loader.repository)
    composer = Composer(loader, master, in_place=True)

    def compose(overrides: Sequence[str], number: int) -> DictConfig:
        try:
            config = composer.compose(overrides, number)
        except HydraException as error:
            from labrun import mistakes

            raise ConfigError(mistakes.explained(error, sys.argv[1:])) from error
        HydraConfig.instance().cfg = config  # type: ignore[assignment]
        once.check(master, config)
        return config

    with Freezer(folder) as freezer:
        trials = Trials(compose, loader, freezer, space, folder, with_components=settings.sampler is not None)
        trials.is_chosen = lambda group: bool(options(loader, master, group))
        trials.origin = hydra_files.origin(master.hydra, _searches_itself(loader, master))
        resumed = settings.resume is not None

        def prepare() -> None:
            if not resumed:
                hydra_files.save(hydra_files.texts(master, of_sweep=True), folder)

        found = command.run(trials, settings, sys.argv[1:], freezer, resumed, prepare)
    failed = sum(record.status == FAILED for record in found)
    if failed:
        raise CompactHydraException(f"{failed} of {len(found)} runs failed; the table above names them")
    if found and not any(math.isfinite(rank(record)) for record in found):
        raise CompactHydraException(_without_result(found))
    return None


def _without_result(found: Sequence[Any]) -> str:
    """Return a message about why a search has no result although no run failed."""
    metrics = found[0].typed.sweep.metric
    wanted = [metrics] if isinstance(metrics, str) else list(metrics)
    missing = [name for name in wanted if not any(name in record.metrics for record in found)]
    if not missing:
        return "no trial has a result; the table above gives the reasons"
    logged = sorted({name for record in found for name in record.metrics})
    return (
        f"no trial has a result: none logged {' or '.join(missing)}. sweep.metric is one of what they log: "
        f"{', '.join(logged) or 'nothing'}"
    )


def _searches_itself(loader: Any, master: DictConfig) -> bool:
    """Whether the sweep's primary config sets `hydra.searchpath`, so that no other file can build on it."""
    found = loader.repository.load_config(master.hydra.job.config_name)
    return found is not None and OmegaConf.select(found.config, "hydra.searchpath") is not None


def _products(sweeper: LabrunSweeper, arguments: Sequence[str]) -> Sequence[Sequence[str]]:
    """Return the jobs of a plain grid as Hydra splits and orders them, but without saving the runs' variables."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    (jobs,) = sweeper.split_arguments(parser.parse_overrides(list(arguments)), None)
    return jobs


class HeldFiles(CachingConfigRepository):
    """Every config file as it is now.

    Hydra copies its repository for each composition and each look-up of a group. Copies share the files, and each load
    of a file returns a config of its own.
    """

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._held: dict[str, ConfigResult | None] = {}
        self._hold("")

    def _hold(self, group: str) -> None:
        for name in self.get_group_options(group, results_filter=ObjectType.CONFIG):
            path = f"{group}/{name}" if group else name
            self._held[path] = self.delegate.load_config(path)
        for name in self.get_group_options(group, results_filter=ObjectType.GROUP):
            if group or name != "hydra":
                self._hold(f"{group}/{name}" if group else name)

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path in self._held:
            return copy.deepcopy(self._held[config_path])
        return super().load_config(config_path)

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldFiles:
        copied = copy.copy(self)
        copied.delegate, copied.cache = copy.deepcopy(self.delegate, memo), copy.deepcopy(self.cache, memo)
        return copied
