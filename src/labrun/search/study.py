"""The study: what has been asked and told, as an append-only journal in the sweep's folder, over Optuna.

Optuna writes the journal, so Optuna's own tools can read it. Each trial's run is named in it before the run exists:
whatever is killed, what was tried and what came of it is known from the journal and the runs' records.
"""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from labrun.building import build
from labrun.errors import ConfigError, RecordError
from labrun.search.space import Choice, Dimension

log = logging.getLogger(__name__)

NAME = "labrun"
RUN, OVERRIDES, LABELS, REPLACED, WHY = "run", "overrides", "parameters", "replaced", "why"
"""What a trial's journal entry holds beside Optuna's own: its run's folder, what was put on its command line, its
parameters as the user reads them, whether another trial took its place, and why it failed."""
ORIGIN = "learned_from"
"""Of a trial of a former search: its run's folder."""


ATTEMPTS = 8
"""How often a sampler is asked for something that was not tried yet."""


@dataclass
class PendingTrial:
    """A trial that is to be run."""

    number: int
    """Among all that the study ever asked; not the run's number in the sweep."""
    overrides: list[str]
    parameters: dict[str, Any] = field(default_factory=dict)


class NoLock:
    """The sweep's lease sees to it that one process alone writes the journal."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class Study:
    """Asks a sampler for trials, and tells it what became of them.

    Args:
        path: the journal; begun if it is absent, gone on with if not.
        sampler: the config's node, `_target_` and arguments; None: only what is enqueued is asked for.
        seed: of the sampler.
        maximize: for each metric, whether it is to be large.

    Raises:
        ConfigError: the sampler cannot be built, or the journal is of another search.
    """

    def __init__(self, path: Path, sampler: Mapping[str, Any] | None, seed: int, maximize: Sequence[bool]) -> None:
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
            raise ConfigError(f"sweep.metric, sweep.goal: the search in {path.parent} has other metrics or goals")
        # A sampler that begins anew with the same seed would ask for the same again.
        self._study.sampler = _sampler(sampler, seed + len(self._study.get_trials(deepcopy=False)), len(maximize))

    @staticmethod
    def check(sampler: Mapping[str, Any], metrics: int) -> None:
        """Whether a sampler can be built.

        Raises:
            ConfigError: it cannot.
        """
        _sampler(sampler, 0, metrics)

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's own view of it."""
        return self._study

    def trials(self) -> list[FrozenTrial]:
        """Every trial that has a run, in the order of asking."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if RUN in trial.user_attrs]

    def counted(self) -> int:
        """How many trials count against the budget."""
        return sum(not trial.user_attrs.get(REPLACED) for trial in self.trials())

    def open(self) -> list[FrozenTrial]:
        """The trials that have a run, and of which nothing has been told yet."""
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    def over(self) -> list[FrozenTrial]:
        """The trials that have ended, in the order of their ends."""
        ended = [(trial.datetime_complete, trial) for trial in self.trials() if trial.datetime_complete is not None]
        return [trial for _, trial in sorted(ended, key=lambda pair: pair[0])]

    def settle(self) -> None:
        """Close what a killed controller had asked for and given no run: it was never tried."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and RUN not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.FAIL)

    def learn(self, former: Sequence[tuple[str, FrozenTrial]]) -> int:
        """Tell the sampler of trials of former searches; how many were new. They are not trials of this one.

        Args:
            former: for each, its run's folder, and the trial; see `former.completed`.
        """
        known = {trial.user_attrs.get(ORIGIN) for trial in self._study.get_trials(deepcopy=False)}
        new = [(origin, trial) for origin, trial in former if origin not in known]
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

    def enqueue(self, parameters: Mapping[str, Any]) -> None:
        """Ask for this before anything that the sampler thinks of."""
        self._study.enqueue_trial(dict(parameters))

    def enqueue_missing(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Enqueue those that are neither enqueued nor have a run: a killed controller may have got but so far."""
        told = {_key(parameters) for parameters in self._known()}
        for parameters in wanted:
            if _key(parameters) not in told:
                self.enqueue(parameters)

    def _known(self, replaced: bool = True) -> list[dict[str, Any]]:
        """The parameters of every trial that is enqueued or has a run; also of those whose place another has taken?"""
        known = []
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                known.append(dict(trial.system_attrs.get("fixed_params", {})))
            elif RUN in trial.user_attrs and (replaced or not trial.user_attrs.get(REPLACED)):
                known.append(dict(trial.user_attrs.get(LABELS, {})))
        return known

    def waiting(self) -> int:
        """How many enqueued trials have not been asked for."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def untried(self, wanted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Those combinations that no trial has, nor is to have."""
        tried = {_key(parameters) for parameters in self._known(replaced=False)}
        return [dict(one) for one in wanted if _key(one) not in tried]

    def ask(
        self,
        dimensions: Callable[[list[str]], Sequence[Dimension]],
        run: str,
        untried: Callable[[], Mapping[str, Any] | None] | None = None,
    ) -> PendingTrial:
        """The next trial.

        Args:
            dimensions: given the overrides so far, what else there is to choose; asked until it gives nothing.
            run: the folder of the trial's run.
            untried: gives what takes the place of a combination that was tried; None: it is tried again.
        """
        trial, asked = self._suggested(dimensions)
        attempts = 0
        while untried is not None and attempts < ATTEMPTS and asked.overrides in self._tried():
            attempts += 1
            # The sampler may think of another one; in the end chance does, where the space is known.
            spare = untried() if attempts == ATTEMPTS else None
            self._study.tell(trial.number, state=TrialState.FAIL)
            if spare is not None:
                self.enqueue(spare)
            trial, asked = self._suggested(dimensions)
        trial.set_user_attr(LABELS, asked.parameters)
        trial.set_user_attr(OVERRIDES, asked.overrides)
        trial.set_user_attr(RUN, run)
        return asked

    def _tried(self) -> list[list[str]]:
        return [trial.user_attrs[OVERRIDES] for trial in self.trials() if not trial.user_attrs.get(REPLACED)]

    def _suggested(self, dimensions: Callable[[list[str]], Sequence[Dimension]]) -> tuple[Trial, PendingTrial]:
        trial = self._study.ask()
        asked = PendingTrial(trial.number, [])
        while more := dimensions(asked.overrides):
            for one in more:
                value = suggest(trial, one)
                asked.parameters[one.name] = value
                asked.overrides += one.overrides(value)
        return trial, asked

    def tell(self, number: int, values: Sequence[float]) -> bool:
        """A trial is done; whether its values can be learned from (NaN and infinities cannot)."""
        if not all(math.isfinite(value) for value in values):
            self.fail(number, "its metric is not a number")
            return False
        self._study.tell(number, [float(value) for value in values])
        return True

    def stop(self, number: int, reports: Sequence[float], why: str) -> None:
        """A trial was ended early; its last report is what is learned from it."""
        trial = optuna.Trial(self._study, self._id(number))
        finite = [(step, value) for step, value in enumerate(reports, start=1) if math.isfinite(value)]
        trial.set_user_attr(WHY, why)
        if not finite or len(self._study.directions) > 1:
            self._study.tell(number, state=TrialState.FAIL)
            return
        trial.report(finite[-1][1], finite[-1][0])
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, why: str, replaced: bool = False) -> None:
        """A trial failed or was canceled.

        Args:
            number: the trial's.
            why: in one line.
            replaced: it does not count against the budget: another takes its place.
        """
        trial = optuna.Trial(self._study, self._id(number))
        trial.set_user_attr(WHY, why)
        if replaced:
            trial.set_user_attr(REPLACED, True)
        self._study.tell(number, state=TrialState.FAIL)

    def _id(self, number: int) -> int:
        return int(self._study.get_trials(deepcopy=False)[number]._trial_id)


