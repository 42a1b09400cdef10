"""The warm interpreter itself: imports the modules that commands need, and forks a process for each command.

It computes only what each command would compute first. `starting.py` starts it. It listens in a folder that only its
user can access, and serves only that user's processes. It ends after ten idle minutes, and as soon as anything that it
has imported has changed; when in doubt, a command starts cold. A running command does not depend on the server: if the
server is killed, only the exit code of a command that is killed with it is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import importlib
import logging
import marshal
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labrun.garbage import gc_disabled
from labrun.warm import identity, session, wire, zygote
from labrun.warm.fingerprint import Fingerprint, Reads, kernel_settings
from labrun.warm.session import ForkRefusedError

if TYPE_CHECKING:
    from labrun.warm.messages import ClientRequest, CommandRequest, ServerState

log = logging.getLogger(__name__)

IDLE_S = 600.0
IDLE_VARIABLE = "LABRUN_WARM_IDLE_S"
PATIENCE_S = 2.0
"""Time limit for a connected client to send its request, in seconds."""
HYDRAS_OWN = (
    "bash_completion",
    "basic_launcher",
    "basic_sweeper",
    "file_config_source",
    "fish_completion",
    "importlib_resources_config_source",
    "structured_config_source",
    "zsh_completion",
)
"""Hydra's own plug-ins; others belong to the user and are imported by each command."""
LIBRARIES = (
    "torch",
    "torchvision",
    "pytorch_lightning",
    "skops.io",
    "joblib",
    "optuna",
    "cmaes",
    "submitit",
    "cloudpickle",
    "rich.live",
    "rich.progress",
    "rich.table",
    "filelock",
    "fsspec",
    "hydra.core.plugins",
    "hydra._internal.logging_config",
    *(f"hydra._internal.core_plugins.{name}" for name in HYDRAS_OWN),
    "antlr4.LL1Analyzer",
    "omegaconf._impl",
    "torch.utils.serialization.config",
    "pytorch_lightning.plugins.environments",
)
"""Modules that commands import sooner or later, in addition to `LIGHT`. MLflow is excluded because commands that need
it run for a long time; plotext because it reads the terminal's width, which differs between commands, on import."""
LIGHT = (
    "labrun.backends.local.worker",
    "labrun.compose.hydra_job",
    "labrun.tasks.evaluating",
    "labrun.tasks.kinds",
    "labrun.tasks.script.registering",
    "labrun.tasks.script.script",
    "sklearn.datasets",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "sklearn.metrics",
    "scipy.optimize",
    "pandas",
    "psutil",
    "threadpoolctl",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
)
"""Modules that runs without PyTorch need, too; they are imported first."""
EXCLUDED = (
    "labrun.compat.azureml.site",
    "labrun.compat.standalone",
    "labrun.search.plain_app",
    "labrun.submission.plain_app",
    "labrun.warm",
)
"""labrun's modules that are not imported: replacements of other packages, this package, and those for plain
applications, which make Hydra import every plug-in. Hydra finds the user's plug-ins only then, so labrun's own are not
imported either."""
OVERRIDES = ("a/b=c,d", "+a.b.c=1.5", "~a", "++a=[b,-1,null]", "a={b:true}", "a='b c'", "a=range(1,3)", "a=${b:c}")
"""Overrides of each form. The parser builds its automata while it reads them."""
HIGH = 300
"""Lowest number for the server's own descriptors, above those that commands bring."""


@dataclass
class Command:
    """A command that a forked process executes."""

    connection: socket.socket
    arguments: list[str]
    began: float = field(default_factory=time.monotonic)


