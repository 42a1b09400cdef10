"""The fork server: imports what the runs need, once, computes nothing, and forks a process for each run.

Started by path in a fresh interpreter, with the standard library alone; the first message says where to import from
(the frozen code), so that edits made while runs wait change nothing.

Messages are lines of JSON over a socket. To the server: `{"path": [...], "preload": [...]}` once, then
`{"run": folder, "environment": {...}, "threads": n, "pictures": bool}` for each run (with `"gather": file`: only what
the pictures of a finished one show; with `"data": {...}`: data that later runs read too); `{"many": true}` before
many of them. From it: `{"ready": seconds}`, `{"run": folder, "pid": n}`, `{"pid": n, "status": wait status}`. When the
socket closes, every child is killed. With `"call"` it is a task of a call of any function (see `call`).

While there is nothing else to do, a process is forked ahead (`Spare`): the next run finds it made.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1
MADV_COLLAPSE = 25
LARGE_PAGE = 2**21
REQUEUE = 144
"""Exit code of a call that has saved its state and is to go on from there."""


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


class Spare:
    """A process that was forked ahead, and waits to be told which run it is.

    Args:
        own_group: see `fork`.
        closed: what is the server's alone.
    """

    def __init__(self, own_group: bool, closed: Sequence[int]) -> None:
        ours, theirs = socket.socketpair()

        def wait() -> dict[str, Any]:
            channel = Channel(theirs)
            messages: list[dict[str, Any]] = []
            while not messages:  # a long one comes in parts
                received = channel.receive()
                if received is None:
                    os._exit(0)
                messages = received
            theirs.close()
            return messages[0]

        self.pid = fork(wait, own_group, [*closed, ours.fileno()])
        theirs.close()
        self._channel = Channel(ours)

    def become(self, message: dict[str, Any]) -> bool:
        """Assign a run; False if the spare process died."""
        try:
            self._channel.send(message)
        except OSError:
            return False
        finally:
            self._channel.connection.close()
        return True

    def end(self) -> None:
        """It is not wanted."""
        self._channel.connection.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Children:
    """The server's processes: one for each run, and one to spare.

    Args: see `fork`.
    """

    def __init__(self, own_group: bool, closed: Sequence[int]) -> None:
        self._own_group, self._closed = own_group, closed
        self._pids: set[int] = set()
        self._spare: Spare | None = None

    @property
    def has_spare(self) -> bool:
        """Whether a process was forked ahead."""
        return self._spare is not None

    def fork_ahead(self) -> None:
        """Make the next run's process."""
        self._spare = Spare(self._own_group, self._closed)

    def forget_spare(self) -> None:
        """The server has changed since it was forked: the next run is not to be the one that it was then."""
        if self._spare is not None:
            self._spare.end()
            self._spare = None

    def start(self, message: dict[str, Any]) -> int:
        """Have a process for a run; its pid."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.become(message):
            pid = spare.pid
        else:
            if spare is not None:  # somebody has ended it
                os.waitpid(spare.pid, 0)
            pid = fork(lambda: message, self._own_group, self._closed)
        self._pids.add(pid)
        return pid

    def reap(self) -> list[tuple[int, int]]:
        """Every run's process that has ended since, with its wait status."""
        ended = []
        for pid in list(self._pids):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._pids.discard(pid)
                ended.append((pid, status))
        return ended

    def kill(self) -> None:
        """End them all."""
        self.forget_spare()
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)


