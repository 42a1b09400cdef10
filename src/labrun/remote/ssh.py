"""The system's `ssh`, with one shared connection per address. It never prompts, except in `connect`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from labrun.errors import LabrunError
from labrun.remote.remotes import Remote
from labrun.runs import ownership

CONNECT_S = 15
ALIVE_S = 15
ALIVE_COUNT = 4
KEPT = "10m"
"""How long an idle connection stays open."""
KEPT_CONNECTED = "12h"
"""The same for a connection that the user has made (`lab remote connect`)."""
SOCKET_VARIABLE = "LABRUN_SSH_DIR"
LONGEST = 40
"""Longest path of the sockets' folder, in bytes: ssh appends names of 41 and 17 bytes, and a path may have 107."""


class UnreachableError(LabrunError):
    """The machine cannot be reached now, but may be later."""

    lived_s = 0.0
    """How long it had answered or received data before, in seconds."""


class LoginError(UnreachableError):
    """The machine requires an interactive login."""


def sockets() -> Path:
    """Return the folder of the connections' sockets: private, on a local disk, with a short path.

    Raises:
        LabrunError: it is not private to this user.
    """
    runtime = f"{os.environ.get('XDG_RUNTIME_DIR', '')}/labrun-ssh"
    usual = runtime if runtime.startswith("/") and len(runtime) <= LONGEST else f"/tmp/labrun-ssh-{os.getuid()}"
    folder = Path(os.environ.get(SOCKET_VARIABLE) or usual)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="labrun-"))
        found = folder.lstat()
    if not ownership.is_private(found) or folder.is_symlink():
        raise LabrunError(f"{folder} is not private to you: remove it, or set {SOCKET_VARIABLE} to another folder")
    return folder


def command(remote: Remote, asks: bool = False, kept: str = KEPT, tty: bool = False) -> list[str]:
    """Return the `ssh` command with all options, up to the address.

    Args:
        remote: the machine.
        asks: allow prompts at the terminal.
        kept: how long an idle connection stays open.
        tty: give the remote command a terminal.
    """
    options = {
        "ControlMaster": "auto",
        "ControlPath": f"{sockets()}/%C",
        "ControlPersist": kept,
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": ALIVE_S,
        "ServerAliveCountMax": ALIVE_COUNT,
        "BatchMode": "no" if asks else "yes",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "RequestTTY": "force" if tty else "no",
        "RemoteCommand": "none",
        "LogLevel": "ERROR",
    }
    config = [] if remote.ssh_config is None else ["-F", str(Path(remote.ssh_config).expanduser())]
    return ["ssh", *config, *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def for_any_shell(words: Sequence[str]) -> str:
    """Return a command line that all login shells read alike: csh alters `!` and line ends, fish alters backslashes."""
    line = f"exec {shlex.join(words)}"
    if not set(line) & set("!\\\n"):
        return line
    octal = ("".join(f"\\0{byte:03o}" for byte in c.encode("utf-8", "surrogateescape")) for c in line)
    coded = "".join(
        c if c.isascii() and (c.isalnum() or c in " -_./") else code for c, code in zip(line, octal, strict=True)
    )
    return f'exec sh -c \'eval "$(printf %b "{coded}")"\''


def connect(remote: Remote) -> int:
    """Make the shared connection, for which ssh may prompt. Return its exit code."""
    close(remote)  # it may have stopped answering, or have been made without the user
    words = [*command(remote, asks=True, kept=KEPT_CONNECTED), "-o", "LogLevel=INFO", remote.address, "true"]
    return subprocess.run(words, check=False).returncode


def is_connected(remote: Remote) -> bool:
    """Return whether there is a shared connection, without using the network."""
    words = [*command(remote), "-O", "check", remote.address]
    try:
        return subprocess.run(words, capture_output=True, timeout=5, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def close(remote: Remote) -> None:
    """Close the shared connection, if there is one."""
    words = [*command(remote), "-O", "exit", remote.address]
    try:
        subprocess.run(words, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return


REFUSALS = (
    (
        r"Permission denied|Too many authentication failures|No more authentication methods",
        LoginError,
        "the login has expired, or was never made: 'lab remote connect {name}'",
    ),
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
        LoginError,
        "its host key is unknown, or has changed: 'ssh {address}' shows details",
    ),
    (r"Could not resolve hostname|Name or service not known", UnreachableError, "no host has that name: {text}"),
    (
        r"Connection timed out|Operation timed out|No route to host|Network is unreachable",
        UnreachableError,
        "it does not answer ({text})",
    ),
    (r"Connection refused", UnreachableError, "nothing listens there for ssh ({text})"),
)
"""What ssh writes, the error, and its explanation. ssh's exit code is 255 for all of these."""


def error_of(remote: Remote, text: str, code: int | None) -> UnreachableError:
    """Convert ssh's own error message to an error."""
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    for pattern, kind, words in REFUSALS:
        if re.search(pattern, text):
            explanation = words.format(name=remote.name, address=remote.address, text=last)
            return kind(f"{remote.name} ({remote.address}) cannot be reached: {explanation}")
    why = last or (f"ssh ended with exit code {code}" if code is not None else "the connection is gone")
    return UnreachableError(f"{remote.name} ({remote.address}) cannot be reached: {why}")