def main() -> None:
    """Import the modules, then serve until idle or out of date."""
    began = time.monotonic()
    given: dict[str, Any] = marshal.loads(sys.stdin.buffer.read())
    _log_to_stderr()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    place, facts = str(given["place"]), dict(given["facts"])
    lock = _locked(f"{place}/{identity.name_of(facts)}.lock")
    if lock is None:
        return
    own = identity.facts(dict(os.environ))
    sys.path[:] = facts["path"]
    differing = [key for key in own if key not in ("path",) and own[key] != facts.get(key)]
    if differing:
        log.info("Not the requested interpreter: %s", ", ".join(differing))
        return
    empty = os.open(os.devnull, os.O_RDWR)
    os.dup2(empty, 0)
    os.close(empty)
    fingerprint, reads, niceness = Fingerprint(), Reads(), int(given.get("nice", 0))

    def watch(work: Callable[[], None]) -> None:
        with reads, fingerprint:  # closed before a zygote is forked
            _nicely(work, niceness)

    zygotes = {}
    if given.get("modules") is None:
        watch(_import_light)
        zygotes[zygote.LIGHT] = zygote.fork([lock])
        watch(_import_all)
        zygotes[zygote.FULL] = zygote.fork([lock, zygotes[zygote.LIGHT].fileno()])
    else:
        watch(functools.partial(_import, given["modules"]))
    changed = fingerprint.close()
    if changed is not None or _has_device():
        log.info("Not used: %s has changed meanwhile", changed or "a GPU's state")
        os._exit(0)
    log.info("Warm after %.1f s, %d modules", time.monotonic() - began, len(sys.modules))
    WarmServer(place, facts, fingerprint, reads, zygotes, session.moved(lock, HIGH)).serve()


def _locked(path: str) -> int | None:
    """Lock a file, and write this process's pid into it. Return its descriptor; None if another server holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _log_to_stderr() -> None:
    """Set up logging for this module only: a command sets up its own logging, and must not find any."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _nicely(work: Callable[[], None], niceness: int) -> None:
    """Do work at a lower priority in a new thread, because a process and its children could not raise theirs again."""

    def whole() -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        work()

    worker = threading.Thread(target=whole)
    worker.start()
    worker.join()


def _import_light() -> None:
    # as in runs, before OpenMP is loaded; each command's own variables are set later
    importlib.import_module("labrun.tasks.threads").wait_asleep()
    _import(LIGHT)
    importlib.import_module("labrun.tasks.estimator").warm()
    importlib.import_module("labrun.runs.record").installed_packages()  # caches them
    _look_for_thread_pools()
    _prepare_for_forks()


def _import_all() -> None:
    importlib.import_module("labrun.tasks.deferral").install()
    _import((*LIBRARIES, *_own_modules()))
    importlib.import_module("labrun.report.figures").warm()
    importlib.import_module("labrun.tasks.skops_io").load_lists()
    # caches the digests of labrun's files
    importlib.import_module("labrun.runs.seals").code_of(["labrun.execute.execute"])
    conf = importlib.import_module("labrun.compose.paths").conf_dir()
    importlib.import_module("labrun.compose.parsed").load_all(conf)
    importlib.import_module("labrun.app.command_line").checked_texts(conf)
    importlib.import_module("labrun.config.targets").read_own(conf)
    importlib.import_module("labrun.app.default_config").merge()
    importlib.import_module("hydra.core.override_parser.overrides_parser").OverridesParser.create().parse_overrides(
        [*OVERRIDES]
    )
    _look_for_thread_pools()
    _prepare_for_forks()


def _import(names: Iterable[str]) -> None:
    with gc_disabled():
        for name in names:
            try:
                importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 - a command that needs it reports the error
                log.info("%s: %s: %s", name, type(error).__name__, error)


def _prepare_for_forks() -> None:
    """Prepare the process's memory for cheap forks."""
    session.keep_operators()
    gc.collect()
    gc.freeze()
    importlib.import_module("labrun.backends.local.forkserver").use_large_pages()


def _look_for_thread_pools() -> None:
    """Have threadpoolctl resolve the path of each loaded library, which it caches: hundreds, for each command anew."""
    importlib.import_module("threadpoolctl").ThreadpoolController()


def _own_modules() -> list[str]:
    package = importlib.import_module("labrun")
    found = [module.name for module in pkgutil.walk_packages(package.__path__, "labrun.", onerror=lambda name: None)]
    return [name for name in found if not name.startswith(EXCLUDED) and not name.endswith("__main__")]


def _has_device() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


