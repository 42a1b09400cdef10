"""Calls of pickled functions on this machine, as payloads of a supervisor: what submitit's executor hands over.

A call is one function in one or more tasks. Each task is forked from a server that has imported what was asked for
(`call.carry_out`), or becomes an interpreter of its own where `setup` or `python` ask for that. It runs with the
variables, the folder and the import path that the process had when it submitted the call.

Beside each call lies `<id>_state.json` (its state, its processes, and which process looks after it), so that any
process can wait for it; `<id>_cancel` asks for its end.
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
from pathlib import Path
from typing import Any

from submitit.core import utils
from submitit.core.job_environment import JobEnvironment

from labrun._io import atomic_write
from labrun.backends import machine
from labrun.backends.local.call import REQUEUE
from labrun.backends.local.forkserver import CALL, PROGRAM
from labrun.backends.local.server import Server
from labrun.backends.local.supervisor import Again, Payload
from labrun.runs import record as records
from labrun.runs import recording

PENDING, RUNNING, FINISHED, CANCELLED = "PENDING", "RUNNING", "FINISHED", "CANCELLED"
OPEN = (PENDING, RUNNING)
AT_START = ("PYTHON", "LD_", "DYLD_", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "GOMP_", "KMP_", "MALLOC_")
"""Variables that an interpreter and the libraries below numpy read once, when they start."""


@dataclass(frozen=True)
class Origin:
    """The state of the process that submits calls, as far as they depend on it."""

    cwd: str
    path: tuple[str, ...]
    """Where modules are imported from."""
    environment: Mapping[str, str]
    modules: tuple[str, ...] = ()
    """Imported once, ahead of the calls."""
    setup: tuple[str, ...] = ()
    """Shell commands before each task; any of them that fails ends it."""
    python: str | None = None
    """A command that starts another interpreter, as a shell would split it."""

    @property
    def starts_interpreter(self) -> bool:
        """Whether each task needs an interpreter of its own."""
        return bool(self.setup) or self.python is not None

    @property
    def key(self) -> tuple[Any, ...]:
        """Calls with the same key may be forked from the same server."""
        if self.starts_interpreter:
            return (PROGRAM,)
        told = [(name, value) for name, value in self.environment.items() if self.modules or name.startswith(AT_START)]
        return self.path, self.modules, tuple(sorted(told))

    def server(self) -> Server:
        """A new server for such calls.

        Raises:
            OSError: it does not start.
        """
        if self.starts_interpreter:  # the variables may be meant for another Python
            plain = {name: value for name, value in self.environment.items() if not name.startswith("PYTHON")}
            return Server([], [], kind=PROGRAM, environment=plain)
        return Server(self.path, self.modules, cwd=self.cwd, kind=CALL, environment=self.environment)

    def command(self, folder: Path) -> list[str]:
        """What starts an interpreter for a task of a call in that folder."""
        if self.python is None:
            command = [sys.executable, "-u", "-m", "labrun.backends.local.call", str(folder)]
        else:
            command = [*shlex.split(self.python), "-u", "-m", "submitit.core._submit", str(folder)]
        return ["/bin/sh", "-c", " && ".join([*self.setup, f"exec {shlex.join(command)}"])] if self.setup else command


@dataclass(eq=False, kw_only=True)
class Call(Payload):
    """One call: its result lies in a file, its state in another, and here."""

    folder: Path
    origin: Origin
    name: str = "submitit"
    signal_delay_s: float = 30.0
    """So long before its time is up it is asked to save its state (SIGUSR2)."""
    threads: int | None = None
    """What the libraries may use; None: what its variables say."""
    joined: bool = False
    """Whether its standard error goes where its standard output does."""
    state: str = PENDING
    warned: bool = False
    """Whether it was asked to save its state."""
    done: threading.Event = field(default_factory=threading.Event)

    def paths(self, rank: int = 0) -> utils.JobPaths:
        """Where a task's files are."""
        return utils.JobPaths(self.folder, self.id, rank)

    def message(self, rank: int) -> dict[str, Any]:
        """See `call.carry_out`, and `forkserver.child`."""
        origin, paths = self.origin, self.paths(rank)
        place = self.place.environment if self.place else {}
        message: dict[str, Any] = {
            "call": str(self.folder),
            "variables": {**origin.environment, **place, **self._variables(rank)},
            "cwd": origin.cwd,
            "threads": self.threads,
            "out": str(paths.stdout),
            "err": str(paths.stdout if self.joined else paths.stderr),
        }
        if origin.starts_interpreter:
            message["command"] = origin.command(self.folder)
        return message

    def _variables(self, rank: int) -> dict[str, str]:
        """What tells a task which one it is: submitit's own names where the interpreter is another one."""
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

    def is_asked_to_end(self) -> bool:
        """Whether another process asks for its end."""
        return cancel_file(self.paths()).exists()

    def beat(self) -> None:
        """Note its processes; have it save its state shortly before its time is up."""
        if self.state == PENDING and len(self.pids) == self.tasks:
            self.state, self.warned = RUNNING, False
            self.note()
        if self.reason is not None or self.canceled or self.state == PENDING:
            return
        if REQUEUE in self.codes:  # it goes on with all its tasks
            self.kill()
        seconds, limit_s = time.monotonic() - self.began, self.needs.timeout_s
        if limit_s is not None and not self.warned and 0 < limit_s - self.signal_delay_s < seconds <= limit_s:
            self.warned = True
            self.signal(save_signal(), alone=True)

    @property
    def codes(self) -> list[int]:
        """The exit codes of tasks that have ended; below zero: the signal that ended it."""
        return [os.waitstatus_to_exitcode(status) for status in self.statuses.values()]

    def ended(self) -> Again:
        """Say how; one that has saved its state goes on from there when its turn comes."""
        if self.server is not None:
            self.server.deaths = 0
        if self.reason is None and not self.canceled and REQUEUE in self.codes:
            self.state = PENDING
            self.note()
            return "last"
        code = next((code for code in self.codes if code), 0)
        reason = self.reason
        if reason is None and code:
            reason = f"ended by {recording.signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if reason is None and not all(self.paths(rank).result_pickle.exists() for rank in range(self.tasks)):
            reason = "its process ended before it was done"
        self.close(FINISHED if reason is None else f"FAILED ({reason})")
        return None

    def lost(self, is_guilty: bool) -> Again:
        """It has failed: what it has done already is unknown."""
        self.close("FAILED (its fork server died)")
        return None

    def unrun(self, why: str, is_refused: bool) -> None:
        """Say so."""
        self.close(f"FAILED ({why})" if is_refused else CANCELLED)

    def close(self, state: str) -> None:
        """It has ended, or will not begin; a call that was canceled is that, however it has ended."""
        self.state = CANCELLED if self.canceled else state
        self.note()
        self.done.set()

    def note(self) -> None:
        """Write its state beside it."""
        file, owner = state_file(self.paths()), records.process_identity()
        processes = [{**owner, "pid": pid, "start_time": records.process_start(pid)} for pid in self.living]
        noted = {"state": self.state, "name": self.name, "owner": owner, "processes": processes}
        with contextlib.suppress(OSError), atomic_write(file) as written:  # who waits in this process does not need it
            written.write(json.dumps(noted).encode())


