"""The messages between a supervisor and its fork server (`forkserver.py`). Only types, which no process imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict, final

if TYPE_CHECKING:
    from labrun.config.instantiate import Node


class TaskMessage(TypedDict):
    """The keys of every task."""

    run: str
    """Id of the run or call."""
    rank: int
    out: str
    """File for standard output; see `print_to`."""
    err: str
    data: NotRequired[Mapping[str, Node]]
    """Data that the server reads first, since later runs read them too (`worker.hold`)."""


@final
class RunTask(TaskMessage):
    """Execute one process of a run; `run` is its folder (`worker.run_task`)."""

    environment: dict[str, str]
    """Its variables, in addition to the server's."""
    threads: int
    """Threads that the libraries may use."""
    pictures: bool
    """Whether it draws its pictures."""
    ranks: int
    """Number of processes of the run."""


@final
class GatherTask(TaskMessage):
    """Write the data for the pictures of a finished run to a file; `run` is its folder (`worker.run_task`)."""

    environment: dict[str, str]
    threads: int
    gather: str
    """The file."""


@final
class CallTask(TaskMessage):
    """Execute one process of a call (`call.run_task`), or start a program for it."""

    call: str
    """The executor's folder."""
    variables: dict[str, str]
    """Its whole environment."""
    cwd: str
    threads: int | None
    """Threads that the libraries may use; None: as the variables say."""
    command: NotRequired[list[str]]
    """The program that replaces the process."""


ServerTask = RunTask | GatherTask | CallTask


@final
class ServerReady(TypedDict):
    """The server has finished its imports."""

    ready: float
    """Their duration, in seconds."""


@final
class TaskForked(TypedDict):
    """A task's process was started."""

    run: str
    rank: NotRequired[int]
    """Missing in answers of code frozen before runs could have several processes."""
    pid: int


@final
class TaskEnded(TypedDict):
    """A task's process has ended."""

    pid: int
    status: int
    """Its wait status."""


ServerAnswer = ServerReady | TaskForked | TaskEnded
