"""A fork server, as its supervisor holds it: started, sent messages, and started again when it dies.

The process itself is `forkserver.py`.
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
from typing import Any

from labrun import targets
from labrun.backends.local.forkserver import RUN, Channel
from labrun.warm import stock

Process = subprocess.Popen[bytes] | stock.Child

log = logging.getLogger(__name__)

RESTARTS = 5
"""How often a server is started again without a run or a call that goes well in between."""


@dataclass(eq=False)
class Server:
    """A process that imports what runs or calls need, once, and forks a process for each of their tasks.

    Args:
        path: where it imports from.
        preload: targets of runs, or modules of calls, to import ahead.
        python: its interpreter, whose own packages come after `path`.
        cwd: its working folder; the caller's by default.
        in_job: inside a cluster's job: nothing gets a process group of its own, which would outlive the job.
        threads: how many the libraries may use; None: as their variables say.
        kind: what its children do (`forkserver.RUN`, `CALL`, `PROGRAM`).
        environment: its variables; the caller's by default.

    Raises:
        OSError: it does not start.
    """

    path: Sequence[str]
    preload: Sequence[str]
    python: str | None = None
    cwd: str | None = None
    in_job: bool = False
    threads: int | None = None
    kind: str = RUN
    environment: Mapping[str, str] | None = None
    is_ready: bool = field(default=False, init=False)
    is_broken: bool = field(default=False, init=False)
    """Whether it died too often to be started again."""
    held: list[Mapping[str, Any]] = field(default_factory=list, init=False)
    """Data that it was told to read for several runs."""
    used: float = field(default_factory=time.monotonic, init=False)
    deaths: int = field(default=0, init=False)
    """How often it died since a run or a call last went well."""
    _unready: int = field(default=0, init=False)
    """How often, one after the other, it died before it was ready."""

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.is_ready = False
        self.held.clear()
        variables = {**os.environ, "PYTHONSAFEPATH": "1"} if self.environment is None else dict(self.environment)
        self.process, connection = self._from_stock(variables) or self._interpreter(variables)
        self.channel = Channel(connection)
        self.import_ahead(self.preload)

    def _from_stock(self, variables: Mapping[str, str]) -> tuple[Process, socket.socket] | None:
        """A fork of the warm interpreter; None where there is none, or other code was frozen than it has imported."""
        if self.kind != RUN or self.python is not None or self.in_job:
            return None
        keeper = stock.FULL if any(map(targets.needs_torch, self.preload)) else stock.LIGHT
        try:
            return stock.begin(keeper, self.path, variables, self.cwd)
        except OSError as error:
            log.info("The warm interpreter could not be forked for the pool (%s): another one starts", error)
            return None

    def _interpreter(self, variables: Mapping[str, str]) -> tuple[Process, socket.socket]:
        """A new one."""
        if self.kind == RUN and not self.in_job:
            targets.announce(*self.preload)
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
        """Have it import these."""
        self.preload = list(preload)
        message = {"path": list(self.path), "preload": self.preload, "keep": self.python is not None}
        message |= {"threads": self.threads} if self.kind == RUN else {"kind": self.kind}
        self.send(message)

    @property
    def is_warm(self) -> bool:
        """Whether it is a fork of the warm interpreter."""
        return isinstance(self.process, stock.Child)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a dead server is noticed when its next answer is read."""
        with contextlib.suppress(OSError):
            self.channel.send(message)

    def bury(self) -> None:
        """Note that it died; nothing of it is left then."""
        self.close()
        self.deaths += 1
        self._unready = 0 if self.is_ready else self._unready + 1
        if self._unready > 1:  # what it was importing ended it, say: each run imports by itself then, and tells
            self.preload = []

    def start_again(self) -> None:
        """Start it after its death, unless that does not help (`is_broken`)."""
        self.is_broken = self.deaths > RESTARTS
        if not self.is_broken:
            try:
                self._start()
            except OSError:
                self.is_broken = True

    def close(self, at_once: bool = False) -> None:
        """End it and everything that it runs. May be called twice.

        Args:
            at_once: do not wait until it has imported what it was told to: nothing will run.
        """
        self.channel.connection.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
                return
        self.process.kill()
        self.process.wait()


BEFORE = {"local/forkserver.py": "forkserver.py", "slurm/job.py": "cluster_job.py"}
"""Where code that was frozen before the backends had a room of their own has these files, in `launch/`."""


def frozen_file(path: Sequence[str], name: str) -> Path:
    """A file of `labrun.backends`: its frozen copy, where the path has one."""
    copies = (
        Path(entry, "labrun", room, file)
        for entry in path
        for room, file in (("backends", name), ("launch", BEFORE.get(name, name)))
    )
    return next((copy for copy in copies if copy.is_file()), Path(__file__).parents[1] / name)
