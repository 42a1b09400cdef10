"""Zygotes: processes forked before any command, which fork the server of a sweep's pool without new imports.

The pool's fork server must start like a new interpreter, with the frozen code and none of the user's other state. A
zygote executes no command; it only forks such a server on request. This is used only if the loaded modules are
byte-identical to the frozen code. There are two zygotes because each run is a fork, which takes three times as long
with PyTorch in memory as without.
"""

from __future__ import annotations

import contextlib
import importlib
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labrun.warm import session, wire
from labrun.warm.fingerprint import Fingerprint
from labrun.warm.identity import read, stamp

if TYPE_CHECKING:
    from labrun.warm.messages import PoolDirections, PoolRequest

LIGHT, FULL = "light", "full"
"""The zygote with scikit-learn, and the one with PyTorch and everything else."""
PATIENCE_S = 10.0
"""Time limit for a zygote to fork, in seconds."""
REQUEST_MAX_BYTES = 65536
"""Maximum size of a request to a zygote, in bytes."""

available: dict[str, socket.socket] = {}
"""The zygotes that this process can use; empty unless the warm interpreter was forked for this command."""
imported: Fingerprint | None = None
"""Fingerprint of at least the files that the zygotes have imported."""


class Child:
    """A process that a zygote has forked, with the needed part of the interface of `subprocess.Popen`.

    Args:
        pidfd: its pidfd.
        life: a socket; the kernel kills the process when this end is closed, at the latest when this process ends.
    """

    def __init__(self, pidfd: int, life: socket.socket) -> None:
        self._pidfd, self._life = pidfd, life

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the process ends.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("fork server", timeout or 0.0)

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def fork(closed: Sequence[int]) -> socket.socket:
    """Fork a zygote with the current state of this process. Return the connection for requests.

    Args:
        closed: descriptors that the zygote must close.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            for descriptor in closed:
                os.close(descriptor)
            _answer(socket.socket(fileno=session.moved(theirs.detach())))
        finally:
            os._exit(0)
    theirs.close()
    return socket.socket(fileno=session.moved(ours.detach()))


def begin(
    kind: str, path: Sequence[str], environment: Mapping[str, str], folder: str | None
) -> tuple[Child, socket.socket] | None:
    """Fork a fork server (`labrun.backends.local.forkserver`). Return it and its connection; None if not possible.

    Args:
        kind: `LIGHT` or `FULL`.
        path: `sys.path` with entries replaced by the frozen code (`labrun.submission.snapshot.import_path`).
        environment: its environment variables.
        folder: its working folder; None: that of this process.

    Raises:
        OSError: the zygote is gone.
    """
    frozen = None if kind not in available or imported is None else frozen_folders(path, imported)
    if frozen is None:
        return None
    ours, theirs = socket.socketpair()
    life, held = socket.socketpair()
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    numbers = [number for number, stream in ((1, sys.__stdout__), (2, sys.__stderr__)) if stream is not None]
    request: PoolRequest = {"peer": os.getpid(), "descriptors": numbers}
    socket.send_fds(available[kind], [marshal.dumps(dict(request))], [theirs.fileno(), held.fileno(), here, *numbers])
    for end in (theirs, held):
        end.close()
    os.close(here)
    directions: PoolDirections = {
        "environment": dict(environment),
        "folder": folder or os.getcwd(),
        "frozen": frozen,
    }
    wire.send(ours, directions)
    life.settimeout(PATIENCE_S)
    answer = wire.receive(life)
    if answer is None:
        raise ConnectionError("the zygote's fork failed")
    return Child(answer[1][0], life), ours


def frozen_folders(path: Sequence[str], imported: Fingerprint) -> dict[str, str] | None:
    """Return the frozen copy of each folder of loaded modules; None if a loaded module differs from the frozen code.

    Args:
        path: `sys.path` with entries replaced by the frozen code (`labrun.submission.snapshot.import_path`).
        imported: the fingerprint of the loaded files.
    """
    if len(path) != len(sys.path):
        return None
    pairs = zip(map(os.path.realpath, sys.path), map(os.path.realpath, path), strict=True)
    copies = {live: copy for live, copy in pairs if live != copy}
    found, starts = {}, tuple(f"{live}{os.sep}" for live in copies)
    for file, real in imported.real_paths.items():
        if not real.startswith(starts):
            continue
        live = max((live for live in copies if real.startswith(f"{live}{os.sep}")), key=len)
        if _is_installed(real, live):
            continue
        copy = copies[live] + real[len(live) :]
        if stamp(file) != imported.files[file] or not _are_equal(real, copy):
            return None
        found[os.path.dirname(file)] = os.path.dirname(copy)
    return found


def _is_installed(file: str, place: str) -> bool:
    """Return whether a file belongs to an environment inside the code's folder, which is not part of the code."""
    return "site-packages" in file[len(place) :].split(os.sep) or file.startswith(f"{sys.prefix}{os.sep}")


def _are_equal(one: str, other: str) -> bool:
    try:
        with open(one, "rb") as first, open(other, "rb") as second:
            return first.read() == second.read()
    except OSError:
        return False


def _answer(connection: socket.socket) -> None:
    """Fork a server for each request, until all clients have closed the connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps ended children
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        question, descriptors, _, _ = socket.recv_fds(connection, REQUEST_MAX_BYTES, wire.MOST_DESCRIPTORS)
        if not question:
            return
        if os.fork() == 0:
            try:
                connection.close()
                _serve(marshal.loads(question), descriptors)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)


def _serve(request: PoolRequest, descriptors: list[int]) -> None:
    """Act as a fork server for the requesting command, with its descriptors, signals and limits."""
    forkserver = importlib.import_module("labrun.backends.local.forkserver")
    channel, life = (socket.socket(fileno=session.moved(descriptor)) for descriptor in descriptors[:2])
    os.setsid()
    session.take_signals(read(f"/proc/{request['peer']}/status"))
    here, *outputs = descriptors[2:]
    session.take_descriptors([here, os.open(os.devnull, os.O_RDONLY), *outputs], [0, *request["descriptors"]])
    session.take_limits(request["peer"], session.limits_of(request["peer"]))
    session.forget_main()
    pidfd = os.pidfd_open(os.getpid())
    wire.send(life, {}, [pidfd])
    os.close(pidfd)
    session.die_with(life)
    received = wire.receive(channel)
    if received is None:
        os._exit(0)
    directions: PoolDirections = received[0]
    os.environ.clear()
    os.environ.update(directions["environment"])
    os.chdir(directions["folder"])
    for module in list(sys.modules.values()):  # further modules are imported from the frozen code
        places = getattr(module, "__path__", None)
        if isinstance(places, list):
            places[:] = [directions["frozen"].get(place, place) for place in places]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        forkserver.serve(forkserver.JsonSocket(channel), None)
    os._exit(0)
