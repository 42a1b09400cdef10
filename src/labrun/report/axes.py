"""The x-values of a metric's curve: epochs where known, otherwise the logged steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from labrun.runs.metric_line import Point

EPOCH, BATCH, STEP = "epoch", "batch", "step"
Lines = Sequence[Point]
"""Values of one metric, in file order."""


def unit(lines: Lines) -> str:
    """Return the unit of a curve's axis: epochs, batches, or the run's own steps."""
    if any("epoch" not in line for line in lines):
        return STEP
    return BATCH if in_epochs(lines) is None else EPOCH


def positions(lines: Lines, counted: str) -> list[float]:
    """Return the x-value of each line.

    Args:
        lines: the lines of one metric.
        counted: the unit of the axis, as returned by `unit`, for this metric or for all that share the axis.
    """
    found = in_epochs(lines) if counted == EPOCH else None
    return [float(line["step"]) for line in lines] if found is None else found


def in_epochs(lines: Lines) -> list[float] | None:
    """Return the x-value of each line in epochs: whole numbers for one value per epoch, fractions for several.

    Returns:
        None if a line has no epoch, or if the number of batches per epoch is unknown.
    """
    if any("epoch" not in line for line in lines):
        return None
    epochs = [int(line["epoch"]) for line in lines]
    if len(set(epochs)) == len(epochs):
        return [float(epoch) for epoch in epochs]
    size = batches(lines)
    return None if size is None else [line["step"] / size for line in lines]


def batches(lines: Lines) -> float | None:
    """Estimate the number of steps per epoch from the logged steps; None if fewer than two epochs were logged.

    Each step must fall within its epoch, which bounds the number. Within the bounds, the estimate is the distance
    between corresponding steps of consecutive epochs.
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
