"""The contract of a tracker: a view of the records, for whoever wants to see runs beside others, or elsewhere.

A run writes only its own folder. A tracker reads the folders and shows what is new since it was last asked, by one
process at a time (`feed.py`). What every tracker must do, and `tests/tracking/test_contract.py` checks of each:

1. *Idempotent*: sending twice changes nothing; what was noted as sent may be lost, and the view is the same.
2. *True*: a run's status, values and metrics are those of its record, also when they change afterwards.
3. *One record never keeps the others back*: what cannot be shown is left out, counted and named; the rest arrives.
4. *Interruptible*: `must_end` is asked before each run, and what was sent by then need not be sent again.
5. *Removed runs go*: what `lab runs rm` has removed is not shown any more.

A tracker that is not labrun's own is found by its entry point in the group `labrun.trackers` (`registry.py`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from labrun.runs import context
from labrun.runs.record import Record, RunPaths
from labrun.schema import Tracking

NAMED = 20
"""Things that are named; the others are counted."""
ProgressCallback = Callable[[int, int], None]
"""Is told how many runs are done, of how many."""


@dataclass
class LeftOut:
    """What a view does not show, by the run or model that it belongs to."""

    found: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, whose: str, what: Mapping[str, int] | None = None) -> None:
        """Note a run or model; nothing where `what` is empty.

        Args:
            whose: says which, and, without `what`, why it is left out as a whole.
            what: what of it, and how often.
        """
        if what is None:
            self.found[whose] = {}
        for one, count in (what or {}).items():
            own = self.found.setdefault(whose, {})
            own[one] = own.get(one, 0) + count

    def taken(self) -> list[str]:
        """A line for each run or model; they are forgotten then."""
        lines = [f"{whose}: {listed(own)}" if own else whose for whose, own in self.found.items()]
        self.found = {}
        return lines


@dataclass(frozen=True)
class Fed:
    """What came of bringing a view up to date."""

    news: int
    """Runs that had any."""
    left_out: list[str]
    """What it does not show, a line for each run or model."""


class Session(Protocol):
    """A view that is open, for one process that sends to it."""

    left_out: LeftOut
    """What could not be sent since it was last asked for."""

    @property
    def is_lost(self) -> bool:
        """Whether the view was deleted since it was opened, and must be opened anew."""

    def send(self, progress: ProgressCallback | None, must_end: Callable[[], bool]) -> int:
        """Show all that is new; how many runs had news.

        Args:
            progress: called with the progress.
            must_end: asked before each run; what was sent by then is noted.

        Raises:
            Exception: the view's own, where it cannot be used at all.
        """


class Tracker(ABC):
    """A kind of view; see the module."""

    kind: ClassVar[str]
    """As `tracking.kind` has it."""
    label: ClassVar[str]
    """What people call it."""

    def problems(self, settings: Tracking) -> Iterable[str]:
        """What keeps it from working here: a message for each.

        Args:
            settings: the config's `tracking`.
        """
        return ()

    @abstractmethod
    def address(self, root: Path, settings: Tracking) -> str:
        """Where the view is kept: a folder, a file or a server.

        Args:
            root: the workspace.
            settings: the config's `tracking`.
        """

    def key(self, root: Path, address: str) -> str:
        """What tells the files that labrun keeps of this view from those of others, as a part of their names."""
        return f"-{self.kind}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"

    def silence(self, address: str) -> str | None:
        """Why a view that is fed during runs cannot be reached; None if it can be, or if unknown."""
        return None

    @abstractmethod
    def follows(self, settings: Tracking) -> bool:
        """Whether it is fed while runs go on; else it is brought up to date when somebody looks."""

    @abstractmethod
    def open(self, root: Path, address: str, everything: bool = False) -> Session:
        """Open the view; it is made where it is not there.

        Args:
            root: the workspace.
            address: the view's.
            everything: show all runs of the workspace, where a tracker shows only those that name it otherwise.
        """

    def translate_errors(self, address: str) -> AbstractContextManager[None]:
        """Inside, what the view's library raises becomes a RecordError that says what to do."""
        from contextlib import nullcontext

        return nullcontext()

    @abstractmethod
    def shown(self, root: Path, record: Record, run_dir: Path) -> str:
        """Where the user sees a run: an address, or what to type."""


def listed(found: Mapping[str, int]) -> str:
    """`2 x a; b`, the first ones of many."""
    parts = [what if count == 1 else f"{count} x {what}" for what, count in found.items()]
    return "; ".join(parts[:NAMED] + ([f"and {len(parts) - NAMED} more"] if len(parts) > NAMED else []))


def stamp_of(run_dir: Path, *more: str) -> str:
    """What changes when a run's record does, or what is said of it.

    Args:
        run_dir: the run.
        more: files of it that count too.
    """
    found = []
    for path in (RunPaths(run_dir).record, *(run_dir / name for name in (context.ANNOTATIONS_FILE, *more))):
        try:
            status = path.stat()
            found.append(f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}")
        except OSError:
            found.append("0")
    return ":".join(found)
