"""Turns a process forked by the warm interpreter into the command, as if a shell had started it.

The forked process takes over the command's descriptors, working folder, variables, limits, signals and arguments,
reports that it is ready, and waits for the client's signal to start. From then on the kernel kills it if the client is
killed, and it is independent of the server.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import importlib
import os
import resource
import signal
import socket
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, NoReturn

from labrun.warm import wire
from labrun.warm.identity import read

if TYPE_CHECKING:
    from labrun.warm.messages import CommandRequest

F_SETSIG = 10
HIGH = 400
FLUSH_FAILED = 120
"""Python's own exit code when it cannot flush its output at exit."""
IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
LIMITS = tuple(sorted(value for name, value in vars(resource).items() if name.startswith("RLIMIT_")))


class ForkRefusedError(Exception):
    """A fork of this process cannot execute a command; the message says why."""


def check(request: CommandRequest, peer: int) -> None:
    """Check that a fork of this process can take over the command's descriptors, priority and limits.

    Args:
        request: the client's request.
        peer: its pid.

    Raises:
        ForkRefusedError: it cannot.
    """
    taken = [number for number in request["descriptors"] if number > 2 and (number in _held or number >= HIGH)]
    if taken:
        raise ForkRefusedError(f"descriptor {taken[0]} is in use here")
    if os.getpriority(os.PRIO_PROCESS, peer) < os.getpriority(os.PRIO_PROCESS, 0):
        raise ForkRefusedError("the command has a higher priority")
    for number, (_, hard) in limits_of(peer).items():
        mine = resource.getrlimit(number)[1]
        if mine != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > mine):
            raise ForkRefusedError("the command has wider limits")
    if os.path.exists(f"/proc/{peer}/cwd/matplotlibrc"):
        raise ForkRefusedError("matplotlib reads the matplotlibrc of the working folder when it is imported")


_held: frozenset[int] = frozenset()


def hold_descriptors() -> None:
    """Record which descriptors the imports have left open, because a command's descriptors cannot replace them."""
    global _held
    _held = frozenset(int(name) for name in os.listdir("/proc/self/fd"))


def limits_of(peer: int) -> dict[int, tuple[int, int]]:
    """Return a process's resource limits."""
    return {number: resource.prlimit(peer, number) for number in LIMITS}


def become(
    connection: socket.socket,
    request: CommandRequest,
    descriptors: list[int],
    limits: dict[int, tuple[int, int]],
    held: list[int],
) -> None:
    """Execute the command and exit.

    Args:
        connection: the connection to the client, shared with the server.
        request: the client's request.
        descriptors: the client's working folder, then its open descriptors in the order of the request.
        limits: the client's resource limits.
        held: the server's own descriptors, to be closed.
    """
    peer = _peer(connection)
    connection = socket.socket(fileno=moved(connection.detach()))
    for descriptor in held:
        os.close(descriptor)
    os.setsid()
    take_signals(read(f"/proc/{peer}/status"))
    take_descriptors(descriptors, list(request["descriptors"]))
    _take_state(request, peer, limits)
    pidfd = os.pidfd_open(os.getpid())
    wire.send(connection, {"pid": os.getpid()}, [pidfd])
    os.close(pidfd)
    connection.settimeout(None)
    if connection.recv(1) != b"!":
        os._exit(0)  # the client has given up and runs the command itself, or was killed
    die_with(connection)
    code = _run_module(str(request["module"]))
    with contextlib.suppress(OSError):
        wire.send(connection, {"code": code})
    os._exit(code)


def _peer(connection: socket.socket) -> int:
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)


def moved(descriptor: int, lowest: int = HIGH) -> int:
    """Move a descriptor to a number that does not collide with those of commands."""
    found = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    os.close(descriptor)
    return found


