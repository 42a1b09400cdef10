"""Early termination: each rule on curves with results computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from labrun.config.schema import Sweep
from labrun.errors import ConfigError
from labrun.search import policies
from labrun.search.policies import (
    Bandit,
    Curve,
    Hyperband,
    MedianStopping,
    Policy,
    SuccessiveHalving,
    TruncationSelection,
)
from labrun.search.search import policy


def judged(policy: Policy, scores: list[float], others: list[list[float]], maximize: bool = True, **more: Any) -> bool:
    curves = [Curve(number + 1, list(one), **more) for number, one in enumerate(others)]
    return policy.verdict(Curve(0, scores), curves, len(scores), maximize) is not None


def test_a_policy_is_evaluated_at_its_interval_after_the_delay() -> None:
    policy = MedianStopping(evaluation_interval=3, delay_evaluation=5)
    assert [count for count in range(1, 13) if policy.is_due(count)] == [6, 9, 12]
    assert [policy.round(count) for count in (6, 9, 12)] == [1, 2, 3]
    assert [count for count in range(1, 4) if MedianStopping().is_due(count)] == [1, 2, 3]


def test_median_stopping_ends_trials_below_the_median() -> None:
    policy = MedianStopping(min_trials=3)
    others = [[0.2, 0.4], [0.4, 0.6], [0.6, 0.8]]  # averages up to 2: 0.3, 0.5, 0.7
    assert judged(policy, [0.1, 0.49], others) and not judged(policy, [0.5, 0.1], others), "its best counts"
    assert not judged(policy, [0.1, 0.49], others[:2]), "too few trials have come this far"
    assert not judged(policy, [0.1, 0.49], [*others[:2], [0.9]]), "one of them has made a single report"
    assert not judged(MedianStopping(min_trials=1), [0.5], [[0.5]])


def test_bandit_ends_trials_outside_the_slack() -> None:
    factor = Bandit(slack_factor=0.25)
    assert judged(factor, [0.79], [[1.0]]) and not judged(factor, [0.81], [[1.0]]), "1.0 / 1.25 is the bound"
    # To be small: scores are turned; 1.0 is best, and 1.25 is the bound.
    assert judged(factor, [-1.26], [[-1.0]], maximize=False) and not judged(factor, [-1.24], [[-1.0]], maximize=False)
    amount = Bandit(slack_amount=0.1)
    assert judged(amount, [0.89], [[1.0]]) and not judged(amount, [0.91], [[1.0]])
    assert not judged(amount, [0.5, 0.5], [[1.0]]), "no other trial has come this far"
    assert judged(Bandit(), [0.9], [[1.0]]) and not judged(Bandit(), [0.91], [[1.0]]), "a tenth by default"
    # Of a metric that is to be large and lies below zero the slack goes downwards all the same.
    assert not judged(factor, [-1.1], [[-1.0]]) and judged(factor, [-1.3], [[-1.0]])


def test_truncation_selection_ends_the_given_percentage() -> None:
    policy = TruncationSelection(truncation_percentage=40)
    others = [[0.1], [0.2], [0.3], [0.4]]
    assert judged(policy, [0.15], others) and not judged(policy, [0.25], others), "two of five end"
    assert not judged(TruncationSelection(truncation_percentage=10), [0.0], others), "a tenth of five is none"
    ended = TruncationSelection(truncation_percentage=40, exclude_finished=True)
    assert not judged(ended, [0.0], others, running=False)


def test_successive_halving_keeps_the_best_share_at_each_rung() -> None:
    policy = SuccessiveHalving(min_reports=1, reduction_factor=3)
    assert not judged(policy, [0.1], []), "the first trial has no rivals"
    assert judged(policy, [0.1], [[0.2]]) and not judged(policy, [0.3], [[0.2]])
    assert not judged(policy, [0.1, 0.1], [[0.2, 0.9]]), "2 is not a rung: 1, 3, 9, ... are"
    six = [[0.0, 0.0, float(number)] for number in range(5)]
    assert not judged(policy, [0.0, 0.0, 3.5], six) and judged(policy, [0.0, 0.0, 2.5], six), "two of six continue"
    late = SuccessiveHalving(evaluation_interval=2, delay_evaluation=4, min_reports=2, reduction_factor=2)
    rungs = [count for count in range(1, 25) if late.is_due(count) and policies._is_rung(late.round(count), 2, 2)]
    assert rungs == [6, 10, 18]


def test_hyperband_compares_trials_only_within_a_bracket() -> None:
    policy = Hyperband(min_reports=1, max_reports=9, reduction_factor=3)
    brackets = [policy.bracket(number) for number in range(60)]
    counts = [brackets.count(bracket) for bracket in range(3)]
    assert set(brackets) == {0, 1, 2} and counts[0] > counts[1] >= counts[2]
    assert len(set(brackets[:6])) > 1, "consecutive trials are in several brackets"
    first = next(number for number in range(60) if brackets[number] == 0)
    rival = next(number for number in range(first + 1, 60) if brackets[number] == 0)
    strange = next(number for number in range(60) if brackets[number] == 1)
    assert policy.verdict(Curve(first, [0.1]), [Curve(rival, [0.9])], 1, True)
    assert policy.verdict(Curve(first, [0.1]), [Curve(strange, [0.9])], 1, True) is None, "of another bracket"
    assert policy.verdict(Curve(strange, [0.1]), [Curve(rival, [0.9])], 1, True) is None, "it decides at 3 first"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bandit(slack_factor=0.1, slack_amount=0.1), "one of slack_factor and slack_amount"),
        (lambda: Bandit(slack_factor=-1), "slack_factor=-1: expected a number of at least 0"),
        (lambda: Bandit(slack_factor=True), "expected a number"),
        (lambda: TruncationSelection(truncation_percentage=100), "from 1 to 99"),
        (lambda: MedianStopping(evaluation_interval=0), "evaluation_interval=0: expected a whole number of at least 1"),
        (lambda: MedianStopping(delay_evaluation=1.5), "delay_evaluation=1.5"),  # type: ignore[arg-type]
        (lambda: SuccessiveHalving(reduction_factor=1), "reduction_factor=1"),
        (lambda: Hyperband(min_reports=5, max_reports=4), "max_reports=4"),
    ],
)
def test_invalid_settings_of_policies_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_early_termination_without_a_target_is_off() -> None:
    assert policy(Sweep(early_termination={"slack_factor": 0.05}, metric="AUC_weighted")) is None
    assert policy(Sweep(early_termination={}, metric="AUC_weighted")) is None
