"""A shell in a run's environment (`lab shell`): its folder, its interpreter, its node, and forwarded ports.

While a run is active in a cluster's job, the shell is a further process of that job (`Backend.step`). For an ended run,
it runs on the machine that has the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, cast

from labrun.backends import registry, variables
from labrun.backends.base import Backend
from labrun.config.schema import Script, Variables
from labrun.errors import ConfigError, RecordError
from labrun.remote import channel, links, relay, ssh
from labrun.remote.channel import Channel, RequestRefusedError
from labrun.remote.remotes import Remote
from labrun.remote.ssh import UnreachableError
from labrun.runs import store, sweep_state
from labrun.runs.record import HIDDEN, RUNNING, Record, parse_record, sweep_folder
from labrun.runs.workspace import Workspace

RC = '[ -f ~/.bashrc ] && . ~/.bashrc; {exports}; PS1="(run {id}) $PS1"'
"""Startup commands of an interactive bash, after the user's own file, which may set PATH."""
BASH = "exec bash -c 'exec bash --rcfile <(printf %s \"$1\") -i' labrun {rc}"
INTERACTIVE = f"command -v bash >/dev/null 2>&1 && {BASH}; exec sh -i"
RECEIVE = (
    'own=$(timeout 20 cat "$0") && eval "$own" || '
    'echo "lab: the variables of compute.environment could not be set" >&2; unset own; exec "$@"'
)
"""Script for `sh -c`: reads the run's own variables from a pipe, then executes a command."""
READY_S = 60.0
"""Time for the connection to a node, for which the cluster must start a process, in seconds."""


@dataclass(frozen=True)
class Forward:
    """A local port that is forwarded to a remote one."""

    local: int
    remote: int


@dataclass(frozen=True)
class ActiveJob:
    """The cluster's job of an active run, which further processes can join."""

    backend: Backend
    id: str
    node: str | None = None
    programs: str = ""
    """The folder of the backend's programs; empty if they are on the PATH."""

    def step(self, tty: bool) -> list[str]:
        """Return the words that start a command in this job; see `Backend.step`."""
        return self.backend.step(self.id, self.node, self.programs, tty) or []


@dataclass(frozen=True)
class RunLocation:
    """The location of a run, and its environment there."""

    record: Record
    folder: str
    """Its folder at that location."""
    programs: Mapping[str, str]
    """Variables for the paths of its programs and modules."""
    environment: Mapping[str, str]
    """Its own variables (`compute.environment`) whose values are known locally; never put on a command line."""
    remote: Remote | None = None
    """None: this machine."""
    job: ActiveJob | None = None
    unset: Sequence[str] = field(default_factory=tuple)
    """Variables of the run whose values are not known locally."""
    guessed: Sequence[str] = field(default_factory=tuple)
    """Variables with values from this process, since the record holds none."""

    @property
    def where(self) -> str:
        """Description of the machine, for messages."""
        machine = "this machine" if self.remote is None else self.remote.name
        return machine if self.job is None else f"node {self.job.node or '?'} (job {self.job.id}) of {machine}"


def forward(text: str) -> Forward:
    """Parse a port or `LOCAL:REMOTE`.

    Raises:
        ConfigError: the text is neither.
    """
    parts = text.split(":")
    ports = [int(part) for part in parts if part.isascii() and part.isdigit() and 0 < int(part) < 65536]
    if len(parts) > 2 or len(ports) != len(parts):
        raise ConfigError(
            f"-L {text}: give a port, or LOCAL:REMOTE, each from 1 to 65535, as in -L 6006 or -L 8080:6006"
        )
    return Forward(ports[0], ports[-1])


def locate(run_dir: Path, record: Record) -> RunLocation:
    """Find the location of a run.

    Raises:
        UnreachableError: its machine does not answer.
        RecordError, ConfigError: its folder no longer exists there, or its machine is not known.
    """
    folder = links.folder_of(run_dir, record)
    link = None if folder is None else links.read(folder)
    if folder is None or link is None:
        return _locate_here(run_dir, record)
    return _locate_remotely(run_dir, record, folder, link)


