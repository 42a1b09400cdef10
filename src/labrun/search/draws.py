"""Random search over distributions that Optuna lacks, sampled as in Azure's HyperDrive."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler

from labrun.errors import ConfigError

KINDS = ("uniform", "normal")
"""Each also with the prefix `log`: the logarithm of the value has this distribution."""
MOST = 10_000
"""Maximum number of draws per value."""


class DrawnSampler(RandomSampler):
    """Samples values independently; parameters in `draws` use their own distributions.

    Values outside the parameter's bounds are drawn again.

    Args:
        draws: for each parameter name: the kind, its two arguments (the bounds, or mean and standard deviation), and a
            number of which the value must be a multiple; null: any value.
        seed: seed of all draws.

    Raises:
        ConfigError: a distribution is not such a list.
    """

    def __init__(self, draws: Mapping[str, Sequence[Any]], seed: int | None = None) -> None:
        super().__init__(seed=seed)
        self._draws = {str(name): _checked(str(name), draw) for name, draw in draws.items()}
        self._random = random.Random(seed)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Sample a value of one parameter."""
        draw = self._draws.get(param_name)
        if draw is None or not isinstance(param_distribution, FloatDistribution | IntDistribution):
            return super().sample_independent(study, trial, param_name, param_distribution)
        for _ in range(MOST):
            value = _drawn(self._random, *draw)
            if param_distribution.low <= value <= param_distribution.high:
                return int(value) if isinstance(param_distribution, IntDistribution) else value
        raise ConfigError(
            f"sweep.sampler.draws: {param_name}: {list(draw)} gives no value between {param_distribution.low:g} and "
            f"{param_distribution.high:g}"
        )


def _checked(name: str, draw: Sequence[Any]) -> tuple[str, float, float, float | None]:
    try:
        kind, first, second, multiple = draw
        found = str(kind), float(first), float(second), None if multiple is None else float(multiple)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"sweep.sampler.draws: {name}: {draw!r} is not [KIND, A, B, MULTIPLE], such as [normal,0,1,null]"
        ) from error
    if found[0].removeprefix("log") not in KINDS:
        raise ConfigError(f"sweep.sampler.draws: {name}: {kind!r} is not normal, lognormal, uniform or loguniform")
    return found


def _drawn(numbers: random.Random, kind: str, first: float, second: float, multiple: float | None) -> float:
    plain = kind.removeprefix("log")
    value = numbers.gauss(first, second) if plain == "normal" else numbers.uniform(first, second)
    if kind != plain:
        value = math.exp(value)
    return value if multiple is None else round(round(value / multiple) * multiple, 12)
