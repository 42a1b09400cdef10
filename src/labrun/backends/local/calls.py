"""Calls of pickled functions on this machine, as payloads of a supervisor; submitit's executor submits them.

A call is one function in one or more tasks. Each task is forked from a server that has imported the requested modules
(`call.run_task`), or starts its own interpreter if `setup` or `python` is set. It runs with the environment variables,
the working folder and the import path that the submitting process had at that time.

The file `<id>_state.json` in the call's folder holds its state, its processes and the process that manages it, so that
any process can wait for the call. The file `<id>_cancel` requests its cancellation.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit.core import utils
from submitit.core.job_environment import JobEnvironment

from labrun._io import atomic_write
from labrun.backends.local.call import REQUEUE
from labrun.backends.local.forkserver import ServerKind
from labrun.backends.local.server import Server
from labrun.backends.local.supervisor import Payload, Requeue
from labrun.runs import machine, recording
from labrun.runs.attempts import Process
from labrun.runs.record import process_identity, process_lives, process_start

if TYPE_CHECKING:
    from labrun.backends.local.messages import CallTask

AT_START = ("PYTHON", "LD_", "DYLD_", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "GOMP_", "KMP_", "MALLOC_")
"""Prefixes of variables that an interpreter and numpy's native libraries read only once, at startup."""


class CallState(StrEnum):
    """State of a call, in submitit's words."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    """It has no readable state file."""


OPEN = (CallState.PENDING, CallState.RUNNING)


@dataclass(frozen=True)
class CallOrigin:
    """The part of the submitting process's state that its calls depend on."""

    cwd: str
    path: tuple[str, ...]
    """The import path."""
    environment: Mapping[str, str]
    modules: tuple[str, ...] = ()
    """Modules to import once, before the calls."""
    setup: tuple[str, ...] = ()
    """Shell commands to run before each task; the task ends if one of them fails."""
    python: str | None = None
    """A shell-quoted command that starts another interpreter."""

    @property
    def starts_interpreter(self) -> bool:
        """Whether each task starts its own interpreter."""
        return bool(self.setup) or self.python is not None

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of the server: calls with the same key may be forked from the same server."""
        if self.starts_interpreter:
            return (ServerKind.PROGRAM,)
        at_start = [
            (name, value) for name, value in self.environment.items() if self.modules or name.startswith(AT_START)
        ]
        return self.path, self.modules, tuple(sorted(at_start))

    def server(self) -> Server:
        """Start a new server for such calls.

        Raises:
            OSError: the server does not start.
        """
        if self.starts_interpreter:  # the variables may be meant for another Python
            plain = {name: value for name, value in self.environment.items() if not name.startswith("PYTHON")}
            return Server([], [], kind=ServerKind.PROGRAM, environment=plain)
        return Server(self.path, self.modules, cwd=self.cwd, kind=ServerKind.CALL, environment=self.environment)

    def command(self, folder: Path) -> list[str]:
        """Return the command that starts an interpreter for a task of a call in that folder."""
        if self.python is None:
            command = [sys.executable, "-u", "-m", "labrun.backends.local.call", str(folder)]
        else:
            command = [*shlex.split(self.python), "-u", "-m", "submitit.core._submit", str(folder)]
        return ["/bin/sh", "-c", " && ".join([*self.setup, f"exec {shlex.join(command)}"])] if self.setup else command


@dataclass(eq=False, kw_only=True)
class Call(Payload):
    """One call. Its result is stored in a file; its state in another file and in this object."""

    folder: Path
    origin: CallOrigin
    name: str = "submitit"
    signal_delay_s: float = 30.0
    """How long before its timeout it is asked to save its state (SIGUSR2)."""
    threads: int | None = None
    """Threads that the libraries may use; None: as its variables say."""
    joined: bool = False
    """Whether its standard error goes to the file of its standard output."""
    state: CallState = CallState.PENDING
    why: str | None = None
    """Why it has failed."""
    warned: bool = False
    """Whether it was asked to save its state."""
    done: threading.Event = field(default_factory=threading.Event)

    def paths(self, rank: int = 0) -> utils.JobPaths:
        """Return the paths of a task's files."""
        return utils.JobPaths(self.folder, self.id, rank)

    def message(self, rank: int) -> CallTask:
        """Return the message for `call.run_task` and `forkserver.child`."""
        origin, paths = self.origin, self.paths(rank)
        slot_environment = self.slot.environment if self.slot else {}
        message: CallTask = {
            "run": self.id,
            "rank": rank,
            "call": str(self.folder),
            "variables": {**origin.environment, **slot_environment, **self._variables(rank)},
            "cwd": origin.cwd,
            "threads": self.threads,
            "out": str(paths.stdout),
            "err": str(paths.stdout if self.joined else paths.stderr),
        }
        if origin.starts_interpreter:
            message["command"] = origin.command(self.folder)
        return message

    def _variables(self, rank: int) -> dict[str, str]:
        """Return the variables that identify a task; with another interpreter they have submitit's own names."""
        kind = "labrun" if self.origin.python is None else "local"
        prefix = f"SUBMITIT_{kind.upper()}_"
        is_ours = self.origin.starts_interpreter and self.origin.python is None
        return {
            **({"PYTHONPATH": os.pathsep.join(self.origin.path)} if is_ours else {}),
            "SUBMITIT_EXECUTOR": kind,
            "SUBMITIT_FOLDER": str(self.folder),
            f"{prefix}JOB_ID": self.id,
            f"{prefix}NTASKS": str(self.tasks),
            f"{prefix}JOB_NUM_NODES": "1",
            f"{prefix}NODEID": "0",
            f"{prefix}GLOBALID": str(rank),
            f"{prefix}LOCALID": str(rank),
        }

    def end_requested(self) -> bool:
        """Whether another process has requested its cancellation."""
        return cancel_file(self.paths()).exists()

    def beat(self) -> None:
        """Record its processes, and ask it to save its state shortly before its timeout."""
        if self.state == CallState.PENDING and len(self.pids) == self.tasks:
            self.state, self.warned = CallState.RUNNING, False
            self.note()
        if self.reason is not None or self.canceled or self.state == CallState.PENDING:
            return
        if REQUEUE in self.codes:  # it is resumed with all its tasks
            self.kill()
        seconds, limit_s = time.monotonic() - self.began, self.needs.timeout_s
        if limit_s is not None and not self.warned and 0 < limit_s - self.signal_delay_s < seconds <= limit_s:
            self.warned = True
            self.signal(save_signal(), alone=True)

    @property
    def codes(self) -> list[int]:
        """Exit codes of the ended tasks; a negative one is the signal that ended the task."""
        return [os.waitstatus_to_exitcode(status) for status in self.statuses.values()]

    def on_exit(self) -> Requeue:
        """Record how it ended; queue it again if it has saved its state."""
        if self.server is not None:
            self.server.deaths = 0
        if self.reason is None and not self.canceled and REQUEUE in self.codes:
            self.state = CallState.PENDING
            self.note()
            return "last"
        code = next((code for code in self.codes if code), 0)
        reason = self.reason
        if reason is None and code:
            reason = f"ended by {recording.signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if reason is None and not all(self.paths(rank).result_pickle.exists() for rank in range(self.tasks)):
            reason = "its process ended before it was done"
        self.close(CallState.FINISHED if reason is None else CallState.FAILED, reason)
        return None

    def on_server_death(self, is_guilty: bool) -> Requeue:
        """Mark it as failed: how far it got is unknown."""
        self.close(CallState.FAILED, "its fork server died")
        return None

    def on_skipped(self, why: str, is_refused: bool) -> None:
        """Mark it as failed or canceled."""
        if is_refused:
            self.close(CallState.FAILED, why)
        else:
            self.close(CallState.CANCELLED)

    def close(self, state: CallState, why: str | None = None) -> None:
        """Record its final state; a canceled call counts as canceled, however it ended."""
        self.state, self.why = (CallState.CANCELLED, None) if self.canceled else (state, why)
        self.note()
        self.done.set()

    def note(self) -> None:
        """Write its state file."""
        file, owner = state_file(self.paths()), process_identity().as_json()
        processes = [{**owner, "pid": pid, "start_time": process_start(pid)} for pid in self.living]
        noted = {"state": self.state, "why": self.why, "name": self.name, "owner": owner, "processes": processes}
        with contextlib.suppress(OSError), atomic_write(file) as written:  # waiters in this process do not need it
            written.write(json.dumps(noted).encode())