def _locate_here(run_dir: Path, record: Record) -> RunLocation:
    names, script = record.typed.environment, record.typed.script or Script()
    known, missing = _values(names)
    python = sys.executable
    with contextlib.suppress(RecordError):
        built = store.environment_folder(script.environment) if script.environment else None
        python = str(built / "bin" / "python") if built is not None else script.python or python
    path = [] if script.python or script.environment else _path(run_dir, record)
    programs = {**_programs(python, path), store.ROOT_VARIABLE: str(store.workspace())}
    return RunLocation(record, str(run_dir), programs, known, None, _job(record), missing, _guessed(names, known))


def _values(names: Variables) -> tuple[dict[str, str], list[str]]:
    """Return a run's own variables with known values, and the names of the others."""
    known: dict[str, str] = {}
    for name, value in names.items():
        with contextlib.suppress(ConfigError):  # it refers to a variable that is not set locally
            known |= variables.known_here({name: value})
    return known, sorted(set(names) - set(known))


def _guessed(names: Variables, known: Mapping[str, str]) -> list[str]:
    return sorted(name for name in known if names[name] == HIDDEN)


def _path(run_dir: Path, record: Record) -> list[str]:
    """Return the frozen code on a run's import path, which precedes its interpreter's own folders."""
    with contextlib.suppress(RecordError):
        plan = sweep_state.read_plan(sweep_folder(run_dir, record) or run_dir)
        state = Workspace(store.workspace()).state
        return [folder for folder in plan.path if Path(folder).is_relative_to(state)]
    return []


def _locate_remotely(run_dir: Path, record: Record, folder: Path, link: links.Link) -> RunLocation:
    run = os.path.relpath(run_dir, folder)
    remote_path = os.path.normpath(f"{link.folder}/{run}")
    with Channel(link.machine) as conversation:
        answer, count = conversation.ask("pull", folders={remote_path: {}}, parts=["run.json"])
        raw = conversation.read(count)
        if not answer["folders"][remote_path]:
            raise RecordError(
                f"{conversation.root}/{remote_path} is no longer on {link.remote}: run {record.id} exists only here"
            )
        remote_record = parse_record(raw, Path(conversation.root, remote_path, "run.json"))
        job = _job(remote_record)
        if job is not None and (program := job.backend.program) is not None:
            found = conversation.call("hello", root=link.machine.folder, programs=[program])["programs"][program]
            job = replace(job, programs=os.path.dirname(found or ""))
    script = remote_record.typed.script or Script()
    python, path = link.python, link.path
    if script.environment:
        environments = Workspace(Path(link.root, link.workspace)).environments
        python, path = f"{environments}/{script.environment}/bin/python", []
    elif script.python:
        python, path = script.python, []
    names = record.typed.environment
    known, missing = _values(names)
    programs = {**_programs(python, path), store.ROOT_VARIABLE: f"{link.root}/{link.workspace}"}
    return RunLocation(
        record,
        f"{link.root}/{remote_path}",
        programs,
        known,
        link.machine,
        job,
        missing,
        _guessed(names, known),
    )


def _job(record: Record) -> ActiveJob | None:
    """Return the job in a record; None unless the run is active, and further processes can join the job."""
    job = record.job
    if record.status != RUNNING or job is None or job.id is None:
        return None
    backend = registry.of_job(job)
    if backend is None or backend.step(job.id, job.node) is None:
        return None
    return ActiveJob(backend, job.id, job.node)


def _programs(python: str, path: Sequence[str]) -> dict[str, str]:
    found = {"PATH": f"{os.path.dirname(python)}:$PATH"} if python else {}
    return found | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})


def script(location: RunLocation, command: Sequence[str], is_interactive: bool) -> str:
    """Return the script for `sh -c` at the run's location."""
    exports = "; ".join(f"export {name}={_quoted(value)}" for name, value in location.programs.items())
    start = f"{exports}; cd {shlex.quote(location.folder)} || exit 1"
    if len(command) == 1 and any(character.isspace() for character in command[0]):
        return f"{start}; exec sh -c {shlex.quote(command[0])}"
    if command:
        return f"{start}; exec {shlex.join(command)}"
    if not is_interactive:
        return f"{start}; exec sh"
    return f"{start}; {INTERACTIVE.format(rc=shlex.quote(RC.format(exports=exports, id=location.record.id)))}"


def _quoted(value: str) -> str:
    """Quote a value for a shell, except a final `$PATH`, which the shell expands."""
    front, mark, _ = value.partition(":$PATH")
    return f'{shlex.quote(front)}:"$PATH"' if mark else shlex.quote(value)


