"""The x-values of a metric's curve: epochs where known, otherwise the logged steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

EPOCH, BATCH, STEP = "epoch", "batch", "step"
Lines = Sequence[Mapping[str, Any]]
"""Of `metrics.jsonl`, of one metric, in their order."""


def unit(lines: Lines) -> str:
    """What a curve's axis counts: epochs, batches, or whatever its run counted."""
    if any("epoch" not in line for line in lines):
        return STEP
    return BATCH if in_epochs(lines) is None else EPOCH


def places(lines: Lines, counted: str) -> list[float]:
    """Where each value stands.

    Args:
        lines: of one metric.
        counted: the axis's unit, as `unit` gives it, of this metric or of all that share the axis.
    """
    found = in_epochs(lines) if counted == EPOCH else None
    return [float(line["step"]) for line in lines] if found is None else found


def in_epochs(lines: Lines) -> list[float] | None:
    """Where each value stands in epochs: one of an epoch at its number, several of an epoch at parts of it.

    Returns:
        None where the values say nothing of epochs, or not how many batches an epoch has.
    """
    if any("epoch" not in line for line in lines):
        return None
    epochs = [int(line["epoch"]) for line in lines]
    if len(set(epochs)) == len(epochs):
        return [float(epoch) for epoch in epochs]
    size = batches(lines)
    return None if size is None else [line["step"] / size for line in lines]


def batches(lines: Lines) -> float | None:
    """How many steps an epoch has, by the steps that were logged in each; None where one epoch alone was logged.

    A step lies in its epoch, which gives bounds; within them, the same place in the next epoch is one epoch further.
    """
    by_epoch: dict[int, list[int]] = {}
    for line in lines:
        by_epoch.setdefault(int(line["epoch"]), []).append(int(line["step"]))
    if len(by_epoch) < 2 or min(by_epoch) < 1:
        return None
    least = max(max(steps) / epoch for epoch, steps in by_epoch.items())
    most = min((min(steps) / (epoch - 1) for epoch, steps in by_epoch.items() if epoch > 1), default=float("inf"))
    if not 0 < least <= most:
        return None  # the steps count something else
    further = [
        later - earlier
        for epoch, steps in by_epoch.items()
        for earlier, later in zip(sorted(steps), sorted(by_epoch.get(epoch + 1, [])), strict=False)
    ]
    usual = statistics.median(further) if further else 0
    return usual if least <= usual <= most else least
