"""The trackers by kind: labrun's own, and those that installed packages bring (entry points `labrun.trackers`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrun.errors import ConfigError
from labrun.plugins import TRACKERS
from labrun.tracking.base import Tracker

NONE = "none"
"""The run directories alone."""
names, forget = TRACKERS.names, TRACKERS.forget


def get(kind: str) -> Tracker:
    """The tracker of that kind.

    Raises:
        ConfigError: there is none, or its package cannot be used.
    """
    tracker: Tracker = TRACKERS.get(kind)
    return tracker


def named(settings: Mapping[str, Any]) -> Tracker | None:
    """The tracker that a config's `tracking` names; None: none.

    Raises:
        ConfigError: see `get`.
    """
    return None if settings["kind"] == NONE else get(str(settings["kind"]))


def check(settings: Mapping[str, Any]) -> None:
    """Whether the view that a config names can be had.

    Raises:
        ConfigError: it cannot.
    """
    tracker = named(settings)
    if tracker is not None and (problems := list(tracker.problems(settings))):
        raise ConfigError(problems)
