"""The trackers by kind: labrun's own, and those that installed packages bring (entry points `labrun.trackers`)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from labrun import checking
from labrun.errors import ConfigError
from labrun.tracking.base import Tracker

GROUP = "labrun.trackers"
OWN = {"mlflow": "labrun.tracking.mlflow.tracker:MLflow", "wandb": "labrun.tracking.wandb.tracker:Wandb"}
NONE = "none"
"""The run directories alone."""


@functools.cache
def _others() -> dict[str, metadata.EntryPoint]:
    """Those of installed packages; looked up only where a kind is none of ours."""
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def kinds() -> list[str]:
    """Every tracker's kind."""
    return [*OWN, *sorted(set(_others()) - set(OWN))]


@functools.cache
def get(kind: str) -> Tracker:
    """The tracker of that kind.

    Raises:
        ConfigError: there is none, or its package cannot be imported.
    """
    if kind in OWN:
        module, _, attribute = OWN[kind].partition(":")
        tracker: type[Tracker] = getattr(importlib.import_module(module), attribute)
        return tracker()
    if kind not in _others():
        known = [*kinds(), NONE]
        raise ConfigError(f"tracking.kind={kind!r}: expected one of {', '.join(known)}.{checking.suggest(kind, known)}")
    try:
        loaded = _others()[kind].load()
    except Exception as error:  # whatever a package of somebody else's does
        raise ConfigError(f"tracking.kind={kind!r}: its package fails: {type(error).__name__}: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Tracker)):
        raise ConfigError(
            f"tracking.kind={kind!r}: {_others()[kind].value} is no class of labrun.tracking.base.Tracker"
        )
    return loaded()


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