def _key(parameters: Mapping[str, Any]) -> str:
    return repr(sorted((name, repr(value)) for name, value in parameters.items()))


def suggest(trial: optuna.Trial, one: Dimension) -> Any:
    """A value of one dimension."""
    spread = distribution(one)
    if isinstance(spread, CategoricalDistribution):
        return trial.suggest_categorical(one.name, spread.choices)
    if isinstance(spread, IntDistribution):
        return trial.suggest_int(one.name, spread.low, spread.high, step=spread.step, log=spread.log)
    assert isinstance(spread, FloatDistribution)
    return trial.suggest_float(one.name, spread.low, spread.high, step=spread.step, log=spread.log)


def distribution(one: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if isinstance(one, Choice):
        return CategoricalDistribution(one.labels)
    if one.whole:
        step = 1 if one.log else int(one.step or 1)
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return FloatDistribution(one.low, one.high, log=one.log, step=None if one.log else one.step)


def sampler_arguments(name: str) -> set[str] | None:
    """What one of Optuna's samplers takes; None: this version has none of that name."""
    made = getattr(optuna.samplers, name, None)
    return None if made is None else set(inspect.signature(made).parameters)


def _sampler(node: Mapping[str, Any] | None, seed: int, metrics: int) -> optuna.samplers.BaseSampler:
    if node is None:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = build(node, "sweep.sampler", seed=seed)
    if not isinstance(made, optuna.samplers.BaseSampler):
        raise ConfigError(f"sweep.sampler._target_={node['_target_']!r} is not a sampler of Optuna")
    if metrics > 1 and isinstance(made, optuna.samplers.CmaEsSampler):
        raise ConfigError("sweep=cmaes searches for one metric; choose sweep=tpe, random, qmc or gp for several")
    return made


def _cut_torn_line(path: Path) -> None:
    """Cut a journal back to its last whole line: a kill may have torn the last one, and Optuna would not read on."""
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
