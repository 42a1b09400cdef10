"""The fork server: imports what the runs need, once, computes nothing, and forks a process for each run.

Started by path in a fresh interpreter, with the standard library alone; the first message says where to import from
(the frozen code), so that edits made while runs wait change nothing.

Messages are lines of JSON over a socket. To the server: `{"path": [...], "preload": [...]}` once, then
`{"run": folder, "environment": {...}, "threads": n, "pictures": bool}` for each run (with `"draw": true`: only the
pictures of a finished one). From it: `{"ready": seconds}`,
`{"run": folder, "pid": n}`, `{"pid": n, "status": wait status}`. When the socket closes, every child is killed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1


class Channel:
    """Lines of JSON over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises:
            OSError: the other side is gone.
        """
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """All whole messages that are there; None once the other side is gone."""
        try:
            data = self.connection.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def serve(channel: Channel, parent: int) -> None:
    """Answer messages until the controller is gone."""
    die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # A cluster signals every process of a job: what is to be done then is the supervisor's to say.
        signal.signal(number, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children: set[int] = set()
    while True:
        watched: list[Any] = [channel.connection, wake_read]
        ready = select.select(watched, [], [])[0]
        if wake_read in ready:
            os.read(wake_read, 4096)
            for pid, status in reap(children):
                channel.send({"pid": pid, "status": status})
        if channel.connection in ready:
            messages = channel.receive()
            if messages is None:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return
            for message in messages:
                if "preload" in message:
                    channel.send({"ready": preload(message["path"], message["preload"], bool(message.get("keep")))})
                else:
                    pid = fork(message, channel, (wake_read, wake_write))
                    children.add(pid)
                    channel.send({"run": message["run"], "pid": pid})


def reap(children: set[int]) -> list[tuple[int, int]]:
    """Every child that has ended since, with its wait status."""
    ended = []
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            ended.append((pid, status))
    return ended


def preload(path: list[str], targets: list[str], keep: bool = False) -> float:
    """Import what the runs will need. A target that cannot be imported is left to its run, which says why.

    Args:
        path: where to import from.
        targets: what to import.
        keep: this interpreter's own packages come after `path`, which is then the frozen code alone.
    """
    began = time.monotonic()
    sys.path[:] = [*path, *(sys.path[1:] if not sys.flags.safe_path else sys.path)] if keep else path
    from labrun.launch import inside

    inside.preload(targets)
    gc.collect()
    gc.freeze()
    return round(time.monotonic() - began, 3)


def fork(message: dict[str, Any], channel: Channel, wake: tuple[int, int]) -> int:
    """Fork one run's process; returns its pid, in the server."""
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die_with_parent(server)
        if message.get("own_group", True):
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
        else:
            # Blocked, and not only ignored: Lightning puts a handler of its own in place.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
        channel.connection.close()
        for descriptor in wake:
            os.close(descriptor)
        code = child(message)
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def child(message: dict[str, Any]) -> int:
    """One run, in a process of its own; what it prints goes to its `driver.log`."""
    run_dir = message["run"]
    log = os.open(os.path.join(run_dir, "driver.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(message["environment"])
    from labrun.launch import inside

    inside.limit_threads(int(message["threads"]))
    return inside.draw(run_dir) if message.get("draw") else inside.run(run_dir, bool(message["pictures"]))


if __name__ == "__main__":
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), os.getppid())
    os._exit(0)  # the libraries that were imported need not be tidied up
