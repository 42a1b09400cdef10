"""A run's attempts, their processes and jobs, and how it failed, as groups of keys in its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labrun import errors
from labrun.errors import RunFailedError
from labrun.runs.groups import Group, Sparse
from labrun.runs.status import Status

FLAGS = ("from_labrun", "with_peer")
"""Keys of `Failure` that are true, false or, if None, not in the record."""


@dataclass
class Failure(Group):
    """The error that ended a run."""

    type: str = ""
    """Name of the exception's class, or an `EndReason`."""
    message: str = ""
    traceback: str = ""
    from_labrun: bool | None = None
    """Whether labrun raised it, rather than the run's own code; None in older records, and if no exception did."""
    with_peer: bool | None = None
    """Whether `message` also says what became of another process of the run (`peer_errors`); None if it does not."""

    @classmethod
    def _typed(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = {name: str(content[name] or "") for name in ("type", "message", "traceback") if name in content}
        flags = {name: content.get(name) for name in FLAGS}
        return {**content, **texts, **{name: flag if isinstance(flag, bool) else None for name, flag in flags.items()}}

    def is_labruns(self) -> bool:
        """Return `from_labrun`; without it, whether labrun has an error of that name."""
        if self.from_labrun is not None:
            return self.from_labrun
        return self.type.endswith("Error") and self.type != RunFailedError.__name__ and hasattr(errors, self.type)

    def as_json(self) -> dict[str, Any]:
        """See `Group.as_json`."""
        return {key: value for key, value in super().as_json().items() if key not in FLAGS or value is not None}


@dataclass
class Process(Group):
    """What identifies a process across all hosts and restarts."""

    pid: int | None = None
    host: str | None = None
    boot_id: str | None = None
    start_time: float | None = None


@dataclass
class Job(Group):
    """The job that executes an attempt."""

    cluster: str | None = None
    """Name of its backend."""
    id: str | None = None
    node: str | None = None

    @classmethod
    def _typed(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = {name: str(content[name]) for name in ("cluster", "id", "node") if content.get(name) is not None}
        return {**content, **texts}


@dataclass
class Attempt(Sparse):
    """One attempt to execute a run."""

    number: int = 0
    started: str | None = None
    status: Status | None = None
    process: Process | None = None
    job: Job | None = None
    model_code: dict[str, str] | None = None
    """SHA-256 of each module of the model's code; None if unknown."""
    read: list[dict[str, Any]] | None = None
    """What it read of the data."""
    ended: str | None = None
    reason: str | None = None
    """Why it ended, if the run did not say so itself."""

    @classmethod
    def _typed(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        number = content.get("number")
        return {**content, "number": number if type(number) is int else 0}

    def end(self, status: Status, reason: str | None, ended: str) -> None:
        """Note how and when it ended; None keeps the reason that is there."""
        self.status, self.reason, self.ended = status, reason or self.reason, ended
