"""The fork server: imports the modules that runs or calls need once, and forks a process for each task.

The server computes nothing. It is started by path in a new interpreter, with only the standard library; the first
message holds the import path (the frozen code), so that edits made while runs wait have no effect.

Messages are lines of JSON over a socket. To the server: the arguments of `preload`, then a `messages.ServerTask` for
each process to fork; `{"many": true}` before a large number of tasks. From it: a `messages.ServerAnswer`. When the
socket closes, every child is killed.

An idle server forks a spare process in advance, for the next task.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the server starts with the standard library alone
    from labrun.backends.local.messages import ServerTask
    from labrun.config.instantiate import Node

PR_SET_PDEATHSIG = 1
MADV_COLLAPSE = 25
LARGE_PAGE = 2**21


class ServerKind(StrEnum):
    """What a server's children execute: labrun's runs, calls of any function, or separate programs."""

    RUN = "run"
    CALL = "call"
    PROGRAM = "program"


class JsonSocket:
    """Lines of JSON over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def send(self, message: Mapping[str, object]) -> None:
        """Send one message.

        Raises:
            OSError: the other end is closed.
        """
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Any] | None:
        """Return all complete messages, parsed; None once the other end is closed."""
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


class Children:
    """The server's processes: one for each task, and a spare one, which waits to be assigned a task.

    Args: see `fork`.
    """

    def __init__(self, own_group: bool, closed: Sequence[int]) -> None:
        self._own_group, self._closed = own_group, closed
        self._pids: set[int] = set()
        self.spare: tuple[int, JsonSocket] | None = None

    def fork_ahead(self) -> None:
        """Fork a spare process for the next task."""
        ours, theirs = socket.socketpair()
        pid = fork(lambda: first_message(theirs), self._own_group, [*self._closed, ours.fileno()])
        theirs.close()
        self.spare = pid, JsonSocket(ours)

    def forget_spare(self) -> None:
        """Kill the spare process, because the server's state has changed since it was forked."""
        if self.spare is not None:
            (pid, channel), self.spare = self.spare, None
            channel.connection.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def start(self, message: ServerTask) -> int:
        """Assign a task to the spare process, or fork one. Return its pid."""
        pid = self._use_spare(message) or fork(lambda: message, self._own_group, self._closed)
        self._pids.add(pid)
        return pid

    def _use_spare(self, message: ServerTask) -> int | None:
        if self.spare is None:
            return None
        (pid, channel), self.spare = self.spare, None
        try:
            channel.send(message)
        except OSError:  # the spare process was killed
            os.waitpid(pid, 0)
            return None
        finally:
            channel.connection.close()
        return pid

    def reap(self) -> list[tuple[int, int]]:
        """Return the pid and wait status of each task's process that has ended since the last call."""
        ended = []
        for pid in list(self._pids):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._pids.discard(pid)
                ended.append((pid, status))
        return ended

    def kill(self) -> None:
        """Kill all of them."""
        self.forget_spare()
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)


def first_message(connection: socket.socket) -> ServerTask:
    """Wait for a task and return it; exit the process if the other end is closed."""
    with connection:
        channel = JsonSocket(connection)
        while True:  # a long message arrives in parts
            received = channel.receive()
            if received is None:
                os._exit(0)
            if received:
                task: ServerTask = received[0]
                return task


