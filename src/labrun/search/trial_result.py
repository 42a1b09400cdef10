"""What came of one trial of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from labrun.runs.record import Record


@dataclass
class TrialResult:
    """One trial, as its journal entry and its run's record tell it."""

    run: str
    record: Record
    parameters: dict[str, Any] = field(default_factory=dict)
    values: list[float] | None = None
    """Its final metrics; None where it has none that count."""
    why: str = ""
    on_front: bool = False
    """With several metrics: no other trial is at least as good in all of them."""
