"""The console scripts `labrun` and `lab`: run the command in a warm interpreter, or in this process.

A command is handed over in three steps. The client sends the request with all open descriptors. The forked process
answers that it is ready, without having done anything. The client sends the signal to start. Until then the command can
still run in this process. After it, the command runs in the forked process, exactly once; this process only forwards
signals and exits with the command's exit status.

This module imports as little as possible, because the user waits for it at each command.
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

    from labrun.warm.messages import CommandEnd, CommandReady, CommandRefused, CommandRequest

COLD = frozenset({"warm", "ui", "shell", "connect"})
"""Subcommands of `lab` that never run in a warm interpreter: `warm` controls it, `ui` is a server itself, and a shell
and ssh's prompts need this terminal as their controlling terminal, which a warm interpreter's processes lack."""
CANCELED = 130
ANSWER_S = 20.0
"""How long to wait for a server before the command runs in this process instead, in seconds."""


_facts: dict[str, object] | None = None


def started_with() -> dict[str, object]:
    """Return the facts of this interpreter at its start (see `identity.facts`)."""
    return identity.facts(dict(os.environ)) if _facts is None else _facts


def labrun() -> None:
    """Entry point of the command `labrun`."""
    if "--version" in sys.argv[1:]:
        _print_version()
    else:
        run_and_exit(lambda: _command("labrun.app"))


def lab() -> None:
    """Entry point of the command `lab`."""
    if sys.argv[1:2] == ["--version"]:
        _print_version()
    else:
        run_and_exit(lambda: _command("labrun.cli"))


def run_and_exit(work: Callable[[], None]) -> None:
    """Run a command, and exit without the interpreter's cleanup if PyTorch is loaded.

    The cleanup takes a third of a second, and PyTorch's native libraries would report every object that an error or
    `gc.freeze` keeps alive as a leak, below the command's own output.
    """
    end = SystemExit(0)
    try:
        work()
    except SystemExit as error:
        end = error
    except Exception:
        if "torch" not in sys.modules:
            raise
        sys.excepthook(*sys.exc_info())
        end = SystemExit(1)
    if "torch" not in sys.modules:
        if end.code in (None, 0):
            return
        raise end
    from labrun.warm import session

    session.leave(end)


def _print_version() -> None:
    """Print the version at once, without importing Hydra."""
    from labrun import version

    os.write(1, f"{version.text()}\n".encode())


def _command(module: str) -> None:
    global _facts
    wanted = sys.platform == "linux" and _uses_warm(module)
    place = identity.folder() if wanted else None
    if place is None:
        if sys.argv[1:2] == ["warm"]:
            _facts = identity.facts(dict(os.environ))
        execute_here(module)
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
        execute_here(module)
    finally:
        from labrun.warm import starting

        starting.start(place, facts, environment)


def execute_here(module: str) -> None:
    """Execute the command of a module in this process."""
    import gc
    from importlib import import_module

    gc.disable()  # collections during the imports would take a quarter of the time
    try:
        main = import_module(module).main
    finally:
        gc.enable()
    main()


def _uses_warm(module: str) -> bool:
    """Return whether to use a warm interpreter: by default at a terminal, unless `LABRUN_WARM` says otherwise."""
    if module == "labrun.cli" and COLD.intersection(sys.argv):
        return False
    if module == "labrun.app" and sys.argv[1:2] == ["new"]:  # its imports are not worth a warm interpreter
        return False
    if any(not os.path.isabs(place) for place in sys.path):  # a module in the working folder could be imported
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
    """Request a process from the server. Return its connection, pid and pidfd once it is ready; None if refused."""
    connection = wire.connect(place, identity.name_of(facts))
    if connection is None:
        return None
    connection.settimeout(ANSWER_S)
    descriptors = list(_inherited(connection.fileno()))
    message: CommandRequest = {
        "ask": wire.RUN,
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
            received: tuple[CommandReady | CommandRefused, list[int]] | None = wire.receive(connection)
            if received is not None and "pid" in (answer := received[0]):
                connection.settimeout(None)
                return connection, answer["pid"], received[1][0]
    except OSError:
        pass
    connection.close()  # a process that was forked nevertheless exits without having done anything
    return None


def _inherited(own: int) -> Iterator[int]:
    """Yield the inheritable descriptors of this process."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        try:
            if descriptor != own and os.get_inheritable(descriptor):
                yield descriptor
        except OSError:  # the descriptor of the listing itself
            continue


def _follow(connection: socket.socket, pid: int, pidfd: int) -> None:
    """Start the command, forward signals until it has ended, then exit with its status."""
    import select
    import signal

    def alone(number: int, frame: FrameType | None) -> None:
        _quietly(lambda: signal.pidfd_send_signal(pidfd, number))

    def together(number: int, frame: FrameType | None) -> None:
        """Forward a signal that a terminal sends to all of a command's processes."""
        if not select.select([pidfd], [], [], 0)[0]:  # while it lives, its pid cannot be reused
            _quietly(lambda: os.killpg(pid, number))

    def stop(number: int, frame: FrameType | None) -> None:
        # A command without a controlling terminal would ignore SIGTSTP.
        together(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        together(signal.SIGCONT, frame)

    signals = {signal.SIGINT: together, signal.SIGQUIT: together, signal.SIGHUP: together, signal.SIGTSTP: stop}
    signals |= dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGALRM), alone)
    for number, handler in signals.items():
        if signal.getsignal(number) != signal.SIG_IGN:  # else the command ignores it, too (nohup)
            signal.signal(number, handler)
    try:
        connection.sendall(b"!")
    except OSError:  # the process was killed while it waited
        pass
    code: int | None = None
    status: int | None = None
    answer: tuple[CommandEnd, list[int]] | None
    while (answer := wire.receive(connection)) is not None:
        code = answer[0].get("code", code)
        status = answer[0].get("status", status)
        if code is not None or status is not None:
            break
    select.select([pidfd], [], [])
    if code is not None:
        os._exit(code)
    if status is None:
        # The command and the server are both gone, so its status is unknown.
        os.write(2, b"labrun: the command was killed, together with its warm interpreter\n")
        os._exit(128 + signal.SIGKILL)
    _end_as(status)


def _end_as(status: int) -> None:
    """Exit such that the parent sees this wait status."""
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