def save_signal() -> signal.Signals:
    """Return the signal that makes a call save its state; submitit reads it from an environment variable."""
    return signal.Signals(JobEnvironment._usr_sig())


def state_file(paths: utils.JobPaths) -> Path:
    """Return the path of a call's state file."""
    return Path(paths.folder) / f"{paths.job_id}_state.json"


def cancel_file(paths: utils.JobPaths) -> Path:
    """Return the path of the file that requests a call's cancellation."""
    return Path(paths.folder) / f"{paths.job_id}_cancel"


def noted_state(paths: utils.JobPaths) -> tuple[CallState, str | None]:
    """Return a call's state and why it has failed, for a process that does not manage it.

    Returns:
        What is recorded; UNKNOWN if nothing is; FAILED if its supervisor and processes are gone.
    """
    try:
        noted = json.loads(state_file(paths).read_text(encoding="utf-8"))
        state, owner, processes = CallState(noted["state"]), noted["owner"], list(noted["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        return CallState.UNKNOWN, None
    is_here = owner.get("host") == socket.gethostname()
    if state in OPEN and is_here and all(process_lives(Process.of(one)) is False for one in (owner, *processes)):
        return CallState.FAILED, "it ended together with the process that submitted it"
    return state, noted.get("why")


def tail(file: Path, lines: int = 40) -> str:
    """Return the last lines of a call's output; empty if there is none."""
    with contextlib.suppress(OSError):
        return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return ""


def import_path(with_cwd: bool) -> list[str]:
    """Return this process's current import path as absolute paths, for a process in another folder.

    Args:
        with_cwd: put the working folder first, as `python -m` does; it may be a snapshot.
    """

    def entries() -> Iterator[str]:
        if with_cwd and not sys.flags.safe_path:
            yield os.getcwd()
        for entry in sys.path:
            yield os.path.abspath(entry)

    return list(dict.fromkeys(entries()))


def visible(numbers: Sequence[int]) -> tuple[str, ...]:
    """Return the GPUs with these numbers among those that are visible to this process.

    Raises:
        ValueError: a number is too large.
    """
    gpus = machine.visible_gpus()
    if any(number >= len(gpus) for number in numbers):
        raise ValueError(f"visible_gpus={list(numbers)}: visible here are {', '.join(gpus) or 'none'}")
    return tuple(gpus[number] for number in numbers)
