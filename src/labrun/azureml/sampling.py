"""What HyperDrive's `choice`, `uniform` and so on, its samplers and its policies are in labrun's words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labrun.azureml.words import literal, word
from labrun.compat.azureml.exceptions import UserErrorException

SIGMAS, SIGMAS_OF_MULTIPLES = 8, 4
"""How many standard deviations on each side of the mean a normal distribution has here: beyond eight none of a thousand
billion values lies; multiples, which are counted, end where one of 15,000 values would lie beyond."""
LARGEST_EXPONENT = 700
"""Numbers have exponents of e up to about 709."""
MOST_MULTIPLES = 100_000
"""More of them are drawn from an interval, whose combinations are not counted."""
SAMPLER = "labrun.search.draws.DrawnSampler"
NAME = re.compile(r"-{0,2}[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Expression:
    """How a hyperparameter varies.

    Args:
        kind: the SDK's name.
        given: its arguments.
        text: in Hydra's grammar.
        draw: how a random search draws it where the grammar cannot say it; see `labrun.search.draws`.
    """

    kind: str
    given: tuple[Any, ...]
    text: str
    draw: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.given))})"

    def __iter__(self) -> Any:
        """As the SDK has it: a pair of the kind and its arguments."""
        return iter([self.kind, [list(self.given)]])


def choice(*options: Any) -> Expression:
    """One of several values: `choice(1, 2)`, `choice([1, 2])`, `choice(range(3))`.

    Raises:
        UserErrorException: there are none.
    """
    values = list(options)
    if len(options) == 1 and not isinstance(options[0], (str, bytes, Mapping)) and hasattr(options[0], "__iter__"):
        values = list(options[0])
    if not values:
        raise UserErrorException("choice(): there is nothing to choose from")
    return Expression("choice", tuple(values), ",".join(_value(value) for value in values))


def uniform(min_value: float, max_value: float) -> Expression:
    """Any number between two bounds."""
    low, high = _bounds("uniform", min_value, max_value)
    return Expression("uniform", (min_value, max_value), f"interval({low!r},{high!r})")


def quniform(min_value: float, max_value: float, q: float) -> Expression:
    """Multiples of q between two bounds."""
    low, high = _bounds("quniform", min_value, max_value)
    return _multiples("quniform", (min_value, max_value, q), ("uniform", low, high), low, high)


def loguniform(min_value: float, max_value: float) -> Expression:
    """A number whose logarithm is uniform; the bounds are exponents of e."""
    low, high = (math.exp(bound) for bound in _bounds("loguniform", min_value, max_value))
    return Expression("loguniform", (min_value, max_value), f"tag(log,interval({low!r},{high!r}))")


def qloguniform(min_value: float, max_value: float, q: float) -> Expression:
    """Multiples of q, between two exponents of e."""
    low, high = _bounds("qloguniform", min_value, max_value)
    return _multiples("qloguniform", (min_value, max_value, q), ("loguniform", low, high), _exp(low), _exp(high))


def normal(mu: float, sigma: float) -> Expression:
    """A number of a normal distribution."""
    low, high = _around("normal", mu, sigma, SIGMAS)
    return Expression("normal", (mu, sigma), f"interval({low!r},{high!r})", ("normal", mu, sigma, None))


def qnormal(mu: float, sigma: float, q: float) -> Expression:
    """Multiples of q, of a normal distribution."""
    low, high = _around("qnormal", mu, sigma, SIGMAS_OF_MULTIPLES)
    return _multiples("qnormal", (mu, sigma, q), ("normal", mu, sigma), low, high)


def lognormal(mu: float, sigma: float) -> Expression:
    """A number whose logarithm is of a normal distribution."""
    low, high = map(_exp, _around("lognormal", mu, sigma, SIGMAS))
    text = f"tag(log,interval({low!r},{high!r}))"
    return Expression("lognormal", (mu, sigma), text, ("lognormal", mu, sigma, None))


def qlognormal(mu: float, sigma: float, q: float) -> Expression:
    """Multiples of q, whose logarithm is of a normal distribution."""
    low, high = map(_exp, _around("qlognormal", mu, sigma, SIGMAS_OF_MULTIPLES))
    return _multiples("qlognormal", (mu, sigma, q), ("lognormal", mu, sigma), low, high)


def randint(upper: int) -> Expression:
    """A whole number from 0 on, below the bound."""
    if int(upper) < 1:
        raise UserErrorException(f"randint({upper}): the upper bound is at least 1")
    return Expression("randint", (upper,), f"range(0,{int(upper)})")


def _around(kind: str, mu: float, sigma: float, sigmas: float) -> tuple[float, float]:
    if not sigma > 0:
        raise UserErrorException(f"{kind}({mu}, {sigma}): sigma is above 0")
    return float(mu) - sigmas * float(sigma), float(mu) + sigmas * float(sigma)


def _exp(exponent: float) -> float:
    return math.exp(max(-LARGEST_EXPONENT, min(exponent, LARGEST_EXPONENT)))


def _multiples(kind: str, given: tuple[Any, ...], draw: tuple[Any, ...], low: float, high: float) -> Expression:
    """The multiples of q, the last that is given, to which values between two bounds are rounded."""
    step = given[-1]
    if not step > 0:
        raise UserErrorException(f"{kind}(..., q={step}): q is above 0")
    # A bound that lies half way between two multiples is of the one inside.
    first = math.floor(low / step + 0.5)
    last = max(first, math.ceil(high / step - 0.5))
    whole = float(step).is_integer()
    ends = [round(place * step, 12) for place in (first, last)]
    start, stop, step = (int(one) if whole else float(one) for one in (*ends, step))
    many = last - first >= MOST_MULTIPLES
    text = f"interval({start!r},{stop!r})" if many else f"range({start!r},{stop + step / 2!r},{step!r})"
    if not many and whole:
        text = f"range({start},{stop + 1},{step})"
    return Expression(kind, given, text, (*draw, step))


def _bounds(kind: str, low: float, high: float) -> tuple[float, float]:
    if not float(low) < float(high):
        raise UserErrorException(f"{kind}({low}, {high}): the lower bound is below the upper one")
    return float(low), float(high)


def _value(value: Any) -> str:
    """One value of a choice; True and False are words for the script, as in Azure."""
    value = value.item() if hasattr(value, "item") else value  # of NumPy
    return literal(value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value))


class HyperParameterSampling:
    """Hyperparameters, and how they are chosen.

    Args:
        parameter_space: by their names, as `--learning-rate`.
        properties: not used.

    Raises:
        UserErrorException: a name will not do, or something is not an expression.
    """

    sweep = "random"
    only: tuple[str, ...] = ()
    """Expressions that it takes; none: all."""

    def __init__(self, parameter_space: Mapping[str, Any], properties: Any = None, **kwargs: Any) -> None:
        kind = type(self).__name__
        if not isinstance(parameter_space, Mapping) or not parameter_space:
            raise UserErrorException(f"{kind}: give a dictionary of names and choice(...), uniform(...), ...")
        for name, value in parameter_space.items():
            if not NAME.fullmatch(str(name)):
                raise UserErrorException(f"{kind}: {name!r} is not a name of an argument that labrun can pass")
            if not isinstance(value, Expression):
                raise UserErrorException(f"{kind}: {name}={value!r} is none of choice(...), uniform(...), ...")
            if self.only and value.kind not in self.only:
                raise UserErrorException(f"{kind}: {name}={value!r}, and it takes {', '.join(self.only)} alone")
            if self.only and value.draw and value.text.startswith("interval"):
                raise UserErrorException(
                    f"{kind}: {name}={value!r} has over {MOST_MULTIPLES:,} values: give a larger q"
                )
        self.parameter_space = self._parameter_space = dict(parameter_space)

    def words(self) -> list[str]:
        """The space, as words of labrun's command line."""
        return [
            f"sweep={self.sweep}",
            *(f"script.arguments.{key(name)}={value.text}" for name, value in self.parameter_space.items()),
        ]

    def _draws(self) -> list[str]:
        """What a random search is to draw in its own way, as words of labrun's command line."""
        draws = {f"script.arguments.{key(name)}": one.draw for name, one in self.parameter_space.items() if one.draw}
        return [f"sweep.sampler._target_={SAMPLER}", word("+sweep.sampler.draws", draws)] if draws else []


