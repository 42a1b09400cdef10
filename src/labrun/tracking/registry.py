"""The trackers by kind: labrun's own, and those that installed packages bring (entry points `labrun.trackers`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labrun.errors import ConfigError
from labrun.plugins import Plugins
from labrun.tracking.base import Tracker

NONE = "none"
"""The run directories alone."""
_TRACKERS = Plugins(
    Tracker,  # type: ignore[type-abstract]
    "labrun.trackers",
    {"mlflow": "labrun.tracking.mlflow.tracker:MLflow", "wandb": "labrun.tracking.wandb.tracker:Wandb"},
    key="tracking.kind",
    also=[NONE],
)
get, forget = _TRACKERS.get, _TRACKERS.forget


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
