"""Messages between commands, the warm interpreter and its zygotes (`wire.py`). Only types, which no process imports.

Interpreters of another version of labrun may be active: `lab warm` asks them, too.
"""

from __future__ import annotations

from typing import Literal, TypedDict, final


@final
class CommandRequest(TypedDict):
    """Execute a command. The client's working folder and its open descriptors come along."""

    ask: Literal["run"]
    facts: dict[str, object]
    """The client's interpreter (`identity.facts`)."""
    module: str
    arguments: list[str]
    environment: list[tuple[bytes, bytes]]
    descriptors: list[int]
    """The numbers that the descriptors have in the client."""


@final
class ControlRequest(TypedDict):
    """Answer with the `ServerState`; with `stop`, also accept no more commands."""

    ask: Literal["status", "stop"]


ClientRequest = CommandRequest | ControlRequest


@final
class CommandReady(TypedDict):
    """The process of a command was forked; its pidfd comes along."""

    pid: int


@final
class CommandRefused(TypedDict):
    """No process was forked for the command."""

    refused: str
    """Why."""


class CommandEnd(TypedDict, total=False):
    """A command's process has ended. One of the values is present."""

    code: int
    """Its exit code, from the process itself."""
    status: int
    """Its wait status, from the server."""


class ServerState(TypedDict):
    """The state of a warm interpreter."""

    process: int
    """Its pid."""
    since: float
    """When it was ready, in seconds since the epoch."""
    served: int
    """Number of commands that it has forked."""
    modules: int
    running: list[list[str]]
    """The arguments of each active command."""


class PoolRequest(TypedDict):
    """Fork the server of a pool. Two sockets, the working folder and the outputs come along (`zygote.begin`)."""

    peer: int
    """Pid of the client."""
    descriptors: list[int]
    """The numbers of the outputs."""


class PoolDirections(TypedDict):
    """What the server of a pool needs before its first task."""

    environment: dict[str, str]
    folder: str
    frozen: dict[str, str]
    """The frozen copy of each folder of loaded modules."""
