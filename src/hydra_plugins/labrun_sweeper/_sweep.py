"""The sweeper's work: tells a plain grid, whose jobs Hydra makes, from a search."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf

from labrun.checking import check_fields
from labrun.errors import ConfigError, LabrunError
from labrun.schema import Sweep

if TYPE_CHECKING:
    from hydra_plugins.labrun_sweeper.sweeper import LabrunSweeper

SEARCHING = ("sampler", "max_trials", "max_concurrent", "timeout_min", "trial_timeout_min", "early_termination")
"""Keys of `sweep` that a plain grid has no use for."""


def settings_of(config: DictConfig) -> dict[str, Any] | None:
    """The config's `sweep`, checked; None in an application that is not labrun.

    Raises:
        ConfigError: with every mistake in it.
    """
    if OmegaConf.select(config, "hydra.callbacks.labrun._target_") != "labrun.app.Gate":
        return None
    from dataclasses import asdict

    plain = OmegaConf.to_container(config.sweep, resolve=True)
    assert isinstance(plain, dict)
    given = {str(key): value for key, value in plain.items()}
    problems = list(check_fields(given, Sweep, "sweep"))
    if problems:
        raise ConfigError(problems)
    return {**asdict(Sweep()), **given}


def sweep(sweeper: LabrunSweeper, arguments: Sequence[str]) -> Any:
    """See `LabrunSweeper.sweep`."""
    assert sweeper.config is not None
    try:
        settings = settings_of(sweeper.config)
        if settings is None:
            return sweeper.grid(arguments)
        return _own(sweeper, settings, list(arguments))
    except LabrunError as error:
        if os.environ.get("LABRUN_DEBUG") == "1":
            raise
        sys.stderr.write(f"labrun: {error}\n")
        sys.exit(2)


def _own(sweeper: LabrunSweeper, settings: dict[str, Any], arguments: list[str]) -> Any:
    from labrun.sweep import space as spaces

    master = sweeper.config
    assert master is not None and sweeper.hydra_context is not None and sweeper.launcher is not None
    if sweeper.max_batch_size is not None:
        raise ConfigError("hydra.sweeper.max_batch_size: how many runs go on at once is said with compute.max_parallel")
    loader = sweeper.hydra_context.config_loader
    texts = [f"{key}={spaces.as_text(value)}" for key, value in spaces.flat(settings["space"])]
    texts += [f"{key}={value}" for key, value in sweeper.params.items()]
    space = spaces.parse([*texts, *arguments], loader, settings["zip"], finite=settings["sampler"] is None)
    if not any(settings[key] for key in SEARCHING) and not isinstance(settings["metric"], list):
        return sweeper.launch(spaces.grid(space) if texts or settings["zip"] else _products(sweeper, arguments))
    if settings["sampler"] is None and not space.dimensions:
        raise ConfigError("sweep=grid: no key was given several values")
    folder = Path(str(master.hydra.sweep.dir)).resolve()
    from hydra_plugins.labrun_launcher._compose import Composer
    from labrun.launch import hydra_files
    from labrun.launch.objective import rank
    from labrun.launch.sweep import Submission
    from labrun.runs import record as records
    from labrun.sweep import conduct
    from labrun.sweep.trials import Trials

    setup_globals()
    configure_log(master.hydra.job_logging, master.hydra.verbose)
    _hold_files(loader)
    composer = Composer(loader, master, in_place=True)

    def compose(overrides: Sequence[str], number: int) -> DictConfig:
        try:
            config = composer.compose(overrides, number)
        except HydraException as error:
            from labrun import mistakes

            raise ConfigError(mistakes.explained(error, sys.argv[1:])) from error
        HydraConfig.instance().cfg = config  # type: ignore[assignment]
        return config

    with Submission(folder) as submission:
        trials = Trials(compose, loader, submission, space, folder, with_components=settings["sampler"] is not None)
        resumed = settings["resume"] is not None

        def prepare() -> None:
            if not resumed:
                hydra_files.save(hydra_files.texts(master, of_sweep=True), folder)

        found = conduct.run(trials, settings, sys.argv[1:], submission, resumed, prepare)
    failed = sum(record.status == records.FAILED for record in found)
    if failed:
        raise CompactHydraException(f"{failed} of {len(found)} runs failed; the table above names them")
    if found and not any(math.isfinite(rank(record)) for record in found):
        raise CompactHydraException("no trial has a result; the table above says why of each")
    return None


def _products(sweeper: LabrunSweeper, arguments: Sequence[str]) -> Sequence[Sequence[str]]:
    """The jobs of a plain grid, split and ordered by Hydra. Its sweeper would save variables of the runs, too."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert sweeper.hydra_context is not None
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    (jobs,) = sweeper.split_arguments(parser.parse_overrides(list(arguments)), None)
    return jobs


def _hold_files(loader: Any) -> None:
    """Read every config file now: a search composes until its end, and an edit meanwhile must change nothing."""
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra.core.object_type import ObjectType

    held = CachingConfigRepository(loader.repository)

    def hold(group: str) -> None:
        for name in held.get_group_options(group, results_filter=ObjectType.CONFIG):
            held.load_config(f"{group}/{name}" if group else name)
        for name in held.get_group_options(group, results_filter=ObjectType.GROUP):
            if not group and name == "hydra":
                continue
            hold(f"{group}/{name}" if group else name)

    hold("")
    loader.repository = held
