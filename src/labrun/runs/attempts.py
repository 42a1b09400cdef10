"""Groups of keys in a run's record: its attempts, their processes and jobs, and how it failed.

A key that this version does not know comes from a later one, and is written back as it was read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from labrun import errors
from labrun.errors import RunFailedError


@dataclass
class Group:
    """Keys of a record that belong together."""

    more: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    """Further keys: of a later version, or of the backend."""

    @classmethod
    def of(cls, content: object) -> Self:
        """Return the group that a record holds; an empty one if it holds something else."""
        given = cls._typed(content) if isinstance(content, Mapping) else {}
        names = [one.name for one in dataclasses.fields(cls) if one.name != "more"]
        known = {name: given[name] for name in names if name in given}
        return cls(**known, more={key: value for key, value in given.items() if key not in names})

    @classmethod
    def _typed(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the content with values of the types that readers rely on."""
        return content

    def as_json(self) -> dict[str, Any]:
        """Return the group as a record holds it."""
        names = [one.name for one in dataclasses.fields(self) if one.name != "more"]
        return {**{name: plain(getattr(self, name)) for name in names}, **self.more}


def plain(value: Any) -> Any:
    """Return a value of a record as plain dicts and lists."""
    if isinstance(value, Group):
        return value.as_json()
    return [plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class Failure(Group):
    """The error that ended a run."""

    type: str = ""
    """Name of the exception's class, or an `EndReason`."""
    message: str = ""
    traceback: str = ""
    from_labrun: bool | None = None
    """Whether labrun raised it, rather than the run's own code; None in older records, and if no exception did."""

    @classmethod
    def _typed(cls, content: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = {name: str(content[name] or "") for name in ("type", "message", "traceback") if name in content}
        given = content.get("from_labrun")
        return {**content, **texts, "from_labrun": given if isinstance(given, bool) else None}

    def is_labruns(self) -> bool:
        """Return `from_labrun`; without it, whether labrun has an error of that name."""
        if self.from_labrun is not None:
            return self.from_labrun
        return self.type.endswith("Error") and self.type != RunFailedError.__name__ and hasattr(errors, self.type)

    def as_json(self) -> dict[str, Any]:
        """See `Group.as_json`."""
        return {key: value for key, value in super().as_json().items() if key != "from_labrun" or value is not None}


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
class Attempt(Group):
    """One attempt to execute a run. What is not known of it is not in the record."""

    number: int = 0
    started: str | None = None
    status: str | None = None
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
        groups: dict[str, type[Group]] = {"process": Process, "job": Job}
        found = {key: groups[key].of(content[key]) for key in groups if isinstance(content.get(key), Mapping)}
        number = content.get("number")
        return {**content, **dict.fromkeys(groups), **found, "number": number if type(number) is int else 0}

    def end(self, status: str, reason: str | None, ended: str) -> None:
        """Note how and when it ended; None keeps the reason that is there."""
        self.status, self.reason, self.ended = status, reason or self.reason, ended

    def as_json(self) -> dict[str, Any]:
        """See `Group.as_json`."""
        return {key: value for key, value in super().as_json().items() if value is not None}
