"""Trackers by kind: labrun's own, and those of installed packages (entry points `labrun.trackers`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labrun.config.schema import NO_TRACKER, Tracking
from labrun.errors import ConfigError
from labrun.plugins import TRACKERS
from labrun.tracking.base import Tracker

DEFAULT = "mlflow"
"""The tracker of `lab ui` and `lab runs sync`. It shows every run, whichever tracker the run's config selects."""

names, forget = TRACKERS.names, TRACKERS.forget


def get(kind: str) -> Tracker:
    """Return the tracker of a kind.

    Raises:
        ConfigError: there is none, or its package cannot be used.
    """
    tracker: Tracker = TRACKERS.get(kind)
    return tracker


def all_known() -> Iterator[Tracker]:
    """Yield every tracker whose package can be used."""
    yield from TRACKERS.all_known()


def named(settings: Tracking) -> Tracker | None:
    """Return the configured tracker; None if tracking is off.

    Raises:
        ConfigError: see `get`.
    """
    return None if settings.kind == NO_TRACKER else get(settings.kind)


def page(root: Path, run_dir: Path | None = None, own: str | None = None) -> str | None:
    """Return the URL at which a run can be seen right now; None if there is none.

    Args:
        root: the workspace.
        run_dir: the run's folder; None: the URL of the start page.
        own: the kind of the tracker that the run's config selects; it is asked before the default one.
    """
    for kind in dict.fromkeys((own, DEFAULT)):
        tracker: Tracker | None = TRACKERS.find(kind)
        if tracker is not None and (found := tracker.page(root, run_dir)) is not None:
            return found
    return None


def sync_command(tracker: Tracker, address: str) -> str:
    """Return the command that updates a view."""
    which = "" if tracker.kind == DEFAULT else f" --tracker {tracker.kind}"
    return f"lab runs sync{which} --uri {address}"


def check(settings: Tracking) -> None:
    """Check that the configured tracker can be used.

    Raises:
        ConfigError: it cannot.
    """
    tracker = named(settings)
    if tracker is not None and (problems := list(tracker.problems(settings))):
        raise ConfigError(problems)
