"""A process laid in for a sweep's pool: forked before the command has imported any of the person's code.

The pool's fork server has to begin where a new interpreter would, with the frozen code and nothing else of the
person's. A command that may need one forks it at its very beginning, while it is still what the warm interpreter was.
It is used only where the frozen code, as far as it is loaded already, is the same to the byte.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labrun.warm import client
from labrun.warm.fingerprint import Fingerprint
from labrun.warm.identity import stamp

FLAGS = ("-m", "--multirun")
POLL_S = 0.01


@dataclass
class Stock:
    """The process, and what tells whether it will do.

    Args:
        pid: its process id; it is this process's child.
        connection: over which it is told what to be.
        imported: the files that it has imported.
    """

    pid: int
    connection: socket.socket
    imported: Fingerprint

    def send_away(self) -> None:
        """It is not wanted."""
        self.connection.close()
        os.waitpid(self.pid, 0)

    def begin(self, frozen: Mapping[str, str], environment: Mapping[str, str], folder: str | None) -> None:
        """Have it be a fork server (`labrun.launch.forkserver`), which hears the connection from now on.

        Args:
            frozen: see `frozen_folders`.
            environment: its variables.
            folder: its working folder; None: this process's.

        Raises:
            OSError: it is gone.
        """
        message = {"environment": dict(environment), "folder": folder or os.getcwd(), "frozen": dict(frozen)}
        client.send(self.connection, dict(message))


class Child:
    """A forked process, with what `subprocess.Popen` offers for one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._is_over = False

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not come in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self._ended():
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork server", timeout or 0.0)
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it at once."""
        if not self._ended():
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self) -> bool:
        if not self._is_over:
            with contextlib.suppress(ChildProcessError):
                self._is_over = os.waitpid(self.pid, os.WNOHANG)[0] != 0
                return self._is_over
            self._is_over = True
        return self._is_over


_stock: Stock | None = None


def lay_in(arguments: Sequence[str], foreign: int, imported: Fingerprint) -> None:
    """Fork it, if the command's arguments say that runs may go to a pool.

    Args:
        arguments: of the command.
        foreign: a descriptor that is none of its business.
        imported: what this process has imported, and nothing more.
    """
    global _stock
    if not any(word in FLAGS or word.startswith("compute=") for word in arguments[1:]):
        return
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        _stock = Stock(pid, ours, imported)
        return
    try:
        ours.close()
        os.close(foreign)
        _wait_and_serve(theirs, parent)
    finally:
        os._exit(1)


def take() -> Stock | None:
    """The process that was laid in, for one taker; None where there is none."""
    global _stock
    taken, _stock = _stock, None
    return taken


def frozen_folders(path: Sequence[str], imported: Fingerprint) -> dict[str, str] | None:
    """The frozen copy of each folder that modules were imported from; None: what is loaded is not what is frozen.

    Args:
        path: `sys.path` with the frozen code in it, entry by entry (`labrun.launch.snapshot.import_path`).
        imported: the files that are loaded.
    """
    if len(path) != len(sys.path):
        return None
    pairs = zip(map(os.path.realpath, sys.path), map(os.path.realpath, path), strict=True)
    copies = {live: copy for live, copy in pairs if live != copy}
    found = {}
    for file, then in imported.files.items():
        real = os.path.realpath(file)
        live = max((place for place in copies if real.startswith(f"{place}{os.sep}")), key=len, default=None)
        if live is None or _is_installed(real, live):
            continue
        copy = copies[live] + real[len(live) :]
        if stamp(file) != then or not _are_equal(real, copy):
            return None
        found[os.path.dirname(file)] = os.path.dirname(copy)
    return found


def _is_installed(file: str, place: str) -> bool:
    """In an environment that lies below the code: that is no part of it."""
    return "site-packages" in file[len(place) :].split(os.sep) or file.startswith(f"{sys.prefix}{os.sep}")


def _are_equal(one: str, other: str) -> bool:
    try:
        with open(one, "rb") as first, open(other, "rb") as second:
            return first.read() == second.read()
    except OSError:
        return False


def _wait_and_serve(connection: socket.socket, parent: int) -> None:
    forkserver = importlib.import_module("labrun.launch.forkserver")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.die_with_parent(parent)
    received = client.receive(connection)
    if received is None:
        os._exit(0)  # no pool was wanted
    told: dict[str, Any] = received[0]
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    for module in list(sys.modules.values()):  # what is not loaded yet is found in the frozen code
        places = getattr(module, "__path__", None)
        if isinstance(places, list):
            places[:] = [told["frozen"].get(place, place) for place in places]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        forkserver.serve(forkserver.Channel(connection), parent)
    os._exit(0)
