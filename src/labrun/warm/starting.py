"""Start of a warm interpreter in the background, after a cold command."""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys

from labrun.warm import identity

BACKGROUND = 15
"""Niceness of imports in the background."""
NOTICE_MARK = "told"
"""File in the servers' folder that marks that the note about the warm interpreter was shown."""


def start(place: str, facts: dict[str, object], environment: dict[str, str]) -> None:
    """Start a server with these facts in the background unless one exists, and tell the user the first time.

    Args:
        place: the private folder of the servers' sockets.
        facts: the facts of this interpreter at its start.
        environment: the variables with which it was started.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        spawn(place, facts, environment, BACKGROUND).returncode = 0  # it outlives this process: do not wait for it
        _print_notice_once(place)


def spawn(place: str, facts: dict[str, object], environment: dict[str, str], niceness: int) -> subprocess.Popen[bytes]:
    """Start a server process, which exits at once if another one serves. See `start`.

    Raises:
        OSError: it cannot be started.
    """
    # Pass the same flags, so that the server's interpreter equals this one; multiprocessing does the same.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    with open(f"{place}/{identity.name_of(facts)}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", "from labrun.warm.server import main; main()"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=place,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    process.stdin.write(marshal.dumps({"place": place, "facts": facts, "nice": niceness}, 2))
    process.stdin.close()
    return process


def _print_notice_once(place: str) -> None:
    """Tell the user once about the new process."""
    if not os.isatty(2):
        return
    try:
        os.close(os.open(f"{place}/{NOTICE_MARK}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    sys.stderr.write(
        "labrun: the next commands start faster: a warm interpreter loads in the background "
        "('lab warm status', 'lab warm stop'; LABRUN_WARM=0 turns it off)\n"
    )
