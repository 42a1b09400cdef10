"""Settings of a search of a plain application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from labrun.config.schema import Component, Sweep


class SweeperSettings(Sweep):
    """The settings of `hydra.sweeper`, most of which are those of `sweep`."""

    @classmethod
    def key(cls, name: str) -> str:
        """See `Sweep.key`."""
        return f"hydra.sweeper.{name}"

    @classmethod
    def choice(cls, option: str) -> str:
        """See `Sweep.choice`."""
        return cls.key(f"sampler={option}")


@dataclass(frozen=True)
class Settings:
    """The settings of `hydra.sweeper` for a search, after they were checked."""

    name: str
    """Name of the sweeper that the application chose."""
    sampler: Component | None
    """Node of the sampler; None: try every combination (`grid`)."""
    goal: Literal["minimize", "maximize"]
    max_trials: int | None
    max_concurrent: int | None
    timeout_min: float | None
    seed: int
    zip: list[list[str]]
    resume: bool
    max_failure_rate: float | None