def _offered(location: RunLocation) -> str | None:
    """Return a remote pipe from which the run's own variables can be read once; None if there are none."""
    if location.remote is None or not location.environment:
        return None
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in location.environment.items())
    with Channel(location.remote) as conversation:
        pipe: str = conversation.call("offer", text=text)["pipe"]
    return pipe


def reach(location: RunLocation, words: Sequence[str], tty: bool, pipe: str | None = None) -> list[str]:
    """Return the local command that runs another one at the run's location.

    Args:
        location: the run's location.
        words: the command to run there.
        tty: give it a terminal.
        pipe: remote pipe with the run's own variables, which the cluster passes to its node.
    """
    remote_words = list(words)
    if location.job is not None:
        remote_words = [*location.job.step(tty), *remote_words]
    if pipe is not None:
        remote_words = ["sh", "-c", RECEIVE, pipe, *remote_words]
    if location.remote is None:
        return remote_words
    return [*ssh.command(location.remote, tty=tty), location.remote.address, ssh.for_any_shell(remote_words)]


def run(location: RunLocation, command: Sequence[str], forwards: Sequence[Forward]) -> int:
    """Run the shell or the command to its end. Return its exit code.

    Raises:
        ConfigError: a local port is not available.
        UnreachableError: the machine does not answer.
    """
    is_interactive = not command and os.isatty(0)
    words = ["sh", "-c", script(location, command, is_interactive)]
    process_environment = None
    if location.remote is None:
        process_environment = {**os.environ, **location.environment}
    words = reach(location, words, tty=is_interactive, pipe=_offered(location))
    with contextlib.ExitStack() as stack:
        if forwards and (location.remote is not None or location.job is not None):
            stack.enter_context(forwarded(location, forwards))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the shell receives it from the terminal, too
        stack.callback(signal.signal, signal.SIGINT, before)
        try:
            process = subprocess.Popen(words, env=process_environment, preexec_fn=_interruptible)  # noqa: PLW1509 - no thread
        except OSError as error:
            raise ConfigError(f"{words[0]} cannot be started: {error.strerror or error}") from error
        code = process.wait()
    return 128 - code if code < 0 else code


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def forwarded(location: RunLocation, forwards: Sequence[Forward]) -> Iterator[None]:
    """Forward local ports to those of the run's machine inside the context.

    Raises:
        ConfigError: a local port is not available.
        UnreachableError, RequestRefusedError: the machine cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        sockets = [(stack.enter_context(_listening(one)), one.remote) for one in forwards]
        nonce = uuid.uuid4().hex
        source, script = channel.streamed(Path(relay.__file__))
        process = subprocess.Popen(
            reach(location, ["sh", "-c", script], tty=False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.write(source + json.dumps({"nonce": nonce}).encode() + b"\n")
            process.stdin.flush()
        end = relay.Relay(cast("BinaryIO", process.stdout), cast("BinaryIO", process.stdin))
        ready = threading.Event()
        threading.Thread(target=_serve, args=(end, f"#labrun {nonce}#".encode(), ready), daemon=True).start()
        deadline = time.monotonic() + READY_S
        while not ready.wait(0.05):
            if process.poll() is not None:
                raise RequestRefusedError(
                    f"ports of {location.where} cannot be reached: see 'lab shell {location.record.id}'"
                )
            if time.monotonic() > deadline:
                raise UnreachableError(f"{location.where} does not answer")
        for listening, port in sockets:
            end.listen(listening, port)
        yield


def _serve(end: relay.Relay, mark: bytes, ready: threading.Event) -> None:
    for line in end.source:
        if line.strip() == mark:
            ready.set()
            break
    else:
        return
    with contextlib.suppress(OSError, ValueError):
        end.serve(lambda number, port: None)


@contextlib.contextmanager
def _listening(wanted: Forward) -> Iterator[socket.socket]:
    try:
        listening = socket.create_server(("127.0.0.1", wanted.local))
    except OSError as error:
        other = f"use another one: -L {wanted.local + 1 if wanted.local < 65535 else 8080}:{wanted.remote}"
        raise ConfigError(f"-L {wanted.local}: the local port is not available ({error.strerror}); {other}") from error
    with listening:
        yield listening
