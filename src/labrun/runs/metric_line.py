"""Types of the lines of a run's metrics file, which `labrun.runs.context` writes."""

from __future__ import annotations

from typing import TypedDict


class _Sometimes(TypedDict, total=False):
    epoch: int
    """The pass over the data, starting at 1; missing if the value has none."""
    std: float
    """Standard deviation, of a mean over more than one run (`report.mean_curves`)."""
    n: int
    """Number of runs that a mean is over."""


class Point(_Sometimes):
    """A value of a metric, as a point of its curve."""

    name: str
    step: int
    value: float


class _Marks(TypedDict, total=False):
    is_whole: bool
    """True if the value was logged as an int."""
    system: bool
    """True if the run's supervisor measured it."""


class MetricLine(Point, _Marks):
    """A valid line of the metrics file, as `metric` returns it."""

    time: float
    """When it was logged, in seconds since 1970."""
    attempt: int
