"""Early termination: policies that stop unpromising trials, based on the reports of all trials.

Policies work on scores, where higher is always better, and count reports of the primary metric. A policy is evaluated
at every `evaluation_interval`-th report, starting once a trial has made `delay_evaluation` reports.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from labrun.errors import ConfigError


@dataclass
class Curve:
    """The reports of one trial."""

    number: int
    scores: list[float] = field(default_factory=list)
    """The primary metric, negated if lower is better; NaN counts as the worst value."""
    running: bool = True

    def at(self, reports: int) -> float:
        """Return the score at a report, counted from 1."""
        return self.scores[reports - 1]

    def best(self, reports: int) -> float:
        """Return the best score up to a report."""
        return max(self.scores[:reports])


class Policy(ABC):
    """Decides about one trial at a time.

    Args:
        evaluation_interval: reports between decisions.
        delay_evaluation: reports of a trial before the first decision.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, evaluation_interval: int = 1, delay_evaluation: int = 0) -> None:
        _whole("evaluation_interval", evaluation_interval, 1)
        _whole("delay_evaluation", delay_evaluation, 0)
        self.evaluation_interval, self.delay_evaluation = evaluation_interval, delay_evaluation

    def is_due(self, reports: int) -> bool:
        """Return whether the policy is evaluated at this report."""
        return reports >= self.delay_evaluation and reports % self.evaluation_interval == 0

    def round(self, reports: int) -> int:
        """Return the number of decisions on a trial after this many reports, from 1."""
        step = self.evaluation_interval
        first = max(1, -(-self.delay_evaluation // step))
        return reports // step - first + 1

    @abstractmethod
    def verdict(self, trial: Curve, others: Sequence[Curve], reports: int, maximize: bool) -> str | None:
        """Return why a trial should stop now, or None if it should continue.

        Args:
            trial: the trial to decide on.
            others: all other trials with reports, including ended ones.
            reports: number of the trial's reports to consider.
            maximize: whether the metric itself is maximized.
        """


class MedianStopping(Policy):
    """Stops a trial whose best score is below the median of the other trials' averages up to the same report.

    Source: D. Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.1.

    Args:
        min_trials: stop nothing before this many other trials have made as many reports.
    """

    def __init__(self, evaluation_interval: int = 1, delay_evaluation: int = 0, min_trials: int = 3) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        _whole("min_trials", min_trials, 1)
        self.min_trials = min_trials

    def verdict(self, trial: Curve, others: Sequence[Curve], reports: int, maximize: bool) -> str | None:
        averages = sorted(sum(one.scores[:reports]) / reports for one in others if len(one.scores) >= reports)
        if len(averages) < self.min_trials:
            return None
        middle = len(averages) // 2
        median = averages[middle] if len(averages) % 2 else (averages[middle - 1] + averages[middle]) / 2
        if trial.best(reports) >= median:
            return None
        return f"its best is below the median of {len(averages)} trials' averages"


class Bandit(Policy):
    """Stops a trial whose best score is further from the best of all at the same report than the slack allows.

    Args:
        slack_factor: allowed distance as a ratio: when maximizing, trials below best / (1 + factor) stop; when
            minimizing, trials above best * (1 + factor).
        slack_amount: allowed distance in the metric's unit. If neither is given, the factor is `SLACK`.
    """

    SLACK = 0.1

    def __init__(
        self,
        evaluation_interval: int = 1,
        delay_evaluation: int = 0,
        slack_factor: float | None = None,
        slack_amount: float | None = None,
    ) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        if slack_factor is not None and slack_amount is not None:
            raise ConfigError("sweep.early_termination: bandit takes one of slack_factor and slack_amount")
        if slack_amount is None:
            slack_factor = self.SLACK if slack_factor is None else slack_factor
        for name, value in (("slack_factor", slack_factor), ("slack_amount", slack_amount)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
                raise ConfigError(f"sweep.early_termination.{name}={value!r}: expected a number of at least 0")
        self.slack_factor, self.slack_amount = slack_factor, slack_amount

    def verdict(self, trial: Curve, others: Sequence[Curve], reports: int, maximize: bool) -> str | None:
        bests = [one.best(reports) for one in others if len(one.scores) >= reports]
        if not bests:
            return None
        best = max(bests)
        slack = self.slack_amount
        if slack is None:
            assert self.slack_factor is not None
            slack = abs(best) * self.slack_factor / (1 + self.slack_factor if maximize else 1)
        if trial.best(reports) >= best - slack:
            return None
        slack_text = f"slack_amount={slack:g}" if self.slack_factor is None else f"slack_factor={self.slack_factor:g}"
        return f"its best is further than {slack_text} from the best of all at that report"


class TruncationSelection(Policy):
    """Stops the lowest-scoring of the trials that have made as many reports.

    Args:
        truncation_percentage: percentage of trials to stop, from 1 to 99.
        exclude_finished: compare with running trials only.
    """

    def __init__(
        self,
        evaluation_interval: int = 1,
        delay_evaluation: int = 0,
        truncation_percentage: int = 20,
        exclude_finished: bool = False,
    ) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        _whole("truncation_percentage", truncation_percentage, 1, 99)
        self.truncation_percentage, self.exclude_finished = truncation_percentage, exclude_finished

    def verdict(self, trial: Curve, others: Sequence[Curve], reports: int, maximize: bool) -> str | None:
        comparable = [
            one for one in others if len(one.scores) >= reports and (one.running or not self.exclude_finished)
        ]
        ended = (len(comparable) + 1) * self.truncation_percentage // 100
        below = sum(one.at(reports) < trial.at(reports) for one in comparable)
        if below >= ended:
            return None
        return f"it is among the lowest {self.truncation_percentage} % of {len(comparable) + 1} trials"


class SuccessiveHalving(Policy):
    """Lets only the best fraction of trials continue, at ever larger intervals; asynchronous, so no trial waits.

    Source: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), MLSys 2020.

    Args:
        min_reports: the first decision, counted in evaluations.
        reduction_factor: one in N trials continues, and the next decision comes after N times the reports.
    """

    def __init__(
        self, evaluation_interval: int = 1, delay_evaluation: int = 0, min_reports: int = 1, reduction_factor: int = 3
    ) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        _whole("min_reports", min_reports, 1)
        _whole("reduction_factor", reduction_factor, 2)
        self.min_reports, self.reduction_factor = min_reports, reduction_factor

    def verdict(self, trial: Curve, others: Sequence[Curve], reports: int, maximize: bool) -> str | None:
        return self._halving(trial, others, reports, self.min_reports)

    def _halving(self, trial: Curve, others: Sequence[Curve], reports: int, first: int) -> str | None:
        if not _is_rung(self.round(reports), first, self.reduction_factor):
            return None
        scores = [one.at(reports) for one in others if len(one.scores) >= reports]
        kept = max(1, (len(scores) + 1) // self.reduction_factor)
        better = sum(score > trial.at(reports) for score in scores)
        if better < kept:
            return None
        return f"it is not among the best {kept} of the {len(scores) + 1} trials with as many reports"


class Hyperband(SuccessiveHalving):
    """Several successive halvings in parallel, whose first decisions come at different reports.

    Source: L. Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018; decided
    asynchronously, as in `SuccessiveHalving`.

    Args:
        max_reports: number of reports of a trial that is never stopped.
    """

    def __init__(
        self,
        evaluation_interval: int = 1,
        delay_evaluation: int = 0,
        min_reports: int = 1,
        max_reports: int = 27,
        reduction_factor: int = 3,
    ) -> None:
        super().__init__(evaluation_interval, delay_evaluation, min_reports, reduction_factor)
        _whole("max_reports", max_reports, min_reports)
        count = 1
        while min_reports * reduction_factor**count <= max_reports:
            count += 1
        # Bracket sizes as in the paper; the bracket that decides earliest gets the most trials.
        sizes = [math.ceil(count * reduction_factor ** (count - 1 - index) / (count - index)) for index in range(count)]
        self._brackets = [index for index, size in enumerate(sizes) for _ in range(size)]

    def bracket(self, number: int) -> int:
        """Return the bracket of a trial; bracket k first decides at `min_reports * reduction_factor**k`."""
        # A stride coprime to the length, so that consecutive trials fall into different brackets.
        length = len(self._brackets)
        stride = next(
            step for step in range(max(1, round(length * 0.618)), 2 * length + 2) if math.gcd(step, length) == 1
        )
        return self._brackets[number * stride % length]

    def verdict(self, trial: Curve, others: Sequence[Curve], reports: int, maximize: bool) -> str | None:
        mine = self.bracket(trial.number)
        peers = [one for one in others if self.bracket(one.number) == mine]
        return self._halving(trial, peers, reports, self.min_reports * self.reduction_factor**mine)


def _is_rung(round_: int, first: int, factor: int) -> bool:
    rung = first
    while rung < round_:
        rung *= factor
    return rung == round_


def _whole(name: str, value: object, at_least: int, at_most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least or (at_most and value > at_most):
        bounds = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
        raise ConfigError(f"sweep.early_termination.{name}={value!r}: expected a whole number {bounds}")
