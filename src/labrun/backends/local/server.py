"""The supervisor's handle of a fork server: starts it, sends it messages, and restarts it when it dies.

The process itself executes `forkserver.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labrun.backends.local.forkserver import JsonSocket, ServerKind
from labrun.config import targets
from labrun.plugins import IN_PROCESS, POOL
from labrun.warm import zygote

if TYPE_CHECKING:
    from labrun.config.instantiate import Node

ServerProcess = subprocess.Popen[bytes] | zygote.Child

log = logging.getLogger(__name__)

RESTARTS = 5
"""How often a server is restarted without a successful run or call in between."""


@dataclass(eq=False)
class Server:
    """A process that imports the modules of runs or calls once, and forks a process for each of their tasks.

    Args:
        path: its import path.
        preload: targets of runs, or modules of calls, to import in advance.
        python: its interpreter, whose own packages come after `path`.
        cwd: its working folder; the caller's by default.
        in_job: inside a cluster job, where no process gets its own process group, which would outlive the job.
        threads: threads that the libraries may use; None: as their variables say.
        kind: what its children execute.
        environment: its environment variables; the caller's by default.

    Raises:
        OSError: the process does not start.
    """

    path: Sequence[str]
    preload: Sequence[str]
    python: str | None = None
    cwd: str | None = None
    in_job: bool = False
    threads: int | None = None
    kind: ServerKind = ServerKind.RUN
    environment: Mapping[str, str] | None = None
    is_ready: bool = field(default=False, init=False)
    is_broken: bool = field(default=False, init=False)
    """Whether it died too often to be restarted."""
    held: list[Mapping[str, Node]] = field(default_factory=list, init=False)
    """Data that it has read for several runs."""
    used: float = field(default_factory=time.monotonic, init=False)
    deaths: int = field(default=0, init=False)
    """How often it has died since the last successful run or call."""
    _unready: int = field(default=0, init=False)
    """How often in a row it has died before it was ready."""

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.is_ready = False
        self.held.clear()
        variables = {**os.environ, "PYTHONSAFEPATH": "1"} if self.environment is None else dict(self.environment)
        self.process, connection = self._from_zygote(variables) or self._interpreter(variables)
        self.channel = JsonSocket(connection)
        self.import_ahead(self.preload)

    def _from_zygote(self, variables: Mapping[str, str]) -> tuple[ServerProcess, socket.socket] | None:
        """Fork the warm interpreter; None if there is none, or if it has imported other code than the frozen code."""
        if self.kind != ServerKind.RUN or self.python is not None or self.in_job:
            return None
        kind = zygote.FULL if any(map(targets.needs_torch, self.preload)) else zygote.LIGHT
        try:
            return zygote.begin(kind, self.path, variables, self.cwd)
        except OSError as error:
            log.info("The warm interpreter could not be forked for the pool (%s): starting a new one", error)
            return None

    def _interpreter(self, variables: Mapping[str, str]) -> tuple[ServerProcess, socket.socket]:
        """Start a new interpreter."""
        if self.kind == ServerKind.RUN and not self.in_job:
            targets.report_loading(*self.preload)
        ours, theirs = socket.socketpair()
        script = frozen_file(self.path, "local/forkserver.py")
        command = [self.python or sys.executable, str(script), str(theirs.fileno())]
        try:
            process = subprocess.Popen(
                [*command, "in-job"] if self.in_job else command,
                pass_fds=[theirs.fileno()],
                env=variables,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                start_new_session=not self.in_job,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return process, ours

    def import_ahead(self, preload: Sequence[str]) -> None:
        """Make the server import these targets or modules."""
        self.preload = list(preload)
        message = {"path": list(self.path), "preload": self.preload, "keep": self.python is not None}
        message |= {"threads": self.threads} if self.kind == ServerKind.RUN else {"kind": self.kind}
        self.send(message)

    @property
    def is_warm(self) -> bool:
        """Whether it is a fork of the warm interpreter."""
        return isinstance(self.process, zygote.Child)

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message. A dead server is noticed when its next answer is read."""
        with contextlib.suppress(OSError):
            self.channel.send(message)

    def bury(self) -> None:
        """Record that it died, and end its remains."""
        self.close()
        self.deaths += 1
        self._unready = 0 if self.is_ready else self._unready + 1
        if self._unready > 1:  # an import may have killed it: then each run imports for itself and reports the error
            self.preload = []

    def start_again(self) -> None:
        """Restart it after its death, unless it has died too often (`is_broken`)."""
        self.is_broken = self.deaths > RESTARTS
        if not self.is_broken:
            try:
                self._start()
            except OSError:
                self.is_broken = True

    def close(self, at_once: bool = False) -> None:
        """End it and all its children. May be called twice.

        Args:
            at_once: do not wait for its imports to finish, as nothing will run.
        """
        self.channel.connection.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
                return
        self.process.kill()
        self.process.wait()


def serves(target: str) -> bool:
    """Return whether the pool executes the runs with this `compute.target` if no user is at a terminal.

    This needs no imports, unlike `registry.unattended`, which asks the backends.
    """
    return target in ("auto", IN_PROCESS, POOL)


BEFORE = {"local/forkserver.py": "forkserver.py", "slurm/job.py": "cluster_job.py"}
"""Names of these files in `launch/`, where they were in code frozen before the package `backends` existed."""


def frozen_file(path: Sequence[str], name: str) -> Path:
    """Return a file of `labrun.backends`: the frozen copy if the path has one."""
    copies = (
        Path(entry, "labrun", room, file)
        for entry in path
        for room, file in (("backends", name), ("launch", BEFORE.get(name, name)))
    )
    return next((copy for copy in copies if copy.is_file()), Path(__file__).parents[1] / name)
