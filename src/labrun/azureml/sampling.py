"""HyperDrive's parameter expressions, samplers and policies, translated to labrun's command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labrun.azureml.overrides import literal, override
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import UserErrorException

SIGMAS, SIGMAS_OF_MULTIPLES = 8, 4
"""Standard deviations on each side of the mean at which a normal distribution is cut off. Fewer than one value in 10^12
lies beyond eight. Multiples, which are enumerated, are cut off where one value in 15,000 would lie beyond."""
LARGEST_EXPONENT = 700
"""Largest exponent of e, a little below the float limit of about 709."""
MOST_MULTIPLES = 100_000
"""Above this number, multiples become an interval, whose combinations are not counted."""
SAMPLER = "labrun.search.draws.DrawnSampler"
NAME = re.compile(r"-{0,2}[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Expression:
    """The range or distribution of a hyperparameter.

    Args:
        kind: the SDK's name.
        given: its arguments.
        text: the expression in Hydra's grammar.
        draw: how a random search draws it, if Hydra's grammar cannot express that; see `labrun.search.draws`.
    """

    kind: str
    given: tuple[Any, ...]
    text: str
    draw: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.given))})"

    def __iter__(self) -> Any:
        """Iterate as in the SDK: over the kind and the list of its arguments."""
        return iter([self.kind, [list(self.given)]])


def choice(*options: Any) -> Expression:
    """Choose one of several values: `choice(1, 2)`, `choice([1, 2])`, `choice(range(3))`.

    Raises:
        UserErrorException: no values are given.
    """
    values = list(options)
    if len(options) == 1 and not isinstance(options[0], (str, bytes, Mapping)) and hasattr(options[0], "__iter__"):
        values = list(options[0])
    if not values:
        raise UserErrorException("choice(): there is nothing to choose from")
    return Expression("choice", tuple(values), ",".join(_value(value) for value in values))


def uniform(min_value: float, max_value: float) -> Expression:
    """Draw uniformly between two bounds."""
    low, high = _bounds("uniform", min_value, max_value)
    return Expression("uniform", (min_value, max_value), f"interval({low!r},{high!r})")


def quniform(min_value: float, max_value: float, q: float) -> Expression:
    """Draw uniformly between two bounds, rounded to multiples of q."""
    low, high = _bounds("quniform", min_value, max_value)
    return _multiples("quniform", (min_value, max_value, q), ("uniform", low, high), low, high)


def loguniform(min_value: float, max_value: float) -> Expression:
    """Draw a number whose logarithm is uniform; the bounds are exponents of e."""
    low, high = (math.exp(bound) for bound in _bounds("loguniform", min_value, max_value))
    return Expression("loguniform", (min_value, max_value), f"tag(log,interval({low!r},{high!r}))")


def qloguniform(min_value: float, max_value: float, q: float) -> Expression:
    """Draw like `loguniform`, rounded to multiples of q."""
    low, high = _bounds("qloguniform", min_value, max_value)
    return _multiples("qloguniform", (min_value, max_value, q), ("loguniform", low, high), _exp(low), _exp(high))


def normal(mu: float, sigma: float) -> Expression:
    """Draw from a normal distribution."""
    low, high = _around("normal", mu, sigma, SIGMAS)
    return Expression("normal", (mu, sigma), f"interval({low!r},{high!r})", ("normal", mu, sigma, None))


def qnormal(mu: float, sigma: float, q: float) -> Expression:
    """Draw like `normal`, rounded to multiples of q."""
    low, high = _around("qnormal", mu, sigma, SIGMAS_OF_MULTIPLES)
    return _multiples("qnormal", (mu, sigma, q), ("normal", mu, sigma), low, high)


def lognormal(mu: float, sigma: float) -> Expression:
    """Draw a number whose logarithm is normally distributed."""
    low, high = map(_exp, _around("lognormal", mu, sigma, SIGMAS))
    text = f"tag(log,interval({low!r},{high!r}))"
    return Expression("lognormal", (mu, sigma), text, ("lognormal", mu, sigma, None))


def qlognormal(mu: float, sigma: float, q: float) -> Expression:
    """Draw like `lognormal`, rounded to multiples of q."""
    low, high = map(_exp, _around("qlognormal", mu, sigma, SIGMAS_OF_MULTIPLES))
    return _multiples("qlognormal", (mu, sigma, q), ("lognormal", mu, sigma), low, high)


def randint(upper: int) -> Expression:
    """Draw an integer from 0 up to, but excluding, `upper`."""
    if int(upper) < 1:
        raise UserErrorException(f"randint({upper}): the upper bound must be at least 1")
    return Expression("randint", (upper,), f"range(0,{int(upper)})")


def _around(kind: str, mu: float, sigma: float, sigmas: float) -> tuple[float, float]:
    if not sigma > 0:
        raise UserErrorException(f"{kind}({mu}, {sigma}): sigma must be above 0")
    return float(mu) - sigmas * float(sigma), float(mu) + sigmas * float(sigma)


def _exp(exponent: float) -> float:
    return math.exp(max(-LARGEST_EXPONENT, min(exponent, LARGEST_EXPONENT)))


def _multiples(kind: str, arguments: tuple[Any, ...], draw: tuple[Any, ...], low: float, high: float) -> Expression:
    """Return the expression for values between two bounds, rounded to multiples of q (the last of `given`)."""
    step = arguments[-1]
    if not step > 0:
        raise UserErrorException(f"{kind}(..., q={step}): q must be above 0")
    # A bound halfway between two multiples is rounded to the one inside the bounds.
    first = math.floor(low / step + 0.5)
    last = max(first, math.ceil(high / step - 0.5))
    whole = float(step).is_integer()
    ends = [round(count * step, 12) for count in (first, last)]
    start, stop, step = (int(one) if whole else float(one) for one in (*ends, step))
    many = last - first >= MOST_MULTIPLES
    text = f"interval({start!r},{stop!r})" if many else f"range({start!r},{stop + step / 2!r},{step!r})"
    if not many and whole:
        text = f"range({start},{stop + 1},{step})"
    return Expression(kind, arguments, text, (*draw, step))


def _bounds(kind: str, low: float, high: float) -> tuple[float, float]:
    if not float(low) < float(high):
        raise UserErrorException(f"{kind}({low}, {high}): the lower bound must be below the upper one")
    return float(low), float(high)


def _value(value: Any) -> str:
    """Return one value of a choice as an override. As in Azure, the script receives `True` and `False` as text."""
    value = value.item() if hasattr(value, "item") else value  # a NumPy scalar
    return literal(value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value))


class HyperParameterSampling:
    """A search space and a sampling method.

    Args:
        parameter_space: an expression per argument name, such as `--learning-rate`.
        properties: not used; a notice says so.

    Raises:
        UserErrorException: a name is invalid, or a value is not an expression that this method supports.
    """

    sweep = "random"
    only: tuple[str, ...] = ()
    """The kinds of expression that it supports; empty: all."""

    def __init__(self, parameter_space: Mapping[str, Any], properties: Any = None) -> None:
        kind = type(self).__name__
        arguments.tell_unused(kind, {"properties": properties or None}, "labrun's own sampling has no such settings")
        if not isinstance(parameter_space, Mapping) or not parameter_space:
            raise UserErrorException(f"{kind}: give a dictionary of names and choice(...), uniform(...), ...")
        for name, value in parameter_space.items():
            if not NAME.fullmatch(str(name)):
                raise UserErrorException(f"{kind}: {name!r} is not an argument name that labrun can pass")
            if not isinstance(value, Expression):
                raise UserErrorException(f"{kind}: {name}={value!r} must be choice(...), uniform(...), ...")
            if self.only and value.kind not in self.only:
                raise UserErrorException(f"{kind}: {name}={value!r}: it supports only {', '.join(self.only)}")
            if self.only and value.draw and value.text.startswith("interval"):
                raise UserErrorException(
                    f"{kind}: {name}={value!r} has over {MOST_MULTIPLES:,} values: give a larger q"
                )
        self.parameter_space = self._parameter_space = dict(parameter_space)

    def overrides(self) -> list[str]:
        """Return the search space as arguments for the `labrun` command."""
        return [
            f"sweep={self.sweep}",
            *(f"script.arguments.{key(name)}={value.text}" for name, value in self.parameter_space.items()),
        ]

    def _draws(self) -> list[str]:
        """Return the draws that Hydra's grammar cannot express, as arguments for the `labrun` command."""
        draws = {f"script.arguments.{key(name)}": one.draw for name, one in self.parameter_space.items() if one.draw}
        return [f"sweep.sampler._target_={SAMPLER}", override("+sweep.sampler.draws", draws)] if draws else []


