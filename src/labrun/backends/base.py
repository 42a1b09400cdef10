"""The contract of a backend: a place where runs go.

A run is a folder. Its record says all that is to be done, and is written before the backend sees it; the backend has
`labrun.execute.execute` carry it out, in whatever process, and makes sure that the record is closed, whatever happens.
`labrun.control.controller` drives: one controller at a time submits a folder's runs to an `Executor` and polls it.

What every backend must do, and `tests/backends/test_contract.py` checks of each:

1. *Refuse before anything runs*: `problems` lists everything that a configuration asks for and cannot have, at once.
2. *Carry out each run once*: `submit` takes it, `poll` returns it once, when its record is closed.
3. *Close what cannot close itself*: a run whose process is killed ends as failed, or goes back in the queue.
4. *One run's failure is its own*: the others go on.
5. *Obey requests*: a file in the run's `requests` folder, from whatever process, ends it; what waits is canceled.
6. *Outlive the controller, or say that it does not*: where `outlives_controller`, a later executor of the same folder
   takes up what still runs; elsewhere the runs end with their controller, and the next one begins them again.
7. *Answer for runs that nobody polls*: `is_over` says whether a job has ended; `cancel_unpolled` ends one.
8. *Measure what a run uses*, from beside it, where `Resources.measured_every_s` says so: `runs.system_metrics`.

A backend that is not labrun's own is found by its entry point in the group `labrun.backends` (`registry.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from labrun.backends.variables import known_here
from labrun.errors import ConfigError
from labrun.runs.record import Record
from labrun.runs.recording import measured_every_s
from labrun.runs.sweep_state import Plan
from labrun.schema import Compute


@dataclass(frozen=True)
class Resources:
    """What one run needs of the machine (from the config's `compute`)."""

    cpus: int = 1
    """Of all its processes together."""
    gpus: int = 0
    ranks: int = 1
    """How many processes train it together, for whoever begins them on one machine."""
    timeout_s: float | None = None
    mem_gb: float | None = None
    retries: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = False
    data: Mapping[str, Any] | None = None
    """The nodes `dataset` and `datastore` of its config, by which a pool sees that several runs read the same."""
    measured_every_s: float | None = None
    """How often what it uses of the machine is to be measured (`runs.system_metrics`); None: never."""


def resources(
    record: Record, environment: Mapping[str, str] | None = None, alone: bool = False, once: bool = False
) -> Resources:
    """What one run needs, from its config.

    Args:
        record: the run's.
        environment: its variables; records do not hold them. By default they are looked up, by name, in this process.
        alone: it has a cluster's job to itself, which the cluster ends in time.
        once: whoever carries it out cannot try it again by itself, and has begun its processes.
    """
    compute = Compute.of(record.config["compute"])
    if environment is None:
        environment = known_here(compute.environment)
    ranks = 1 if once else compute.ranks
    return Resources(
        cpus=compute.cpus_per_run * ranks,
        ranks=ranks,
        gpus=compute.gpus_per_run,
        timeout_s=None if alone or compute.timeout_min is None else 60 * compute.timeout_min,
        mem_gb=compute.mem_gb,
        retries=0 if once else compute.retries,
        environment=environment,
        pictures=draws_pictures(record),
        data={key: record.config[key] for key in ("dataset", "datastore")} if record.config.get("dataset") else None,
        measured_every_s=measured_every_s(record),
    )


def draws_pictures(record: Record) -> bool:
    """Whether a run draws its pictures itself; a sweep's best run is drawn in the end."""
    report = record.config["report"]
    return bool(report == "all" or (report == "auto" and record.sweep is None))


class Executor(Protocol):
    """Carries out the runs of one folder, for one controller."""

    @property
    def busy(self) -> bool:
        """Whether any run is waiting or under way."""

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Take a run whose record is written; one that an earlier executor has submitted is taken up again."""

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Let the runs go on for a while; the runs that have ended since, their records closed."""

    def cancel_all(self, at_once: bool = False, why: str = "") -> None:
        """Cancel what waits, ask what runs to stop, or end it at once."""

    def draw(self, run_dir: Path) -> bool:
        """Draw a finished run's pictures; whether it worked."""

    def close(self) -> None:
        """Give back what is held."""


class Head(Protocol):
    """What a backend has started ahead of the first run (`Backend.start_ahead`)."""

    def close(self, at_once: bool = False) -> None:
        """End it."""


@dataclass(frozen=True)
class Capacity:
    """How many runs there are at once."""

    parallel: int
    cores: int | None = None
    """Those that the runs share where they differ in what they need; None: `parallel` alone counts."""


class Calls(Protocol):
    """Carries out calls of a function of an application that knows nothing of labrun, through submitit."""

    def submit(self, function: Callable[[bytes], Any], payloads: Sequence[bytes]) -> list[Any]:
        """Submit a call for each payload; submitit's jobs.

        Raises:
            LabrunError: they are refused.
        """

    def ends(self, jobs: Mapping[int, Any]) -> dict[int, str | None]:
        """Which of the jobs have ended: None where there is a result, else the state that each has ended in."""

    def cancel(self, jobs: Sequence[Any]) -> None:
        """Ask jobs to stop."""

    def close(self) -> None:
        """Give back what is held."""

    @property
    def poll_s(self) -> float:
        """How long to wait between two looks."""


class Backend(ABC):
    """A place where runs go; see the module."""

    name: ClassVar[str]
    """As `compute.target` has it."""
    in_process: ClassVar[bool] = False
    """Whether a single run stays in the process that composes it."""
    starts_ahead: ClassVar[bool] = False
    """Whether `start_ahead` begins anything."""
    supervises: ClassVar[bool] = True
    """Whether something beside a run can hold it to its limits, and end it."""
    outlives_controller: ClassVar[bool] = False
    """Whether a run goes on when its controller has died."""
    is_elsewhere: ClassVar[bool] = False
    """Whether the runs are on another machine, whose programs and data cannot be looked at from here."""
    program: ClassVar[str | None] = None
    """What a machine has on its PATH where this backend works."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Keys of `compute` that not every backend knows, and this one does (`labrun.schema.SPECIAL`)."""
    once_per_sweep: ClassVar[tuple[str, ...]] = ("runs_per_gpu",)
    """Keys of `compute` that must not differ between the runs of a sweep, beside those of every backend."""

    @abstractmethod
    def problems(self, compute: Compute) -> Iterable[str]:
        """What a run asks for that cannot be had here: a message for each.

        Raises:
            ConfigError: nothing can be had here at all.
        """

    def folder_problem(self, run_dir: Path, compute: Compute) -> str | None:
        """Why a run that asks for this cannot lie in that folder."""
        return None

    def run_problems(self, record: Record) -> Iterable[str]:
        """What a run names that cannot be had here: a message for each."""
        return ()

    @abstractmethod
    def summary(self, compute: Compute) -> str:
        """What runs that ask for this would find, in a few words (`lab compute ls`)."""

    def status(self) -> list[str]:
        """What is there and what is free, in lines (`lab compute status`); nothing if that is this machine."""
        return []

    @abstractmethod
    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """How many runs there are at once.

        Args:
            needs: cores and GPUs of each run.
            compute: what they have in common.
        """

    def trials(self, wanted: int | None, plan: Plan, compute: Compute) -> int:
        """How many trials of a search there are at once; `wanted` is `sweep.max_concurrent`."""
        return min(wanted or plan.parallel, plan.parallel)

    def start_ahead(self, compute: Compute, path: Sequence[str], targets: Sequence[str]) -> Head | None:
        """Begin what takes a while, before the first run is frozen whole.

        Args:
            compute: the runs'.
            path: where they import from.
            targets: what they need imported.
        """
        return None

    @abstractmethod
    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> Executor:
        """What carries out the runs of a folder.

        Args:
            folder: the sweep, or the run.
            plan: the folder's.
            count: how many runs there are to do.
            head: what `start_ahead` gave; its owner closes it.
        """

    def attached(self, folder: Path) -> set[Path]:
        """The runs of a folder that go on, or wait for their turn, though nobody controls them."""
        return set()

    def release(self, folder: Path, unfinished: Callable[[], set[Path]]) -> list[str]:
        """End what still runs or waits of a folder's runs: they go elsewhere now.

        Args:
            folder: the sweep's.
            unfinished: gives its runs that are not done; asked only where there are jobs.

        Returns:
            The jobs that were ended.
        """
        return []

    def is_over(self, job: str) -> bool | None:
        """Whether a run's job (`Record.job`) has ended; None if unknown."""
        return None

    def cancel_unpolled(self, folder: Path, run_dir: Path) -> bool | None:
        """Cancel a run that no controller polls.

        Returns:
            True: its job, which waited, is gone; False: the job is under way, and obeys the request in the run's
            folder by itself; None: there is no job.
        """
        return None

    def room(self, settings: Mapping[str, Any]) -> int:
        """How many calls of an application go on at once (`hydra.launcher`)."""
        return 1

    def calls(self, folder: Path, settings: Mapping[str, Any], modules: Sequence[str]) -> Calls:
        """What carries out calls of an application.

        Args:
            folder: for pickles and logs.
            settings: those of `hydra.launcher`.
            modules: what the application has imported, to be imported once.

        Raises:
            ConfigError: this backend carries out runs alone.
        """
        raise ConfigError(f"compute.target={self.name}: this backend runs labrun's own runs, and no other application")