def take_signals(status: str) -> None:
    """Ignore and block the same signals as the process with this status (proc(5)); reset the others to defaults."""
    masks = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    ignored, blocked = (int(masks[name].strip(), 16) for name in ("SigIgn", "SigBlk"))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        is_ignored = bool(ignored >> (number - 1) & 1) or number in IGNORED_BY_PYTHON
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        with contextlib.suppress(OSError, ValueError):  # the C library reserves some
            signal.signal(number, signal.SIG_IGN if is_ignored else usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, [n for n in signal.valid_signals() if blocked >> (n - 1) & 1])


def take_descriptors(given: list[int], numbers: list[int]) -> None:
    """Give each descriptor the number that it has in the client; the first one is the working folder."""
    here, *others = [moved(descriptor) for descriptor in given]
    os.fchdir(here)
    os.close(here)
    for descriptor, number in zip(others, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number not in numbers:  # closed in the client
            os.close(number)
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)
        elif number:
            # Keep the stream objects, which libraries may hold; only their targets have changed.
            getattr(sys, name).reconfigure(line_buffering=number == 2 or os.isatty(number))


def _take_state(request: CommandRequest, peer: int, limits: dict[int, tuple[int, int]]) -> None:
    """Adopt the client's variables, limits and arguments."""
    os.environ.clear()
    for key, value in request["environment"]:
        os.environb[key] = value
    take_limits(peer, limits)
    sys.argv[:] = request["arguments"]
    forget_main()
    sys.modules["__main__"].__file__ = sys.argv[0]


def take_limits(peer: int, limits: dict[int, tuple[int, int]]) -> None:
    """Adopt a process's umask, resource limits and priority.

    Args:
        peer: its pid.
        limits: its resource limits.
    """
    umask = next(line for line in read(f"/proc/{peer}/status").splitlines() if line.startswith("Umask:"))
    os.umask(int(umask.split()[1], 8))
    for number, limit in limits.items():
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)
    more = os.getpriority(os.PRIO_PROCESS, peer) - os.getpriority(os.PRIO_PROCESS, 0)
    if more > 0:
        os.nice(more)


def forget_main() -> None:
    """Reset to the state of a new interpreter: an empty `__main__`, no cached folder listings, a new random seed."""
    sys.modules["__main__"] = types.ModuleType("__main__")
    importlib.invalidate_caches()
    if "numpy.random" in sys.modules:  # Python's own generator reseeds itself after a fork
        sys.modules["numpy.random"].seed()


def die_with(connection: socket.socket) -> None:
    """Make the kernel kill this process when the other end of the connection closes."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        if connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"":  # the other end was closed just before
            os.kill(os.getpid(), signal.SIGKILL)


def _run_module(module: str) -> int:
    """Run the command's main and the interpreter's usual exit steps. Return the exit code."""
    code = 0
    try:
        importlib.import_module(module).main()
    except SystemExit as end:
        code = _code_of(end)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        _finish()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - as in the interpreter
        sys.excepthook(*sys.exc_info())
        code = 1
    return FLUSH_FAILED if not _finish() and not code else code


def leave(end: SystemExit) -> NoReturn:
    """Exit this process, but skip the interpreter's cleanup of objects."""
    code = _code_of(end)
    keep_operators()
    os._exit(FLUSH_FAILED if not _finish() and not code else code)


def keep_operators() -> None:
    """Leave PyTorch's operators registered when this process or a fork of it exits.

    They would be unregistered one by one, which changes ten thousand pages of memory: as much work as a whole command.
    """
    if "torch.library" not in sys.modules:
        return
    for finalizer, info in list(weakref.finalize._registry.items()):  # type: ignore[attr-defined] # no public list
        if info.func.__module__ == "torch.library" and finalizer.atexit:
            finalizer.atexit = False


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    if sys.stderr is not None:
        sys.stderr.write(f"{end.code}\n")
    return 1


def _finish() -> bool:
    """Wait for threads, run exit handlers, and flush the output. Return whether all output could be written."""
    threading._shutdown()  # type: ignore[attr-defined] # as multiprocessing does in its forked processes
    atexit._run_exitfuncs()
    is_written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            is_written = is_written and stream is sys.stderr
    ctypes.CDLL(None).fflush(None)  # what native code has printed to a pipe or a file
    return is_written
