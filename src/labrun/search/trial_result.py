"""The result of one trial of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from labrun.runs.record import Record


@dataclass
class TrialResult:
    """One trial, from its journal entry and its run's record."""

    run: str
    record: Record
    parameters: dict[str, Any] = field(default_factory=dict)
    values: list[float] | None = None
    """Final metrics; None if it did not complete with valid ones."""
    why: str = ""
    on_front: bool = False
    """With several metrics: whether the trial is on the Pareto front."""
