"""The contract of a task: the work of a run, selected with `task=`.

A task receives a run whose mounts are in place. It reads the data, notes that in the record, does its work, and
finally prints the summary table. It never knows where it runs.

Tasks of other packages are found by their entry point in the group `labrun.tasks` (`labrun.plugins`). Checking a config
imports this module, so it imports no library, and of labrun only modules that import none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from labrun.plugins import TASKS
from labrun.runs.groups import DataEntry

if TYPE_CHECKING:
    from labrun.config.instantiate import Node
    from labrun.config.schema import Config
    from labrun.runs.record import Record, RunPaths
    from labrun.runs.recording import Recording


@dataclass(frozen=True)
class Run:
    """A run in progress."""

    recording: Recording
    signed: Config
    """Its config, with mounts still as references."""
    config: Config
    """Its config, with mounts replaced by paths."""
    inputs: list[DataEntry]
    """The mounted data."""
    pictures: bool
    """Whether to draw the run's pictures."""
    sign: Callable[[list[DataEntry]], str]
    """Returns the signature of a run that has read the given data."""

    @property
    def record(self) -> Record:
        """The run's record."""
        return self.recording.record

    @property
    def paths(self) -> RunPaths:
        """The run's folder."""
        return self.recording.paths

    def note_data(self, *read: DataEntry) -> None:
        """Add the data that was read to the mounted data in the record, and sign the record."""
        self.record.data = [*read, *self.inputs]
        self.record.signature = self.sign(self.record.data)
        self.recording.write()


class TaskType(ABC):
    """Base class of tasks; see the module."""

    name: ClassVar[str]
    """The value of `task` that selects it."""
    trains: ClassVar[bool] = False
    """Whether it fits the model in its config."""
    scores: ClassVar[bool] = False
    """Whether it uses the model of another run, given by `from`."""
    reads: ClassVar[bool] = True
    """Whether labrun reads a data set and builds a model for it, from `dataset` and `model`."""
    needs_targets: ClassVar[bool] = True
    """Whether the data must hold a target for each sample."""
    uses_hydra: ClassVar[bool] = True
    """Whether its work may need Hydra, even if the config has no references and no settings of Hydra."""
    part: ClassVar[str | None] = None
    """The split that it requires."""

    def problems(self, config: Node) -> Iterator[str]:
        """Yield the mistakes in a config, not yet validated, that only this task can detect."""
        return iter(())

    @abstractmethod
    def run(self, run: Run) -> None:
        """Do all of the run's work."""

    def assist(  # noqa: B027 - most have one process
        self, paths: RunPaths, record: Record, config: Config, inputs: list[DataEntry]
    ) -> None:
        """Take part as a process other than the first; record nothing."""


def of(config: Config) -> TaskType:
    """Return the task of a config.

    Raises:
        ConfigError: there is no task of that name, or its package cannot be used.
    """
    found: TaskType = TASKS.get(config.task)
    return found
