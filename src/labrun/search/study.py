"""The study: an Optuna study that records trials and results in an append-only journal in the sweep's folder.

Optuna writes the journal, so its own tools can read it. A trial's run folder is entered before the run exists.
Whatever is killed, the journal and the runs' records therefore show what was tried and with which result.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from labrun.config.instantiate import Node, build
from labrun.config.schema import Sweep
from labrun.errors import ConfigError, RecordError
from labrun.search.space import Choice, Combination, Dimension

log = logging.getLogger(__name__)

NAME = "labrun"
TRIALS = 20
"""Default trial budget."""
RUN, OVERRIDES, LABELS, REPLACED, WHY = "run", "overrides", "parameters", "replaced", "why"
"""User attributes of a trial in the journal: its run's folder, its overrides, its parameters for display, whether
another trial replaces it, and why it failed."""
ORIGIN = "learned_from"
"""User attribute of a trial from a previous search: its run's folder."""


ATTEMPTS = 8
"""Maximum number of requests to the sampler for an untried combination."""


@dataclass
class PendingTrial:
    """A trial to be run."""

    number: int
    """Number of the trial in the study; not the run's number in the sweep."""
    overrides: list[str]
    parameters: dict[str, Any] = field(default_factory=dict)


class NoLock:
    """No-op lock: the sweep's lease ensures that only one process writes the journal."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class Study:
    """Asks a sampler for trials, and records their results.

    Args:
        path: the journal; created if absent, continued otherwise.
        sampler: config node of the sampler, `_target_` and arguments; None: only enqueued trials are run.
        seed: seed of the sampler.
        maximize: for each metric, whether it is maximized.
        settings: names the keys of the search in messages.

    Raises:
        ConfigError: the sampler cannot be built, or the journal belongs to another search.
    """

    def __init__(
        self,
        path: Path,
        sampler: Node | None,
        seed: int,
        maximize: Sequence[bool],
        settings: type[Sweep] = Sweep,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        _cut_torn_line(path)
        backend: BaseJournalBackend = JournalFileBackend(str(path), lock_obj=NoLock())  # type: ignore[arg-type]
        directions: list[Any] = ["maximize" if one else "minimize" for one in maximize]
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(backend), study_name=NAME, directions=directions, load_if_exists=True
            )
        except Exception as error:  # a damaged journal can raise anything
            raise RecordError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        if [direction.name.lower() for direction in self._study.directions] != directions:
            raise ConfigError(f"{settings.key('goal')}: the search in {path.parent} is for other metrics or goals")
        # A restarted sampler with the same seed would propose the same trials again.
        seed += len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(sampler, seed, len(maximize), settings)

    @staticmethod
    def check(sampler: Node, metrics: int, settings: type[Sweep] = Sweep) -> None:
        """Check that a sampler can be built.

        Args:
            sampler: its config node, `_target_` and arguments.
            metrics: number of metrics of the search.
            settings: names the keys of the search in messages.

        Raises:
            ConfigError: it cannot.
        """
        _sampler(sampler, 0, metrics, settings)

    @property
    def optuna(self) -> optuna.Study:
        """The underlying Optuna study."""
        return self._study

    def trials(self) -> list[FrozenTrial]:
        """Return every trial that has a run, in the order of creation."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if RUN in trial.user_attrs]

    def counted(self) -> int:
        """Return the number of trials that count against the budget."""
        return sum(not trial.user_attrs.get(REPLACED) for trial in self.trials())

    def open(self) -> list[FrozenTrial]:
        """Return the trials that have a run but no result yet."""
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    def over(self) -> list[FrozenTrial]:
        """Return the finished trials, in the order in which they finished."""
        ended = [(trial.datetime_complete, trial) for trial in self.trials() if trial.datetime_complete is not None]
        return [trial for _, trial in sorted(ended, key=lambda pair: pair[0])]

    def close_without_run(self) -> None:
        """Close trials that a killed controller requested but gave no run: they were never tried."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and RUN not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def learn(self, previous: Sequence[tuple[str, FrozenTrial]]) -> int:
        """Give the sampler the trials of previous searches, which do not count as trials of this one.

        Args:
            previous: run folder and trial of each; see `labrun.search.previous.completed`.

        Returns:
            The number of trials that were new.
        """
        known = {trial.user_attrs.get(ORIGIN) for trial in self._study.get_trials(deepcopy=False)}
        new = [(origin, trial) for origin, trial in previous if origin not in known]
        for origin, trial in new:
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=list(trial.values),
                    user_attrs={ORIGIN: origin},
                )
            )
        return len(new)

    def enqueue(self, parameters: Combination) -> None:
        """Enqueue a combination, to be tried before any that the sampler proposes."""
        self._study.enqueue_trial(dict(parameters))

    def enqueue_missing(self, wanted: Sequence[Combination]) -> None:
        """Enqueue combinations that are neither enqueued nor have a run; a killed controller may have enqueued some."""
        known = {_key(parameters) for parameters in self._known()}
        for parameters in wanted:
            if _key(parameters) not in known:
                self.enqueue(parameters)

    def _known(self, replaced: bool = True) -> list[Combination]:
        """Return the parameters of every trial that is enqueued or has a run, optionally without replaced ones."""
        known: list[Combination] = []
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                known.append(dict(trial.system_attrs.get("fixed_params", {})))
            elif RUN in trial.user_attrs and (replaced or not trial.user_attrs.get(REPLACED)):
                known.append(dict(trial.user_attrs.get(LABELS, {})))
        return known

    def waiting(self) -> int:
        """Return the number of enqueued trials that have not been started."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def untried(self, wanted: Sequence[Combination]) -> list[Combination]:
        """Return the combinations that are neither tried nor enqueued."""
        tried = {_key(parameters) for parameters in self._known(replaced=False)}
        return [one for one in wanted if _key(one) not in tried]

    def ask(
        self,
        dimensions: Callable[[list[str]], Sequence[Dimension]],
        run: str,
        untried: Callable[[], Combination | None] | None = None,
    ) -> PendingTrial:
        """Return the next trial.

        Args:
            dimensions: returns the dimensions left to choose, given the overrides so far; called until there are none.
            run: the folder of the trial's run.
            untried: returns a replacement for a combination that was already tried; None: try it again.
        """
        trial, pending = self._suggested(dimensions)
        attempts = 0
        while untried is not None and attempts < ATTEMPTS and pending.overrides in self._tried():
            attempts += 1
            # The sampler may propose another one; on the last attempt, pick an untried one at random if possible.
            spare = untried() if attempts == ATTEMPTS else None
            self._study.tell(trial.number, state=TrialState.FAIL)
            if spare is not None:
                self.enqueue(spare)
            trial, pending = self._suggested(dimensions)
        trial.set_user_attr(LABELS, pending.parameters)
        trial.set_user_attr(OVERRIDES, pending.overrides)
        trial.set_user_attr(RUN, run)
        return pending

    def _tried(self) -> list[list[str]]:
        return [trial.user_attrs[OVERRIDES] for trial in self.trials() if not trial.user_attrs.get(REPLACED)]

    def _suggested(self, dimensions: Callable[[list[str]], Sequence[Dimension]]) -> tuple[Trial, PendingTrial]:
        trial = self._study.ask()
        pending = PendingTrial(trial.number, [])
        while more := dimensions(pending.overrides):
            for one in more:
                value = suggest(trial, one)
                pending.parameters[one.name] = value
                pending.overrides += one.overrides(value)
        return trial, pending

    def tell(self, number: int, values: Sequence[float]) -> bool:
        """Record the result of a completed trial; return False, and record a failure, if a value is not finite."""
        if not all(math.isfinite(value) for value in values):
            self.fail(number, "its metric is not a number")
            return False
        self._study.tell(number, [float(value) for value in values])
        return True

    def stop(self, number: int, reports: Sequence[float], why: str) -> None:
        """Record that a trial was stopped early; the sampler learns from its last finite report."""
        trial = optuna.Trial(self._study, self._id(number))
        finite = [(step, value) for step, value in enumerate(reports, start=1) if math.isfinite(value)]
        trial.set_user_attr(WHY, why)
        if not finite or len(self._study.directions) > 1:
            self._study.tell(number, state=TrialState.FAIL)
            return
        trial.report(finite[-1][1], finite[-1][0])
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, why: str, replaced: bool = False) -> None:
        """Record that a trial failed or was canceled.

        Args:
            number: the trial's number.
            why: the reason, in one line.
            replaced: do not count it against the budget, so that another trial replaces it.
        """
        trial = optuna.Trial(self._study, self._id(number))
        trial.set_user_attr(WHY, why)
        if replaced:
            trial.set_user_attr(REPLACED, True)
        self._study.tell(number, state=TrialState.FAIL)

    def _id(self, number: int) -> int:
        return int(self._study.get_trials(deepcopy=False)[number]._trial_id)


