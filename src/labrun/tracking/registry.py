"""Trackers by kind: labrun's own, and those of installed packages (entry points `labrun.trackers`)."""

from __future__ import annotations

from labrun.config.schema import NO_TRACKER, Tracking
from labrun.errors import ConfigError
from labrun.plugins import TRACKERS
from labrun.tracking.base import Tracker

names, forget = TRACKERS.names, TRACKERS.forget


def get(kind: str) -> Tracker:
    """Return the tracker of a kind.

    Raises:
        ConfigError: there is none, or its package cannot be used.
    """
    tracker: Tracker = TRACKERS.get(kind)
    return tracker


def named(settings: Tracking) -> Tracker | None:
    """Return the configured tracker; None if tracking is off.

    Raises:
        ConfigError: see `get`.
    """
    return None if settings.kind == NO_TRACKER else get(settings.kind)


def check(settings: Tracking) -> None:
    """Check that the configured tracker can be used.

    Raises:
        ConfigError: it cannot.
    """
    tracker = named(settings)
    if tracker is not None and (problems := list(tracker.problems(settings))):
        raise ConfigError(problems)
