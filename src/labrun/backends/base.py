"""The contract of a backend, which executes runs.

A run is a folder. Its record describes the work completely and is written before the backend sees the run. The backend
calls `labrun.execute.execute` for it, in a process of its choice, and ensures that the record is closed in every case.
`labrun.control.controller` drives the backend: one controller at a time submits a folder's runs to an `Executor` and
polls it.

Every backend must meet these requirements, which `tests/backends/test_contract.py` checks:

1. *Refuse before anything runs*: `problems` lists everything that a configuration requests but cannot have, at once.
2. *Execute each run once*: `submit` takes it, and `poll` returns it once, when its record is closed.
3. *Close records that their runs cannot close*: a run whose process is killed fails, or returns to the queue.
4. *Isolate failures*: when one run fails, the others continue.
5. *Obey requests*: a file in the run's `requests` folder, written by any process, ends the run; a waiting run is
   canceled.
6. *Outlive the controller, or declare that it does not*: with `outlives_controller`, a later executor of the same
   folder takes over the runs that are still active. Otherwise the runs end with their controller, and the next
   controller starts them again.
7. *Answer for runs that nobody polls*: `is_over` tells whether a job has ended; `cancel_unpolled` ends one.
8. *Measure the resources that a run uses*, from outside its process, if `Resources.measured_every_s` is set: see
   `runs.system_metrics`.

labrun finds a third-party backend by its entry point in the group `labrun.backends` (`registry.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from labrun.backends.variables import known_here
from labrun.config.instantiate import Node
from labrun.config.schema import Compute
from labrun.errors import ConfigError
from labrun.runs.record import Record
from labrun.runs.sweep_state import Plan


@dataclass(frozen=True)
class Resources:
    """The resources that one run needs (from `compute` in its config)."""

    cpus: int = 1
    """Total over all its processes."""
    gpus: int = 0
    ranks: int = 1
    """Processes to start on one machine, which train the run together."""
    timeout_s: float | None = None
    mem_gb: float | None = None
    retries: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    pictures: bool = False
    data: Mapping[str, Node] | None = None
    """The nodes `dataset` and `datastore` of its config; a pool compares them to find runs that read the same data."""
    measured_every_s: float | None = None
    """Interval at which to measure its use of the machine (`runs.system_metrics`); None: never."""


def resources(
    record: Record, environment: Mapping[str, str] | None = None, alone: bool = False, once: bool = False
) -> Resources:
    """Return the resources that one run needs, from its config.

    Args:
        record: the run's record.
        environment: the run's environment variables, which records do not hold. By default they are looked up by name
            in this process.
        alone: the run has a cluster job to itself, and the cluster enforces the time limit.
        once: the caller cannot retry the run itself, and has already started its processes.
    """
    compute = record.typed.compute
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
        data={key: record.config[key] for key in ("dataset", "datastore")} if record.typed.dataset else None,
        measured_every_s=record.typed.measured_every_s,
    )


def draws_pictures(record: Record) -> bool:
    """Return whether a run draws its own pictures; the best run of a sweep is drawn when the sweep ends."""
    report = record.typed.report
    return report == "all" or (report == "auto" and record.sweep is None)


class Executor(Protocol):
    """Executes the runs of one folder, for one controller."""

    @property
    def busy(self) -> bool:
        """Whether any run is waiting or active."""

    def submit(self, run_dir: Path, needs: Resources) -> None:
        """Take a run whose record is written; take over a run that an earlier executor has submitted."""

    def poll(self, timeout_s: float = 0.5) -> list[Path]:
        """Let the runs proceed for a while. Return those that have ended since the last call, with closed records."""

    def cancel_all(self, at_once: bool = False, why: str = "canceled") -> None:
        """Cancel waiting runs, and ask active runs to stop, or end them at once.

        Args:
            at_once: end the active runs without waiting for them.
            why: the reason; `runs.finalize` adds to it whether a run had begun.
        """

    def draw(self, run_dir: Path) -> bool | None:
        """Draw a finished run's pictures. Return whether that succeeded; None: this backend never draws.

        Raises:
            LabrunError, OSError, ValueError: the reason for failure, if it is not in the run's log.
        """

    def close(self) -> None:
        """Release all resources."""


class Head(Protocol):
    """A resource that a backend has started before the first run (`Backend.start_ahead`)."""

    def close(self, at_once: bool = False) -> None:
        """End it."""


@dataclass(frozen=True)
class Capacity:
    """The number of runs that a backend executes at once."""

    parallel: int
    cores: int | None = None
    """Cores that the runs share if their needs differ; None: only `parallel` limits them."""


class Calls(Protocol):
    """Executes calls of a function through submitit, for an application that does not know labrun."""

    def submit(self, function: Callable[[bytes], Any], payloads: Sequence[bytes]) -> list[Any]:
        """Submit a call for each payload, and return submitit's jobs.

        Raises:
            LabrunError: the calls are refused.
        """

    def ends(self, jobs: Mapping[int, Any]) -> dict[int, str | None]:
        """Return the jobs that have ended, each with None if it has a result, otherwise with its final state."""

    def last_lines(self, job: Any) -> str:
        """Return the last lines that a job's program has printed to its standard error; empty if there are none."""

    def cancel(self, jobs: Sequence[Any]) -> None:
        """Ask jobs to stop."""

    def close(self) -> None:
        """Release all resources."""

    @property
    def poll_s(self) -> float:
        """Interval between two polls."""


