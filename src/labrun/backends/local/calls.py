"""Calls of pickled functions on this machine: what submitit's executor hands over, and `call_pool.py` carries out.

A call is one function in one or more tasks. Each task is forked from a server that has imported what was asked for
(`forkserver.py`), or starts an interpreter of its own where `setup` or `python` ask for that. It runs with the
variables, the folder and the import path that the process had when it submitted the call.

Beside each call lies `<id>_state.json` (its state, its processes, and which process looks after it), so that any
process can wait for it; `<id>_cancel` asks for its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from submitit.core import utils

from labrun.backends import machine
from labrun.backends.local.slots import Slot
from labrun.runs import record as records

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

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Calls with the same key may be forked from the same server."""
        told = [(name, value) for name, value in self.environment.items() if self.modules or name.startswith(AT_START)]
        return self.path, self.modules, tuple(sorted(told))


@dataclass
class Call:
    """One call, and what it may use."""

    folder: Path
    job_id: str
    origin: Origin
    tasks: int = 1
    name: str = "submitit"
    timeout_s: float | None = None
    signal_delay_s: float = 30.0
    """So long before its time is up it is asked to save its state (SIGUSR2)."""
    mem_gb: float | None = None
    cpus: int = 1
    """Of each task."""
    threads: int | None = None
    """What the libraries may use; None: what its variables say."""
    gpus: int = 0
    among: tuple[str, ...] | None = None
    """The GPUs that it may have; None: any."""
    joined: bool = False
    """Whether its standard error goes where its standard output does."""
    state: str = PENDING
    reason: str = ""
    place: Slot | None = None
    began: float = 0.0
    warned: bool = False
    """Whether it was asked to save its state."""
    asked_at: float | None = None
    """When it was asked to end."""
    pids: dict[int, int] = field(default_factory=dict)
    """The processes of its tasks that have not ended, by rank."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Wait statuses of tasks that have."""
    done: threading.Event = field(default_factory=threading.Event)

    def paths(self, rank: int = 0) -> utils.JobPaths:
        """Where a task's files are."""
        return utils.JobPaths(self.folder, self.job_id, rank)

    def variables(self, rank: int) -> dict[str, str]:
        """What tells a task which one it is: submitit's own names where the interpreter is another one."""
        kind = "labrun" if self.origin.python is None else "local"
        prefix = f"SUBMITIT_{kind.upper()}_"
        return {
            "SUBMITIT_EXECUTOR": kind,
            "SUBMITIT_FOLDER": str(self.folder),
            f"{prefix}JOB_ID": self.job_id,
            f"{prefix}NTASKS": str(self.tasks),
            f"{prefix}JOB_NUM_NODES": "1",
            f"{prefix}NODEID": "0",
            f"{prefix}GLOBALID": str(rank),
            f"{prefix}LOCALID": str(rank),
        }


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


def origin_here(
    path: Sequence[str], modules: Sequence[str] = (), setup: Sequence[str] = (), python: str | None = None
) -> Origin:
    """What this process is now.

    Args:
        path: where calls are to import from.
        modules: see `Origin`; so `setup` and `python`.
        setup: shell commands before each task.
        python: a command that starts another interpreter.
    """
    return Origin(os.getcwd(), tuple(path), dict(os.environ), tuple(modules), tuple(setup), python)


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
        ValueError: there are not so many.
    """
    there = machine.visible_gpus()
    if any(number >= len(there) for number in numbers):
        raise ValueError(f"visible_gpus={list(numbers)}: visible here are {', '.join(there) or 'none'}")
    return tuple(there[number] for number in numbers)
