"""Previous searches that a search learns from: `sweep.learn_from`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from labrun.config.schema import Sweep
from labrun.errors import ConfigError
from labrun.runs import context
from labrun.runs.sweep_state import SweepState
from labrun.search.space import Dimension
from labrun.search.study import NAME, RUN, NoLock, distribution


def folders(settings: Sweep) -> list[Path]:
    """Return the folders of the previous searches."""
    return [Path(str(one)).expanduser().resolve() for one in settings.learn_from]


def check(settings: Sweep, dimensions: Sequence[Dimension], metrics: Sequence[str]) -> None:
    """Check that a search can learn from the previous searches in its settings.

    Raises:
        ConfigError: a folder holds no search, or its search had another space or other metrics.
    """
    for folder in folders(settings):
        if settings.sampler is None:
            raise ConfigError("sweep.learn_from: a grid tries every combination and cannot learn; choose sweep=tpe")
        completed(folder, dimensions)
        try:
            then = json.loads(context.content(SweepState(folder).search)).get("metric")
        except (OSError, ValueError, AttributeError):
            then = None
        if then != list(metrics):
            other = ", ".join(map(str, then or ["another metric"]))
            raise ConfigError(
                f"sweep.learn_from={folder}: that search was for {other}, but this one is for {', '.join(metrics)}"
            )


def completed(folder: Path, dimensions: Sequence[Dimension]) -> list[tuple[str, FrozenTrial]]:
    """Return the completed trials of a previous search, each with its run's folder.

    Args:
        folder: folder of the previous search.
        dimensions: the dimensions of this search.

    Raises:
        ConfigError: the folder holds no search, or one over another space.
    """
    key, path = f"sweep.learn_from={folder}", SweepState(folder).study
    if not path.is_file():
        raise ConfigError(f"{key}: there is no search. Give the folder that a search prints in its last line")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend: BaseJournalBackend = JournalFileBackend(str(path), lock_obj=NoLock())  # type: ignore[arg-type]
    try:
        trials = optuna.load_study(study_name=NAME, storage=JournalStorage(backend)).get_trials(deepcopy=False)
    except Exception as error:  # a damaged journal can raise anything
        raise ConfigError(f"{key}: its journal cannot be read: {type(error).__name__}: {error}") from error
    wanted = {one.name: distribution(one) for one in dimensions}
    found = []
    for trial in trials:
        if trial.state != TrialState.COMPLETE or RUN not in trial.user_attrs:
            continue
        if trial.distributions != wanted:
            differing = sorted(
                name for name in {*wanted, *trial.distributions} if wanted.get(name) != trial.distributions.get(name)
            )
            raise ConfigError(
                f"{key}: that search varied other keys, or within other bounds ({', '.join(differing)}); a search can "
                "only learn from others over the same space"
            )
        found.append((str(folder / trial.user_attrs[RUN]), trial))
    return found