class Backend(ABC):
    """Executes runs; the module docstring states the contract."""

    name: ClassVar[str]
    """The value of `compute.target` that selects it."""
    in_process: ClassVar[bool] = False
    """Whether a single run stays in the process that composes it."""
    starts_ahead: ClassVar[bool] = False
    """Whether `start_ahead` does anything."""
    supervises: ClassVar[bool] = True
    """Whether a process other than the run's can enforce its limits and end it."""
    outlives_controller: ClassVar[bool] = False
    """Whether a run continues after its controller has died."""
    is_remote: ClassVar[bool] = False
    """Whether the runs are on another machine, whose programs and data cannot be inspected locally."""
    program: ClassVar[str | None] = None
    """A program on the PATH of every machine where this backend works."""
    survey: ClassVar[Sequence[str]] = ()
    """A command that lists a machine's resources for `describe_survey`; empty if there is none."""
    settings: ClassVar[frozenset[str]] = frozenset()
    """Backend-specific keys of `compute` that this backend supports (`labrun.config.schema.SPECIAL`)."""
    once_per_sweep: ClassVar[tuple[str, ...]] = ("runs_per_gpu",)
    """Keys of `compute` that all runs of a sweep must share, in addition to those that every backend has."""

    @abstractmethod
    def problems(self, compute: Compute) -> Iterable[str]:
        """Yield a message for each request of a run that this backend cannot meet.

        The messages name keys as `compute.key` does: an application has them in `hydra.launcher`.

        Raises:
            ConfigError: the backend cannot be used at all.
        """

    def folder_problem(self, run_dir: Path, compute: Compute) -> str | None:
        """Return why a run with this `compute` cannot be in that folder; None if it can."""
        return None

    def run_problems(self, record: Record) -> Iterable[str]:
        """Yield a message for each item in a run's config that is not available to this backend."""
        return ()

    @abstractmethod
    def summary(self, compute: Compute) -> str:
        """Describe in a few words what runs with this `compute` would get (`lab compute ls`)."""

    def status(self) -> list[str]:
        """Return lines on what exists and what is free (`lab compute status`); empty if that is this machine."""
        return []

    @abstractmethod
    def capacity(self, needs: Sequence[tuple[int, int]], compute: Compute) -> Capacity:
        """Return how many runs can be active at once.

        Args:
            needs: cores and GPUs of each run.
            compute: the settings that the runs share.
        """

    def trials(self, wanted: int | None, plan: Plan, compute: Compute) -> int:
        """Return how many trials of a search can be active at once; `wanted` is `sweep.max_concurrent`."""
        return min(wanted or plan.parallel, plan.parallel)

    def start_ahead(self, compute: Compute, path: Sequence[str], targets: Sequence[str]) -> Head | None:
        """Start slow preparations before the first run is completely frozen.

        Args:
            compute: the runs' settings.
            path: the runs' import path.
            targets: targets that the runs import.
        """
        return None

    @abstractmethod
    def executor(self, folder: Path, plan: Plan, count: int, head: Head | None = None) -> Executor:
        """Return an executor for the runs of a folder.

        Args:
            folder: the folder of the sweep, or of the run.
            plan: the folder's plan.
            count: number of runs to execute.
            head: result of `start_ahead`; its owner closes it.
        """

    def attached(self, folder: Path) -> set[Path]:
        """Return the runs of a folder that are active or queued although no controller drives them."""
        return set()

    def release(self, folder: Path, unfinished: Callable[[], set[Path]]) -> list[str]:
        """End all active and waiting runs of a folder, which go to another backend now.

        Args:
            folder: the sweep's folder.
            unfinished: returns its unfinished runs; called only if there are jobs.

        Returns:
            The jobs that were ended.
        """
        return []

    def is_over(self, job: str) -> bool | None:
        """Return whether a run's job (`Record.job`) has ended; None if unknown."""
        return None

    def step(self, job: str, node: str | None, programs: str = "", tty: bool = False) -> list[str] | None:
        """Return the words that, before a command, make it a further process of a running job (`lab shell`).

        Args:
            job: id of the job.
            node: node of the run, if known.
            programs: the folder that holds `program`; empty if it is on the PATH.
            tty: give the process a terminal.

        Returns:
            None: a job cannot have further processes.
        """
        return None

    def describe_survey(self, output: str) -> str:
        """Describe a machine's resources from the output of `survey` there (`lab remote doctor`)."""
        return output.strip()

    def blocking_job(self, name: str, options: Sequence[str], programs: str = "") -> list[str] | None:
        """Return the words that, before a command, execute it in a job of its own and wait for it.

        Args:
            name: name of the job.
            options: the backend's options for the job, from the user.
            programs: as for `step`.

        Returns:
            None: this backend has no such jobs.
        """
        return None

    def cancel_unpolled(self, folder: Path, run_dir: Path) -> bool | None:
        """Cancel a run that no controller polls.

        Returns:
            True: its waiting job was removed; False: the job is running, and will itself obey the request in the run's
            folder; None: there is no job.
        """
        return None

    def room(self, compute: Compute) -> int:
        """Return how many calls of an application can be active at once; `compute` is its `hydra.launcher`."""
        return 1

    def calls(self, folder: Path, compute: Compute, modules: Sequence[str]) -> Calls:
        """Return an executor for calls of an application.

        Args:
            folder: for pickles and logs.
            compute: the settings of `hydra.launcher`.
            modules: modules that the application has imported, to be imported once for all calls.

        Raises:
            ConfigError: this backend executes only labrun's own runs.
        """
        raise ConfigError(f"hydra.launcher.target={self.name}: this backend executes only labrun's own runs")
