"""Searches as a sweep's config describes it: the trials are composed from it until the search ends."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig, OmegaConf

from labrun.compose import hydra_files, hydra_job
from labrun.compose.config_snapshot import ConfigSnapshot
from labrun.config.schema import Sweep
from labrun.control.objective import rank
from labrun.errors import ConfigError
from labrun.runs.record import FAILED, Record
from labrun.search import command
from labrun.search.space import Space
from labrun.search.trials import Trials
from labrun.submission import sweep_settings
from labrun.submission.composer import Composer, options
from labrun.submission.submit import Freezer

NUMBERED = ("${hydra.job.num}", "${hydra.job.id}", "${hydra:job.num}", "${hydra:job.id}")
"""Values allowed for `hydra.sweep.subdir` in a search."""


def search(master: DictConfig, settings: Sweep, space: Space, loader: Any) -> None:
    """Search to the end.

    Args:
        master: config of the sweep.
        settings: its `sweep`, after it was checked.
        space: the search space.
        loader: Hydra's config loader; from now on it ignores edits of config files.

    Raises:
        ConfigError, DataError, RecordError: user mistakes; nothing has run then.
        CompactHydraException: runs failed, or there is no result.
        SystemExit: after Ctrl-C (130).
    """
    folder = Path(str(master.hydra.sweep.dir)).resolve()
    subdir = str(OmegaConf.to_container(master.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
    if subdir not in NUMBERED:
        raise ConfigError(f"hydra.sweep.subdir={subdir}: a search numbers the folders of its runs; leave it out")
    setup_globals()
    hydra_job.configure_own_log(master.hydra)
    # A search composes until its end: edits meanwhile must have no effect.
    loader.repository = ConfigSnapshot(loader.repository)
    composer = Composer(loader, master, in_place=True)

    def compose(overrides: Sequence[str], number: int) -> DictConfig:
        try:
            config = composer.compose(overrides, number)
        except HydraException as error:
            from labrun import mistakes

            raise ConfigError(mistakes.explained(error, sys.argv[1:])) from error
        HydraConfig.instance().cfg = config  # type: ignore[assignment]
        sweep_settings.check_composed(master, config)
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


def _without_result(found: Sequence[Record]) -> str:
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