def serve(channel: JsonSocket, parent: int | None, own_group: bool = True) -> None:
    """Process messages until the controller is gone.

    Args:
        channel: the channel to the controller.
        parent: the controller's pid; None: the kernel ends this process in another way.
        own_group: see `fork`.
    """
    if parent is not None:
        die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # A cluster signals every process of a job; only the supervisor decides how to respond.
        signal.signal(number, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children, is_ready = Children(own_group, (channel.connection.fileno(), wake_read, wake_write)), False
    watched: list[Any] = [channel.connection, wake_read]
    while True:
        idle = is_ready and children.spare is None
        ready = select.select(watched, [], [], 0 if idle else None)[0]
        if not ready:
            children.fork_ahead()
        if wake_read in ready:
            os.read(wake_read, 4096)
            for pid, status in children.reap():
                channel.send({"pid": pid, "status": status})
        if channel.connection in ready:
            messages = channel.receive()
            if messages is None:
                children.kill()
                return
            for message in messages:
                if "run" not in message or message.get("data"):
                    children.forget_spare()
                if "preload" in message:
                    channel.send({"ready": preload(**message)})
                    is_ready = True
                elif "many" in message:
                    use_large_pages()
                else:
                    if message.get("data"):
                        hold(message["data"])
                    pid = children.start(message)
                    channel.send({"run": message["run"], "rank": message["rank"], "pid": pid})


def preload(
    path: list[str], preload: list[str], keep: bool = False, threads: int | None = None, kind: str = ServerKind.RUN
) -> float:
    """Import modules in advance. If an import fails, the run or call that needs the module reports the error.

    Args:
        path: the import path.
        preload: targets of runs, or modules of calls.
        keep: append this interpreter's own packages to `path`, which then holds only the frozen code.
        threads: threads that the libraries may use; set before they are loaded, so that runs need not set it.
        kind: what the children execute.

    Returns:
        Duration of the imports, in seconds.
    """
    began = time.monotonic()
    sys.path[:] = [*path, *(sys.path[1:] if not sys.flags.safe_path else sys.path)] if keep else path
    if threads is not None:
        from labrun.tasks.threads import set_variables, wait_asleep

        set_variables(threads)
        wait_asleep()
    gc.disable()  # collections during the imports would take a quarter of the time
    if kind == ServerKind.RUN:
        from labrun.backends.local import worker

        worker.preload(preload)
    elif kind == ServerKind.CALL:
        from labrun.backends.local import call

        call.preload(preload)
    gc.enable()
    if threads is not None and "threadpoolctl" in sys.modules:  # forked from a warm interpreter, which has loaded them
        from labrun.backends.local.threads import limit_threads

        limit_threads(threads)
    gc.collect()
    gc.freeze()
    return round(time.monotonic() - began, 3)


def use_large_pages() -> None:
    """Ask the kernel to put this process's memory into pages of 2 MiB: a fork and its exit then handle far fewer pages.

    Needs Linux 6.1 or later; has no effect on other systems.
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    begin = end = 0
    with contextlib.suppress(OSError, ValueError), open("/proc/self/smaps", encoding="ascii", errors="replace") as maps:
        for line in maps:
            word, *rest = line.split()
            if "-" in word and len(rest) >= 4 and not word.endswith(":"):
                begin, end = (int(part, 16) for part in word.split("-"))
                if not (rest[0].startswith("rw") and rest[3] == "0"):  # backed by a file, or not writable
                    end = 0
            elif word == "Rss:" and 1024 * int(rest[0]) > (end - begin) // 2 > 0:
                first, last = -(-begin // LARGE_PAGE), end // LARGE_PAGE
                if last > first:
                    madvise(first * LARGE_PAGE, (last - first) * LARGE_PAGE, MADV_COLLAPSE)


def hold(data: Mapping[str, Node]) -> None:
    """Read data that several runs will read, so that each has it in memory after its fork. The runs report errors."""
    from labrun.backends.local import worker

    with contextlib.suppress(Exception):
        worker.hold(data)
    gc.collect()
    gc.freeze()


def fork(said: Callable[[], ServerTask], own_group: bool, closed: Sequence[int]) -> int:
    """Fork one task's process. Return its pid, in the server.

    Args:
        said: called in the new process; returns the task, and may wait for it.
        own_group: give the process its own process group; false in a cluster job, which signals all its processes.
        closed: the server's own file descriptors, to be closed in the child.
    """
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code, message = 1, None
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        die_with_parent(server)
        if own_group:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
        else:
            # Block the signals rather than ignore them: Lightning installs its own handler.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
        for descriptor in closed:
            os.close(descriptor)
        message = said()
        code = child(message)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - a run's record holds the error; a call has only its log
        if message is not None and "call" in message:
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def child(message: ServerTask) -> int:
    """Execute one task in this process. Return the exit code."""
    print_to(message["out"], message["err"])
    if "command" in message:
        return become(message["command"], message["variables"], message["cwd"])
    if "call" in message:
        from labrun.backends.local import call

        return call.run_task(message)
    from labrun.backends.local import worker

    return worker.run_task(message)


def become(command: list[str], variables: dict[str, str], cwd: str) -> int:
    """Replace this process with another program; return an exit code only if the program cannot be started."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # the program would inherit ignored signals
    try:
        os.chdir(cwd)
        os.execvpe(command[0], command, variables)
    except OSError as error:
        sys.stderr.write(f"labrun: {command[0]} does not start: {error}\n")
        sys.stderr.flush()
        return 127


def print_to(out: str, err: str) -> None:
    """Redirect standard output and error to files, and make standard input empty."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for target, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, flags if target else os.O_RDONLY, 0o644), target)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # the caller had closed this stream
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the controller exited first
        serve(JsonSocket(socket.socket(fileno=int(sys.argv[1]))), os.getppid(), own_group=sys.argv[2:] != ["in-job"])
    os._exit(0)  # skip the cleanup of imported libraries