class GridParameterSampling(HyperParameterSampling):
    """Every combination."""

    sweep = "grid"
    only = ("choice",)


class RandomParameterSampling(HyperParameterSampling):
    """Combinations by chance."""

    def words(self) -> list[str]:
        """The space, as words of labrun's command line."""
        return [*super().words(), *self._draws()]


class BayesianParameterSampling(HyperParameterSampling):
    """Combinations by what was found so far: labrun's `sweep=tpe`."""

    sweep = "tpe"
    only = ("choice", "uniform", "quniform")


def key(name: str) -> str:
    """A hyperparameter's key below `script.arguments`, which puts two dashes before it."""
    return name.removeprefix("--")


class EarlyTerminationPolicy:
    """Which running trials are ended.

    Args:
        choice: the option of labrun's `sweep/early_termination`.
        **settings: its keys.
    """

    def __init__(self, choice: str | None, **settings: Any) -> None:
        self._choice, self._settings = choice, {key: value for key, value in settings.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """As the SDK tells it."""
        kind = type(self).__name__.removesuffix("Policy").removesuffix("Termination") or "No"
        told = {"name": {"No": "Default"}.get(kind, kind), "properties": dict(self._settings)}
        return {"policy": told}

    def words(self) -> list[str]:
        """As words of labrun's command line."""
        if self._choice is None:
            return []
        settings = (f"sweep.early_termination.{key}={literal(value)}" for key, value in self._settings.items())
        return [f"sweep/early_termination={self._choice}", *settings]


class BanditPolicy(EarlyTerminationPolicy):
    """Ends what is further from the best than the slack allows.

    Raises:
        UserErrorException: not one of `slack_factor` and `slack_amount` is given.
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
    """Ends what is below the median of the others' averages."""

    def __init__(self, evaluation_interval: int = 1, delay_evaluation: int = 0) -> None:
        self.evaluation_interval, self.delay_evaluation = evaluation_interval, delay_evaluation
        super().__init__("median", evaluation_interval=evaluation_interval, delay_evaluation=delay_evaluation)


class TruncationSelectionPolicy(EarlyTerminationPolicy):
    """Ends the lowest part of those that have come as far."""

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
    """Ends nothing."""

    def __init__(self) -> None:
        super().__init__(None)
