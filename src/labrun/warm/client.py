"""The console scripts `labrun` and `lab`: hand the command to a warm interpreter, or carry it out here.

A command is handed over in three steps: the request, with every open descriptor; the answer of the forked process,
which is ready and has done nothing yet; the word to go. Until that word the command can still be carried out here;
after it, it runs there, once, and this process only passes signals on and ends as the command ends.

Imports as little as possible: the user waits for it at each command.
"""

from __future__ import annotations

import os
import sys

from labrun.warm import identity, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

COLD = frozenset({"warm", "ui", "shell", "connect"})
"""Words of `lab` that are not for a warm interpreter: one controls it, one is a server itself, and a shell, or what ssh
asks, needs this terminal as its own, which no process of a warm interpreter has."""
CANCELED = 130
ANSWER_S = 20.0
"""How long a server may take until the command is carried out here instead."""


_facts: dict[str, object] | None = None


def started_with() -> dict[str, object]:
    """The facts of this interpreter, as it was started (see `identity.facts`)."""
    return identity.facts(dict(os.environ)) if _facts is None else _facts


def labrun() -> None:
    """The command `labrun`."""
    if "--version" in sys.argv[1:]:
        _say_version()
    else:
        ended(lambda: _command("labrun.app"))


def lab() -> None:
    """The command `lab`."""
    if sys.argv[1:2] == ["--version"]:
        _say_version()
    else:
        ended(lambda: _command("labrun.cli"))


def ended(work: Callable[[], None]) -> None:
    """Carry a command out, and end the process without taking the interpreter apart if it failed with PyTorch loaded.

    What an error keeps alive, the libraries below PyTorch list line by line as leaked, and bury the message.
    """
    try:
        work()
    except SystemExit as end:
        if end.code in (None, 0) or "torch" not in sys.modules:
            raise
        code = end
    except Exception:
        if "torch" not in sys.modules:
            raise
        sys.excepthook(*sys.exc_info())
        code = SystemExit(1)
    else:
        return
    from labrun.warm import session

    session.leave(code)


def _say_version() -> None:
    """Immediately: nobody should wait for Hydra to learn labrun's version."""
    from labrun import version

    os.write(1, f"{version.text()}\n".encode())


def _command(module: str) -> None:
    global _facts
    wanted = sys.platform == "linux" and _wanted(module)
    place = identity.folder() if wanted else None
    if place is None:
        if sys.argv[1:2] == ["warm"]:
            _facts = identity.facts(dict(os.environ))
        _here(module)
        return
    environment = dict(os.environ)
    facts = identity.facts(environment)
    try:
        ready = _ask(place, facts, module)
    except KeyboardInterrupt:
        os.write(2, b"labrun: canceled before it began\n")
        os._exit(CANCELED)
    if ready is not None:
        _follow(*ready)
    try:
        _here(module)
    finally:
        from labrun.warm import starting

        starting.start(place, facts, environment)


def _here(module: str) -> None:
    from importlib import import_module

    import_module(module).main()


def _wanted(module: str) -> bool:
    """By itself for the user at a terminal; `LABRUN_WARM` says otherwise."""
    if module == "labrun.cli" and COLD.intersection(sys.argv):
        return False
    if module == "labrun.app" and sys.argv[1:2] == ["new"]:  # it imports nothing that is worth a warm interpreter
        return False
    if any(not os.path.isabs(place) for place in sys.path):  # what lies in the working folder could be imported
        return False
    switch = os.environ.get(identity.SWITCH_VARIABLE, "")
    if switch in ("0", "1"):
        return switch == "1"
    if {"CI", "SLURM_JOB_ID", "LABRUN_RUN_DIR"} & set(os.environ):
        return False
    return all(_is_terminal(descriptor) for descriptor in (0, 1, 2))


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _ask(place: str, facts: dict[str, object], module: str) -> tuple[socket.socket, int, int] | None:
    """Ask the server for a process: its connection, pid and pidfd once it is ready. None: it is not to be had."""
    connection = wire.connect(place, identity.name_of(facts))
    if connection is None:
        return None
    connection.settimeout(ANSWER_S)
    descriptors = list(_inherited(connection.fileno()))
    message: dict[str, object] = {
        "ask": "run",
        "facts": facts,
        "module": module,
        "arguments": sys.argv,
        "environment": list(os.environb.items()),
        "descriptors": descriptors,
    }
    try:
        if len(descriptors) < wire.MOST_DESCRIPTORS:
            here = os.open(".", os.O_PATH)
            try:
                wire.send(connection, message, [here, *descriptors])
            finally:
                os.close(here)
            answer = wire.receive(connection)
            if answer is not None and "pid" in answer[0]:
                connection.settimeout(None)
                return connection, int(str(answer[0]["pid"])), answer[1][0]
    except OSError:
        pass
    connection.close()  # a process that was forked all the same ends, having done nothing
    return None


def _inherited(own: int) -> Iterator[int]:
    """The descriptors that this process was given, and a program that it starts would be."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if descriptor != own and os.get_inheritable(descriptor):
                yield descriptor
        except OSError:  # the listing's own
            continue


def _follow(connection: socket.socket, pid: int, pidfd: int) -> None:
    """Have the process go, pass on signals until the command has ended, then end as it did."""
    import select
    import signal

    def alone(number: int, frame: FrameType | None) -> None:
        _quietly(lambda: signal.pidfd_send_signal(pidfd, number))

    def together(number: int, frame: FrameType | None) -> None:
        """What a terminal sends to all of a command's processes."""
        if not select.select([pidfd], [], [], 0)[0]:  # its pid is nobody else's while it lives
            _quietly(lambda: os.killpg(pid, number))

    def stop(number: int, frame: FrameType | None) -> None:
        # A command without a terminal of its own would pass SIGTSTP by.
        together(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        together(signal.SIGCONT, frame)

    signals = {signal.SIGINT: together, signal.SIGQUIT: together, signal.SIGHUP: together, signal.SIGTSTP: stop}
    signals |= dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGALRM), alone)
    for number, handler in signals.items():
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored from the start, as under nohup: so it is there
            signal.signal(number, handler)
    try:
        connection.sendall(b"!")
    except OSError:  # it was killed while it waited
        pass
    code = status = None
    while (answer := wire.receive(connection)) is not None:
        code = answer[0].get("code", code)
        status = answer[0].get("status", status)
        if code is not None or status is not None:
            break
    select.select([pidfd], [], [])
    if code is not None:
        os._exit(int(str(code)))
    if status is None:
        # Both are gone: the command ended without a word, and nobody is left to say how.
        os.write(2, b"labrun: the command was killed, together with its warm interpreter\n")
        os._exit(128 + signal.SIGKILL)
    _end_as(int(str(status)))


def _end_as(status: int) -> None:
    """End as a process that a parent would see with this wait status."""
    import resource
    import signal

    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _quietly(send_signal: Callable[[], object]) -> None:
    try:
        send_signal()
    except (ProcessLookupError, PermissionError):
        pass