def serve(channel: Channel, parent: int | None, own_group: bool = True) -> None:
    """Answer messages until the controller is gone.

    Args:
        channel: to the controller.
        parent: its process; None: the kernel ends this one in another way.
        own_group: see `fork`.
    """
    if parent is not None:
        die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # A cluster signals every process of a job: what is to be done then is the supervisor's to say.
        signal.signal(number, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children, is_ready = Children(own_group, (channel.connection.fileno(), wake_read, wake_write)), False
    watched: list[Any] = [channel.connection, wake_read]
    while True:
        idle = is_ready and not children.has_spare
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
                    channel.send({"run": message["run"], "pid": children.start(message)})


def preload(
    path: list[str],
    preload: list[str],
    keep: bool = False,
    modules: list[str] | None = None,
    threads: int | None = None,
) -> float:
    """Import what will be needed. What cannot be imported is left to its run, which says why.

    Args:
        path: where to import from.
        preload: targets of labrun's own runs.
        keep: this interpreter's own packages come after `path`, which is then the frozen code alone.
        modules: for calls of any function: modules by name, and nothing of labrun.
        threads: how many threads the libraries may use, told before they are loaded: then a run need not tell them.

    Returns:
        Seconds.
    """
    began = time.monotonic()
    sys.path[:] = [*path, *(sys.path[1:] if not sys.flags.safe_path else sys.path)] if keep else path
    if threads is not None:
        from labrun.tasks.threads import set_variables, wait_asleep

        set_variables(threads)
        wait_asleep()
    if modules is None:
        from labrun.backends.local import worker

        worker.preload(preload)
    else:
        for name in ("submitit.core.submission", "labrun.backends.local.executor", "labrun.backends.local.threads"):
            importlib.import_module(name)
        drawn = random_state()
        for name in modules:
            # A module's own errors, sys.exit in it too: the call that needs it meets them again, and tells them.
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
        global _is_seeded
        _is_seeded = random_state() != drawn
    if threads is not None and "threadpoolctl" in sys.modules:  # forked from a warm interpreter, which has them all
        importlib.import_module("labrun.backends.local.threads").limit_threads(threads)
    gc.collect()
    gc.freeze()
    return round(time.monotonic() - began, 3)


_is_seeded = False
"""Whether what was imported has seeded numpy's own generator: each call goes on from there then."""


def random_state() -> bytes | None:
    """What numpy's own generator would draw next; None without numpy."""
    if "numpy" not in sys.modules:
        return None
    import numpy.random

    return bytes(numpy.random.get_state(legacy=False)["state"]["key"])


def use_large_pages() -> None:
    """Have the kernel put this process's memory in pages of 2 MiB: a fork copies, and its end gives back, far fewer.

    Linux from 6.1 on; elsewhere nothing happens.
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
                if not (rest[0].startswith("rw") and rest[3] == "0"):  # a file's, or not to be written
                    end = 0
            elif word == "Rss:" and 1024 * int(rest[0]) > (end - begin) // 2 > 0:
                first, last = -(-begin // LARGE_PAGE), end // LARGE_PAGE
                if last > first:
                    madvise(first * LARGE_PAGE, (last - first) * LARGE_PAGE, MADV_COLLAPSE)


def hold(data: dict[str, Any]) -> None:
    """Read data that several runs are to read, so that each finds them in its memory. What goes wrong, they tell."""
    from labrun.backends.local import worker

    with contextlib.suppress(Exception):
        worker.hold(data)
    gc.collect()
    gc.freeze()


def fork(said: Callable[[], dict[str, Any]], own_group: bool, closed: Sequence[int]) -> int:
    """Fork one run's process; returns its pid, in the server.

    Args:
        said: gives the message that says which run it is, in the new process; may wait for it.
        own_group: with a process group of its own; in a cluster's job, which signals all of its processes, without.
        closed: what is the server's alone.
    """
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code, message = 1, {}
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
            # Blocked, and not only ignored: Lightning puts a handler of its own in place.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
        for descriptor in closed:
            os.close(descriptor)
        message = said()
        code = child(message)
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - a run's record says what became of it; of a call only its log can
        if "call" in message:
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def child(message: dict[str, Any]) -> int:
    """One run, in a process of its own; what it prints goes to its `driver.log`."""
    set_before = os.environ.get("OMP_NUM_THREADS")
    os.environ.update(message["environment"])
    if "call" in message:
        return call(message)
    run_dir = message["run"]
    print_to(*[os.path.join(run_dir, "driver.log")] * 2)
    from labrun.backends.local import threads, worker

    threads.limit_run(int(message["threads"]), message["environment"], set_before)
    if message.get("gather"):
        return worker.gather(run_dir, str(message["gather"]))
    return worker.run(run_dir, bool(message["pictures"]))


def print_to(out: str, err: str) -> None:
    """Send standard output and error to files; standard input is empty."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for target, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, flags if target else os.O_RDONLY, 0o644), target)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # the caller had closed it
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def call(message: dict[str, Any]) -> int:
    """One task of a call of a pickled function, as submitit's own executors do it; the exit code.

    Args:
        message: `call`: the executor's folder; `job`: its id; `rank`: of the task; `variables`: all that the task has;
            `cwd`: its folder; `threads`: how many the libraries may use (None: as its variables say); `joined`:
            standard error goes where standard output does.
    """
    os.environ.clear()
    os.environ.update(message["variables"])
    time.tzset()
    from submitit.core.submission import process_job
    from submitit.core.utils import JobPaths

    from labrun.backends.local import threads as limits
    from labrun.backends.local.executor import LabrunJobEnvironment, check_own
    from labrun.tasks.threads import number

    # Kept back until there is a handler for it: importing what the function needs may take its time.
    signal.pthread_sigmask(signal.SIG_BLOCK, {LabrunJobEnvironment._usr_sig()})
    paths = JobPaths(message["call"], message["job"], message["rank"])
    print_to(str(paths.stdout), str(paths.stdout if message["joined"] else paths.stderr))
    os.chdir(message["cwd"])
    check_own(paths.submitted_pickle)
    limits.limit_threads(message["threads"] or number(os.environ.get("OMP_NUM_THREADS")) or 1)
    if "numpy.random" in sys.modules and not _is_seeded:  # each draws its own, as in an interpreter of its own
        sys.modules["numpy.random"].seed()
    let_workers_be_ended()
    try:
        process_job(message["call"])
    except Exception:  # noqa: BLE001 - submitit has put it in the result
        return 1
    except SystemExit as end:
        if end.code == REQUEUE:
            return REQUEUE
        sys.stderr.write(f"the function ended the process: {end!r}\n")
        return end.code if isinstance(end.code, int) and end.code else 1
    return 0


def let_workers_be_ended() -> None:
    """Have processes that a call forks obey SIGTERM.

    submitit has its jobs pass that signal by, their workers inherit this, and `multiprocessing`, which ends its workers
    so, then waits for one for ever.
    """
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the controller ended first
        serve(Channel(socket.socket(fileno=int(sys.argv[1]))), os.getppid(), own_group=sys.argv[2:] != ["in-job"])
    os._exit(0)  # the libraries that were imported need not be tidied up