class GridParameterSampling(HyperParameterSampling):
    """Tries every combination."""

    sweep = "grid"
    only = ("choice",)


class RandomParameterSampling(HyperParameterSampling):
    """Tries random combinations."""

    def overrides(self) -> list[str]:
        """Return the search space as arguments for the `labrun` command."""
        return [*super().overrides(), *self._draws()]


class BayesianParameterSampling(HyperParameterSampling):
    """Chooses combinations by the results so far, with labrun's `sweep=tpe`."""

    sweep = "tpe"
    only = ("choice", "uniform", "quniform")


def key(name: str) -> str:
    """Return a hyperparameter's key in `script.arguments`, which adds the two dashes itself."""
    return name.removeprefix("--")


class EarlyTerminationPolicy:
    """Base class of the policies that stop running trials early.

    Args:
        choice: the option of labrun's `sweep/early_termination`; None: no policy.
        **settings: that option's keys.
    """

    def __init__(self, choice: str | None, **settings: Any) -> None:
        self._choice, self._settings = choice, {key: value for key, value in settings.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return the policy in the SDK's form."""
        kind = type(self).__name__.removesuffix("Policy").removesuffix("Termination") or "No"
        policy = {"name": {"No": "Default"}.get(kind, kind), "properties": dict(self._settings)}
        return {"policy": policy}

    def overrides(self) -> list[str]:
        """Return the policy as arguments for the `labrun` command."""
        if self._choice is None:
            return []
        settings = (f"sweep.early_termination.{key}={literal(value)}" for key, value in self._settings.items())
        return [f"sweep/early_termination={self._choice}", *settings]


class BanditPolicy(EarlyTerminationPolicy):
    """Stops runs that fall further behind the best run than the slack allows.

    Raises:
        UserErrorException: neither or both of `slack_factor` and `slack_amount` are given.
    """

    def __init__(
        self,
        evaluation_interval: int = 1,
        slack_factor: float | None = None,
        slack_amount: float | None = None,
        delay_evaluation: int = 0,
    ) -> None:
        if (slack_factor is None) == (slack_amount is None):
            raise UserErrorException("BanditPolicy: give one of slack_factor and slack_amount")
        self.evaluation_interval, self.delay_evaluation = evaluation_interval, delay_evaluation
        self.slack_factor, self.slack_amount = slack_factor, slack_amount
        super().__init__(
            "bandit",
            evaluation_interval=evaluation_interval,
            slack_factor=slack_factor,
            slack_amount=slack_amount,
            delay_evaluation=delay_evaluation,
        )


class MedianStoppingPolicy(EarlyTerminationPolicy):
    """Stops runs that are worse than the median of the others' running averages."""

    def __init__(self, evaluation_interval: int = 1, delay_evaluation: int = 0) -> None:
        self.evaluation_interval, self.delay_evaluation = evaluation_interval, delay_evaluation
        super().__init__("median", evaluation_interval=evaluation_interval, delay_evaluation=delay_evaluation)


class TruncationSelectionPolicy(EarlyTerminationPolicy):
    """Stops the worst share of the runs that have reached the same interval."""

    def __init__(
        self,
        truncation_percentage: int,
        evaluation_interval: int = 1,
        delay_evaluation: int = 0,
        exclude_finished_jobs: bool = False,
    ) -> None:
        self.evaluation_interval, self.delay_evaluation = evaluation_interval, delay_evaluation
        self.truncation_percentage, self.exclude_finished_jobs = truncation_percentage, exclude_finished_jobs
        super().__init__(
            "truncation",
            truncation_percentage=truncation_percentage,
            evaluation_interval=evaluation_interval,
            delay_evaluation=delay_evaluation,
            exclude_finished=exclude_finished_jobs,
        )


class NoTerminationPolicy(EarlyTerminationPolicy):
    """Stops no runs."""

    def __init__(self) -> None:
        super().__init__(None)
