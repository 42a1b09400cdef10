"""State of a launch, in `.launch` below a folder: all its paths, and the plan.

The folder belongs to a sweep, or to a single run that executes outside the process that composed its config.
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
from labrun.runs import context
from labrun.runs.record import Record, cannot_write, replace_text

LONGEST_ID = 1000


@dataclass(frozen=True)
class SweepState:
    """Paths of the files of a launch.

    Args:
        folder: the sweep's folder, or the run's.
    """

    folder: Path

    @property
    def root(self) -> Path:
        """The folder of these files. It is private, since the files decide what runs as this user."""
        return self.folder / context.LAUNCH

    def make(self) -> None:
        """Create the folder if it does not exist."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def plan(self) -> Path:
        """The controller's plan (`Plan`)."""
        return self.root / "plan.json"

    @property
    def parent(self) -> Path:
        """Holds the ID of the run that the sweep belongs to; exists only if there is one."""
        return self.root / "parent"

    @property
    def hydra(self) -> Path:
        """Hydra's files of a run; exists only if `hydra.output_subdir` is not `.hydra`."""
        return self.root / "hydra"

    @property
    def submitted(self) -> Path:
        """Exists once every run of the plan has a record."""
        return self.root / "submitted"

    @property
    def controllers(self) -> Path:
        """One file per controller, by number; the highest holds the lease."""
        return self.root / "controllers"

    @property
    def controller_log(self) -> Path:
        """Output of a controller without a terminal."""
        return self.root / "controller.log"

    @property
    def refusal(self) -> Path:
        """Why its controller did not begin; see `labrun.refusal`."""
        return self.root / "refusal"

    @property
    def begun(self) -> Path:
        """Exists once a controller has taken up the runs."""
        return self.root / "begun"

    @property
    def remote_link(self) -> Path:
        """The machine that executes the runs, and where they are on it (`labrun.remote.links`)."""
        return self.root / "remote.json"

    @property
    def remote_read(self) -> Path:
        """Touched whenever a command reads these runs, which are on another machine."""
        return self.root / "looked"

    @property
    def mirror_lock(self) -> Path:
        """Held while that machine's changes are mirrored."""
        return self.root / "mirror.lock"

    @property
    def remote_controller(self) -> Path:
        """Identifies the controller that another machine has started for this folder (`labrun.remote`)."""
        return self.root / "far"

    @property
    def remote_errand(self) -> Path:
        """Identifies another process that another machine has started for this folder."""
        return self.root / "far-errand"

    @property
    def given_up(self) -> Path:
        """Failed runs that will not be retried: one line each, with the number of their attempts."""
        return self.root / "given_up"

    @property
    def jobs(self) -> Path:
        """Maps runs to cluster jobs, one line for each step of a submission."""
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
        """A search's settings and the budget it has used."""
        return self.root / "search.json"

    @property
    def search_over(self) -> Path:
        """Exists once a search has ended and its results are written."""
        return self.root / "over"

    @property
    def search_ending(self) -> Path:
        """Identifies the process that writes a search's results."""
        return self.root / "ending"

    @property
    def search_canceled(self) -> Path:
        """Exists once somebody has canceled the search: no more trials start."""
        return self.root / "cancel"


RELATIVE = SweepState(Path())
"""The same paths relative to the folder, as the names of its files on another machine."""

WITH_HYDRA = "labrun.compose.hydra_job.around"
"""In `Plan.preload`: for scripts that refer to the environment or have settings of Hydra (`Record.needs_hydra`)."""


@dataclass
class Plan:
    """What a folder's controller needs beyond the runs' own records; stored in `.launch/plan.json`."""

    target: str
    """The backend's name."""
    runs: list[str]
    """The runs' folders, relative to this one; `.` if this one is a run itself."""
    path: list[str]
    preload: list[str]
    cwd: str
    name: str
    tracking: dict[str, Any]
    """The config's node as it is: a file must not hold the values of the environment variables that it refers to."""
    parallel: int = 1
    cores: int | None = None
    """CPU cores that the runs share, unless `compute.max_parallel` sets how many run at once."""
    python: str | None = None
    gpus_per_run: int = 0
    """The maximum over the runs."""
    runs_per_gpu: int = 1
    max_failures: int | None = None
    draws: bool = False
    """Whether to draw the best run's pictures at the end."""
    command: list[str] | None = None
    """A search's command-line arguments, from which a new controller composes its next runs."""
    is_marked: bool = False
    """Whether a file next to the plan marks that all runs have records (`note_submitted`); false in old plans."""

    def write(self, folder: Path) -> None:
        """Write the plan to its folder.

        Raises:
            RecordError: the folder is not writable.
        """
        try:
            SweepState(folder).make()
            SweepState(folder).submitted.unlink(missing_ok=True)
        except OSError as error:
            raise RecordError(cannot_write(folder, error)) from error
        replace_text(SweepState(folder).plan, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def note_submitted(folder: Path) -> None:
    """Mark that every run of the plan has a record."""
    with contextlib.suppress(OSError):
        SweepState(folder).submitted.touch()


def note_given_up(folder: Path, record: Record) -> None:
    """Note that a run will not be retried although it could be: other processes cannot tell otherwise."""
    with contextlib.suppress(OSError):
        append_line(SweepState(folder).given_up, f"{record.id} {len(record.attempts)}")


def never_submitted(folder: Path, plan: Plan) -> int:
    """Count the runs of a plan without a record because their submitter was killed; removed runs do not count."""
    if not plan.is_marked or plan.command is not None or SweepState(folder).submitted.exists():
        return 0
    return sum(not os.path.exists(folder / name / "run.json") for name in plan.runs)


def read_plan(folder: Path) -> Plan:
    """Read a folder's plan.

    Raises:
        RecordError: the plan is missing or damaged.
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
    """Check that a plan's values have the types that readers rely on, and that its runs are inside its folder.

    Raises:
        ValueError: they do not, or are not.
    """
    lists = (plan.runs, plan.path, plan.preload, plan.command or [])
    if not all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in lists):
        raise ValueError("runs, path, preload or command is not a list of strings")
    for name in plan.runs:
        if "\0" in name or os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise ValueError(f"the run {name!r:.100} is not inside its folder")
    if not all(isinstance(one, str) for one in (plan.target, plan.cwd, plan.name)) or "\0" in plan.cwd:
        raise ValueError("target, cwd or name is not text")
    if not isinstance(plan.tracking, dict) or not isinstance(plan.python, str | None):
        raise ValueError("tracking or python has the wrong type")
    for number in (plan.parallel, plan.cores, plan.gpus_per_run, plan.runs_per_gpu, plan.max_failures):
        if not isinstance(number, int | None):
            raise ValueError(f"{number!r:.60} is not a whole number")


def parent_of(folder: Path) -> str | None:
    """Return the ID of the run that a sweep belongs to, or None."""
    try:
        found = context.content(SweepState(folder).parent, LONGEST_ID).decode(errors="replace").strip()
    except OSError:
        return None
    return found if found.isalnum() else None
