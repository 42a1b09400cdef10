"""What labrun keeps of the launch of a folder's runs, in its `.launch`: every path there, and the plan.

The folder is a sweep's, or that of a single run that does not stay in the process that composes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labrun._io import append_line
from labrun.errors import RecordError
from labrun.runs import context, custom_locations, store
from labrun.runs import record as records
from labrun.runs.record import Record

LONGEST_ID = 1000


@dataclass(frozen=True)
class SweepState:
    """Where each file of a launch lies.

    Args:
        folder: the sweep's, or the run's.
    """

    folder: Path

    @property
    def root(self) -> Path:
        """The folder of all of it: private, since its files say what runs in this user's name."""
        return self.folder / custom_locations.LAUNCH

    def make(self) -> None:
        """Make the folder if it is not there."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def plan(self) -> Path:
        """What the controller must know (`Plan`)."""
        return self.folder / custom_locations.PLAN

    @property
    def parent(self) -> Path:
        """The id of the run that the sweep belongs to; there is none otherwise."""
        return self.root / "parent"

    @property
    def submitted(self) -> Path:
        """There once every run of the plan has its record."""
        return self.root / "submitted"

    @property
    def controllers(self) -> Path:
        """A file for each controller, by number: the newest holds the lease."""
        return self.root / "controllers"

    @property
    def controller_log(self) -> Path:
        """What a controller without a terminal prints."""
        return self.root / "controller.log"

    @property
    def begun(self) -> Path:
        """There once a controller has taken up the runs."""
        return self.root / "begun"

    @property
    def given_up(self) -> Path:
        """Which failed runs are not tried again: a line each, with how many attempts they had."""
        return self.root / "given_up"

    @property
    def jobs(self) -> Path:
        """Which run went into which job of a cluster, a line for each step of a submission."""
        return self.root / "jobs.jsonl"

    @property
    def slurm(self) -> Path:
        """The jobs' manifests and logs."""
        return self.root / "slurm"

    @property
    def study(self) -> Path:
        """A search's journal of trials."""
        return self.root / "study.journal"

    @property
    def search(self) -> Path:
        """A search's settings and what it has used up."""
        return self.root / "search.json"

    @property
    def search_over(self) -> Path:
        """There once a search is at its end, and what it leaves is written."""
        return self.root / "over"

    @property
    def search_ending(self) -> Path:
        """The process that writes what a search leaves."""
        return self.root / "ending"

    @property
    def search_canceled(self) -> Path:
        """There once somebody has asked that no more trials begin."""
        return self.root / "cancel"


@dataclass
class Plan:
    """What the controller of a folder must know that stands in no single record; `.launch/plan.json`."""

    target: str
    """The backend's name."""
    runs: list[str]
    """The runs' folders, relative to this one; `.` where it is a run itself."""
    path: list[str]
    preload: list[str]
    cwd: str
    name: str
    tracking: dict[str, Any]
    parallel: int = 1
    cores: int | None = None
    """Those that the runs share, unless `compute.max_parallel` says how many there are at once."""
    python: str | None = None
    gpus_per_run: int = 0
    """As many as any of the runs needs."""
    runs_per_gpu: int = 1
    max_failures: int | None = None
    draws: bool = False
    """Whether the best run's pictures are drawn in the end."""
    command: list[str] | None = None
    """A search's own arguments: who takes it over composes its next runs from them."""
    is_marked: bool = False
    """Whether a file beside it tells that all runs have their records (`note_submitted`)."""

    def write(self, folder: Path) -> None:
        """Put it in the folder.

        Raises:
            RecordError: the folder cannot be written.
        """
        try:
            SweepState(folder).make()
            SweepState(folder).submitted.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(records.cannot_write(folder, error)) from error
        records.replace_text(SweepState(folder).plan, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def note_submitted(folder: Path) -> None:
    """Every run of the plan has its record now."""
    with contextlib.suppress(OSError):
        SweepState(folder).submitted.touch()


def note_given_up(folder: Path, record: Record) -> None:
    """A run that could be tried again has failed for good: whoever looks from elsewhere cannot tell otherwise."""
    with contextlib.suppress(OSError):
        append_line(SweepState(folder).given_up, f"{record.id} {len(record.attempts)}")


def never_submitted(folder: Path, plan: Plan) -> int:
    """How many runs of a plan have no record since whoever submitted them was killed; removed ones do not count."""
    if not plan.is_marked or plan.command is not None or SweepState(folder).submitted.exists():
        return 0
    return sum(not os.path.exists(folder / name / "run.json") for name in plan.runs)


def read_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        RecordError: there is none, or it is damaged.
    """
    path = SweepState(folder).plan
    try:
        plan = Plan(**json.loads(context.content(path)))
        _check(plan)
        return plan
    except FileNotFoundError:
        raise RecordError(f"{folder} holds no sweep: there is no {path}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is damaged or cannot be read: {error}") from error


def _check(plan: Plan) -> None:
    """Whether a plan's values are of the kinds that readers rely on; its runs lie in its folder.

    Raises:
        ValueError: they are not.
    """
    lists = (plan.runs, plan.path, plan.preload, plan.command or [])
    if not all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in lists):
        raise ValueError("runs, path, preload or command is not a list of texts")
    for name in plan.runs:
        if "\0" in name or os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise ValueError(f"the run {name!r:.100} does not lie in its folder")
    if not all(isinstance(one, str) for one in (plan.target, plan.cwd, plan.name)) or "\0" in plan.cwd:
        raise ValueError("target, cwd or name is not text")
    if not isinstance(plan.tracking, dict) or not isinstance(plan.python, str | None):
        raise ValueError("tracking or python is of another kind")
    for number in (plan.parallel, plan.cores, plan.gpus_per_run, plan.runs_per_gpu, plan.max_failures):
        if not isinstance(number, int | None):
            raise ValueError(f"{number!r:.60} is not a whole number")


def readable(folder: Path, plan: Plan) -> list[tuple[Path, Record]]:
    """The runs of a plan whose record can be read, with it; missing or damaged ones are reported and left out."""
    return store.readable([(folder / name).resolve() for name in plan.runs])


def run_dirs(folder: Path, plan: Plan) -> list[Path]:
    """The folders of the runs that `readable` gives."""
    return [run_dir for run_dir, _ in readable(folder, plan)]


def parent_of(folder: Path) -> str | None:
    """The id of the run that a sweep belongs to."""
    try:
        found = context.content(SweepState(folder).parent, LONGEST_ID).decode(errors="replace").strip()
    except OSError:
        return None
    return found if found.isalnum() else None