def _key(parameters: Combination) -> str:
    return repr(sorted((name, repr(value)) for name, value in parameters.items()))


def suggest(trial: optuna.Trial, one: Dimension) -> Any:
    """Let a trial suggest a value of one dimension."""
    spread = distribution(one)
    if isinstance(spread, CategoricalDistribution):
        return trial.suggest_categorical(one.name, spread.choices)
    if isinstance(spread, IntDistribution):
        return trial.suggest_int(one.name, spread.low, spread.high, step=spread.step, log=spread.log)
    assert isinstance(spread, FloatDistribution)
    return trial.suggest_float(one.name, spread.low, spread.high, step=spread.step, log=spread.log)


def distribution(one: Dimension) -> BaseDistribution:
    """Convert a dimension to Optuna's distribution."""
    if isinstance(one, Choice):
        return CategoricalDistribution(one.labels)
    if one.whole:
        step = 1 if one.log else int(one.step or 1)
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return FloatDistribution(one.low, one.high, log=one.log, step=None if one.log else one.step)


def sampler_arguments(name: str) -> set[str] | None:
    """Return the argument names of an Optuna sampler; None if this version has no sampler of that name."""
    made = getattr(optuna.samplers, name, None)
    return None if made is None else set(inspect.signature(made).parameters)


def _sampler(node: Node | None, seed: int, metrics: int, settings: type[Sweep]) -> optuna.samplers.BaseSampler:
    if node is None:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = build(node, settings.key("sampler"), seed=seed)
    if not isinstance(made, optuna.samplers.BaseSampler):
        raise ConfigError(f"{settings.key('sampler')}._target_={node['_target_']!r} is not an Optuna sampler")
    if metrics > 1 and isinstance(made, optuna.samplers.CmaEsSampler):
        raise ConfigError(
            f"{settings.choice('cmaes')} supports only one metric; choose {settings.choice('tpe')}, random, qmc or gp "
            "for several"
        )
    return made


def _cut_torn_line(path: Path) -> None:
    """Truncate a journal after its last complete line: a kill may leave a partial one, which Optuna cannot read."""
    try:
        with open(path, "rb+") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                file.truncate(end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