class WarmServer:
    """Answers requests.

    Args:
        place: the folder of its socket.
        facts: facts that a client's interpreter must share.
        fingerprint: the fingerprint of the imports.
        reads: the variables that the imports have read.
        zygotes: see `zygote`.
        lock: descriptor of the lock against other servers with the same facts.
    """

    def __init__(
        self,
        place: str,
        facts: dict[str, Any],
        fingerprint: Fingerprint,
        reads: Reads,
        zygotes: dict[str, socket.socket],
        lock: int,
    ) -> None:
        self._facts, self._fingerprint, self._reads, self._lock = facts, fingerprint, reads, lock
        self._zygotes = zygotes
        self._path = f"{place}/{identity.name_of(facts)}.sock"
        self._commands: dict[int, Command] = {}
        self._served, self._since = 0, time.time()
        self._ends = False
        session.hold_descriptors()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        listening.bind(self._path)
        listening.listen(64)
        self._listening = socket.socket(fileno=session.moved(listening.detach(), HIGH))
        read_end, write_end = os.pipe()
        self._wake, self._woken = session.moved(read_end, HIGH), session.moved(write_end, HIGH)
        for end in (self._wake, self._woken):
            os.set_blocking(end, False)
        self._here = kernel_settings(os.getpid())
        self._node = os.stat(self._path).st_ino

    def serve(self) -> None:
        """Serve until it is idle for ten minutes, or imported files have changed, and all commands have ended."""
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, lambda number, frame: self._end())
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        idle_s = float(os.environ.get(IDLE_VARIABLE) or IDLE_S)
        last = time.monotonic()
        while not self._ends or self._commands:
            watched: list[Any] = [self._wake] if self._ends else [self._wake, self._listening]
            left = None if self._commands else max(0.0, last + idle_s - time.monotonic())
            ready = select.select(watched, [], [], left)[0]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            self._reap()
            if self._listening in ready:
                self._accept()
            if ready:
                last = time.monotonic()
            elif not self._commands:
                self._end()
        log.info("Ended, after %d commands", self._served)
        os._exit(0)  # skip the cleanup of imported libraries

    def _end(self) -> None:
        """Accept no more commands."""
        if not self._ends:
            self._ends = True
            with contextlib.suppress(OSError):
                if os.stat(self._path).st_ino == self._node:
                    os.unlink(self._path)

    def _reap(self) -> None:
        for pid in list(self._commands):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                command = self._commands.pop(pid)
                with contextlib.suppress(OSError):  # the client may be gone
                    wire.send(command.connection, {"status": status})
                command.connection.close()

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        descriptors: list[int] = []
        try:
            connection.settimeout(PATIENCE_S)
            peer, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            received = wire.receive(connection) if uid == os.getuid() else None
            if received is None:
                return
            descriptors = received[1]
            request: ClientRequest = received[0]
            if request["ask"] == wire.RUN:
                self._check(request, peer)
                self._fork(connection, request, descriptors, peer)
                return
            wire.send(connection, self._state())
            if request["ask"] == wire.STOP:
                self._end()
        except ForkRefusedError as error:
            log.info("Refused: %s", error)
            with contextlib.suppress(OSError):
                wire.send(connection, {"refused": str(error)})
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            log.info("A client failed: %r", error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if not any(command.connection is connection for command in self._commands.values()):
                connection.close()

    def _state(self) -> ServerState:
        return {
            "process": os.getpid(),
            "since": self._since,
            "served": self._served,
            "modules": len(sys.modules),
            "running": [command.arguments for command in self._commands.values()],
        }

    def _check(self, request: CommandRequest, peer: int) -> None:
        """Check that a fork of this process can execute a command.

        Raises:
            ForkRefusedError: it cannot.
        """
        if request["facts"] != self._facts:
            raise ForkRefusedError("another interpreter")
        if (changed := self._fingerprint.changed()) is not None:
            self._end()
            raise ForkRefusedError(f"{changed} has changed since it was imported")
        environment = {os.fsdecode(key): os.fsdecode(value) for key, value in request["environment"]}
        if (name := self._reads.differing(environment)) is not None:
            self._end()
            raise ForkRefusedError(f"{name} was read by an import, and has another value")
        there = kernel_settings(peer)
        if differing := [key for key in there if there[key] != self._here.get(key)]:
            raise ForkRefusedError(f"the command runs under other conditions: {', '.join(differing)}")
        session.check(request, peer)

    def _fork(self, connection: socket.socket, request: CommandRequest, descriptors: list[int], peer: int) -> None:
        limits = session.limits_of(peer)
        gc.disable()
        pid = os.fork()
        if pid == 0:
            try:
                gc.enable()
                signal.set_wakeup_fd(-1)
                held = [self._listening.fileno(), self._wake, self._woken, self._lock]
                held += [command.connection.fileno() for command in self._commands.values()]
                zygote.available, zygote.imported = self._zygotes, self._fingerprint
                session.become(connection, request, descriptors, limits, held)
            finally:
                os._exit(1)
        gc.enable()
        self._served += 1
        self._commands[pid] = Command(connection, list(request["arguments"]))
