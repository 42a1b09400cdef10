"""The contract of a task: what a run does, as `task=` names it.

A task is given a run whose mounts are carried out. It reads the data, says so in the record, does its work, and ends
with the table that people see. It never knows where it runs.

One that is not labrun's own is found by its entry point in the group `labrun.tasks` (`labrun.plugins`). Nothing but
the standard library and the schema is imported here: whoever checks a config asks it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from labrun.plugins import TASKS

if TYPE_CHECKING:
    from labrun.runs.record import Record, RunPaths
    from labrun.runs.recording import Recording


@dataclass(frozen=True)
class Run:
    """A run that is being carried out."""

    recording: Recording
    signed: Mapping[str, Any]
    """Its config, in which mounts are references still."""
    config: Mapping[str, Any]
    """The same with paths in their place."""
    inputs: list[dict[str, Any]]
    """What was mounted, as the record says it."""
    pictures: bool
    """Whether whoever carries it out wants its pictures drawn."""
    sign: Callable[[list[dict[str, Any]]], str]
    """The signature of a run that has read these data."""

    @property
    def record(self) -> Record:
        """The run's record."""
        return self.recording.record

    @property
    def paths(self) -> RunPaths:
        """The run's folder."""
        return self.recording.paths

    def note_data(self, *read: dict[str, Any]) -> None:
        """Say in the record what was read, beside what was mounted, and sign it."""
        self.record.data = [*read, *self.inputs]
        self.record.signature = self.sign(self.record.data)
        self.recording.write()


class TaskType(ABC):
    """What a run does; see the module."""

    name: ClassVar[str]
    """As `task` has it."""
    trains: ClassVar[bool] = False
    """Whether it fits the model that its config names."""
    scores: ClassVar[bool] = False
    """Whether its model is another run's, which `from` names."""
    reads: ClassVar[bool] = True
    """Whether labrun reads a data set for it, and makes a model: `dataset` and `model` are chosen then."""
    part: ClassVar[str | None] = None
    """The part of the data that it cannot do without."""

    def problems(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Every mistake in a config that this task alone sees."""
        return iter(())

    @abstractmethod
    def run(self, run: Run) -> None:
        """Do it, whole."""

    def assist(  # noqa: B027 - most have one process
        self, paths: RunPaths, record: Record, config: Mapping[str, Any], inputs: list[dict[str, Any]]
    ) -> None:
        """Take part in it as one of several processes that is not the first: record nothing."""


def of(config: Mapping[str, Any]) -> TaskType:
    """The task of a config.

    Raises:
        ConfigError: there is none of that name, or its package cannot be used.
    """
    found: TaskType = TASKS.get(str(config["task"]))
    return found
