"""The command `lab warm`: manage this user's warm interpreters, from which commands start."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from labrun import messages
from labrun.cli.parsing import Parser
from labrun.errors import RecordError
from labrun.report import formatting
from labrun.warm import client, identity, wire

if TYPE_CHECKING:
    from labrun.warm.messages import ControlRequest, ServerState

START_S = 180.0
"""How long to wait for a new warm interpreter, in seconds."""
ANSWER_S = 10.0
"""How long to wait for an answer from one that listens, in seconds."""
POLL_S, RETRY_S = 0.1, 1.0
"""Intervals between checks whether it listens, and between attempts to start it, in seconds."""


def fill(command: Parser) -> None:
    """Add the description, options and actions to the parser of the command."""
    command.description = "The warm interpreter, which makes commands start faster. It ends after ten idle minutes."
    command.set_defaults(act=status)
    actions = command.add_commands(title="actions", metavar="ACTION")
    for name, act, help_text in (
        ("status", status, "list this user's warm interpreters (the default)"),
        ("stop", stop, "stop this user's warm interpreters; commands that they have started continue"),
        ("start", start, "start a warm interpreter now, and wait until it is ready"),
    ):
        actions.add(name, help=help_text).set_defaults(act=act)


def status(options: argparse.Namespace) -> int:
    """Print a line for each warm interpreter."""
    servers = list(_answers(wire.STATUS))
    if not servers:
        print("no warm interpreter is running: the first command at a terminal starts one, or 'lab warm start'")
        return 0
    rows = [("process", "up for", "commands", "running", "memory", "processor time", "interpreter")]
    for one in servers:
        process = psutil.Process(one["process"])
        memory, used = process.memory_full_info(), process.cpu_times()
        rows.append(
            (
                str(one["process"]),
                formatting.duration(time.time() - one["since"]),
                str(one["served"]),
                str(len(one["running"])),
                messages.size_text(getattr(memory, "pss", memory.rss)),
                f"{used.user + used.system:.1f} s",
                process.exe(),
            )
        )
    print("\n".join(formatting.columns(rows)))
    return 0


def stop(options: argparse.Namespace) -> int:
    """Stop every warm interpreter of this user."""
    servers = list(_answers(wire.STOP))
    print(f"stopped {messages.counted(len(servers), 'warm interpreter')}")
    return 0


def start(options: argparse.Namespace) -> int:
    """Start a warm interpreter like the current one, and wait until it is ready.

    Raises:
        RecordError: it does not start; the message names its log file.
    """
    from labrun.warm import starting

    folder, environment = identity.folder(), dict(os.environ)
    if folder is None:
        raise RecordError("there is no private folder for a warm interpreter: name one in LABRUN_WARM_DIR (mode 0700)")
    facts, began = client.started_with(), time.monotonic()
    name, process = identity.name_of(facts), None
    while (connection := wire.connect(folder, name)) is None:
        if time.monotonic() - began > START_S:
            is_loading = process is not None and process.poll() is None
            what = "is still loading; 'lab warm status' lists it once it is ready" if is_loading else "did not start"
            raise RecordError(f"after {START_S:.0f} s a warm interpreter {what}. Its log: {folder}/{name}.log")
        if process is None or process.poll() is not None:  # for example, an imported file has just been changed
            process = starting.spawn(folder, facts, environment, niceness=0)
            time.sleep(RETRY_S)
        time.sleep(POLL_S)
    if process is not None:
        process.returncode = 0  # it outlives this process
    connection.close()
    print(f"a warm interpreter is ready ({time.monotonic() - began:.1f} s)")
    return 0


def _answers(what: Literal["status", "stop"]) -> Iterator[ServerState]:
    """Send a request to each listening server, and yield their answers."""
    folder = identity.folder()
    for path in sorted(Path(folder).glob("*.sock")) if folder else []:
        connection = wire.connect(str(path.parent), path.stem)
        if connection is None:
            continue
        with connection:
            connection.settimeout(ANSWER_S)
            try:
                request: ControlRequest = {"ask": what}
                wire.send(connection, request)
                answer = wire.receive(connection)
            except OSError:
                continue
            if answer is not None:
                yield answer[0]
