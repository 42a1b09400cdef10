"""The tracker interface. A tracker shows runs in another system, such as MLflow, as a view of their records.

A run writes only to its own folder. A tracker reads the folders and sends what is new since the last time, in one
process at a time (`feed.py`). Every tracker guarantees the following, checked by `tests/tracking/test_contract.py`:

1. *Idempotent*: sending twice changes nothing; losing the notes on what was sent does not change the view.
2. *Faithful*: a run's status, values and metrics are those of its record, even if they change afterwards.
3. *Records are independent*: data that cannot be shown are skipped, counted and reported; the rest arrives.
4. *Interruptible*: `must_end` is checked before each run, and what was sent by then need not be sent again.
5. *Removed runs disappear*: a run removed with `lab runs rm` is no longer shown, even if labrun's notes were lost.

Third-party trackers are found through the entry point group `labrun.trackers` (`trackers.py`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from labrun.config.schema import Tracking
from labrun.runs import context
from labrun.runs.record import Record, RunPaths

NAMED = 20
"""Maximum number of items listed; the others are only counted."""
ProgressCallback = Callable[[int, int], None]
"""Progress callback: runs done, runs in total."""


@dataclass
class LeftOut:
    """Items that a view does not show, by run or model."""

    found: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, whose: str, what: Mapping[str, int] | None = None) -> None:
        """Add skipped items of a run or model; do nothing if `what` is empty.

        Args:
            whose: the run or model; without `what`, also the reason why it is skipped as a whole.
            what: the skipped items with their counts.
        """
        if what is None:
            self.found[whose] = {}
        for one, count in (what or {}).items():
            own = self.found.setdefault(whose, {})
            own[one] = own.get(one, 0) + count

    def taken(self) -> list[str]:
        """Return a line per run or model, and clear the list."""
        lines = [f"{whose}: {listed(own)}" if own else whose for whose, own in self.found.items()]
        self.found = {}
        return lines


@dataclass(frozen=True)
class Fed:
    """Result of updating a view."""

    news: int
    """Number of runs with news."""
    left_out: list[str]
    """Items that are not shown, a line per run or model."""


class Session(Protocol):
    """An open view, used by the one process that sends to it."""

    left_out: LeftOut
    """Items that could not be sent since the list was last read."""

    @property
    def is_lost(self) -> bool:
        """Whether the view was deleted since it was opened, so that it must be reopened."""

    def send(self, progress: ProgressCallback | None, must_end: Callable[[], bool]) -> int:
        """Send everything that is new; return the number of runs with news.

        Args:
            progress: called with the progress.
            must_end: checked before each run; what was sent by then is saved.

        Raises:
            Exception: the view's own error if it is unusable.
        """


class Tracker(ABC):
    """A kind of view; see the module docstring."""

    kind: ClassVar[str]
    """Value of `tracking.kind`."""
    label: ClassVar[str]
    """Display name."""

    def problems(self, settings: Tracking) -> Iterable[str]:
        """Return messages about problems that prevent its use on this machine.

        Args:
            settings: the config's `tracking`.
        """
        return ()

    @abstractmethod
    def address(self, root: Path, settings: Tracking) -> str:
        """Return the address of the view: a folder, a file or a server.

        Args:
            root: the workspace.
            settings: the config's `tracking`.
        """

    def key(self, root: Path, address: str) -> str:
        """Return the name suffix of labrun's own files for this view, unique per view."""
        return f"-{self.kind}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"

    def silence(self, address: str) -> str | None:
        """Return why a view that is fed during runs cannot be reached; None if it can, or if unknown."""
        return None

    @abstractmethod
    def follows(self, settings: Tracking) -> bool:
        """Return whether the view is fed during runs; otherwise it is updated on demand."""

    @abstractmethod
    def open(self, root: Path, address: str, everything: bool = False) -> Session:
        """Open the view, creating it if necessary.

        Args:
            root: the workspace.
            address: the address of the view.
            everything: show all runs of the workspace, even those whose config does not select this tracker.
        """

    def translate_errors(self, address: str) -> AbstractContextManager[None]:
        """Translate errors of the view's library, within the context, into a RecordError that says what to do."""
        from contextlib import nullcontext

        return nullcontext()

    def has_view(self, root: Path) -> bool:
        """Return whether the workspace has a view at the default address, whatever labrun's notes say.

        `feed` asks this when a run is removed: without a view, nobody needs to know.
        """
        return False

    @abstractmethod
    def shown(self, root: Path, record: Record, run_dir: Path) -> str:
        """Return where the user can see a run: a URL, or a command to type."""

    def page(self, root: Path, run_dir: Path | None = None) -> str | None:
        """Return the URL at which a run can be seen right now; None if there is none.

        Args:
            root: the workspace.
            run_dir: the run's folder; None: the URL of the start page.
        """
        return None


def listed(found: Mapping[str, int]) -> str:
    """Format items with their counts, such as `2 x a; b`, listing only the first ones of many."""
    parts = [what if count == 1 else f"{count} x {what}" for what, count in found.items()]
    return "; ".join(parts[:NAMED] + ([f"and {len(parts) - NAMED} more"] if len(parts) > NAMED else []))


def stamp_of(run_dir: Path, *more: str) -> str:
    """Return a stamp that changes when a run's record or annotations change.

    Args:
        run_dir: the run's folder.
        more: further files of the run to include.
    """
    found = []
    for path in (RunPaths(run_dir).record, *(run_dir / name for name in (context.ANNOTATIONS_FILE, *more))):
        try:
            status = path.stat()
            found.append(f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}")
        except OSError:
            found.append("0")
    return ":".join(found)