def save_signal() -> signal.Signals:
    """What has a call save its state; submitit lets a variable choose."""
    return signal.Signals(JobEnvironment._usr_sig())


def state_file(paths: utils.JobPaths) -> Path:
    """Where a call's state is noted."""
    return Path(paths.folder) / f"{paths.job_id}_state.json"


def cancel_file(paths: utils.JobPaths) -> Path:
    """What asks for a call's end."""
    return Path(paths.folder) / f"{paths.job_id}_cancel"


def noted_state(paths: utils.JobPaths) -> str:
    """A call's state, for a process that does not look after it.

    Returns:
        As noted; UNKNOWN where nothing is; FAILED with the reason where its supervisor and its processes are gone.
    """
    try:
        noted = json.loads(state_file(paths).read_text(encoding="utf-8"))
        state, owner, processes = str(noted["state"]), noted["owner"], list(noted["processes"])
    except FileNotFoundError:
        return "UNKNOWN"
    except (OSError, ValueError, KeyError, TypeError):
        return "UNKNOWN"
    is_here = owner.get("host") == socket.gethostname()
    if state in OPEN and is_here and all(records.process_lives(one) is False for one in (owner, *processes)):
        return "FAILED (the process that submitted it has ended, and it with it)"
    return state


def tail(file: Path, lines: int = 40) -> str:
    """The last lines of what a call printed; empty where there is nothing."""
    with contextlib.suppress(OSError):
        return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return ""


def import_path(with_cwd: bool) -> list[str]:
    """This process's import path, as it is now, for another process in any folder.

    Args:
        with_cwd: the working folder comes first, as `python -m` has it: so a snapshot counts that was changed to.
    """

    def entries() -> Iterator[str]:
        if with_cwd and not sys.flags.safe_path:
            yield os.getcwd()
        for entry in sys.path:
            yield os.path.abspath(entry)

    return list(dict.fromkeys(entries()))


def visible(numbers: Sequence[int]) -> tuple[str, ...]:
    """The GPUs with these numbers, of those that this process may see.

    Raises:
        ValueError: there are not that many.
    """
    there = machine.visible_gpus()
    if any(number >= len(there) for number in numbers):
        raise ValueError(f"visible_gpus={list(numbers)}: visible here are {', '.join(there) or 'none'}")
    return tuple(there[number] for number in numbers)
