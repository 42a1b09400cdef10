"""Starting a warm interpreter in the background, once a command was cold."""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys

from labrun.warm import identity

BACKGROUND = 15
"""How nice the importing is, when nobody waits for it."""
TOLD = "told"
"""In the servers' folder: the line about the warm interpreter was shown already."""


def start(place: str, facts: dict[str, object], environment: dict[str, str]) -> None:
    """Start a server with these facts in the background, unless one is there, and say so once to the user.

    Args:
        place: the private folder where servers listen.
        facts: of this interpreter, as it was started.
        environment: the variables that it was started with.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        spawn(place, facts, environment, BACKGROUND).returncode = 0  # it outlives this process: nobody waits for it
        _tell(place)


def spawn(place: str, facts: dict[str, object], environment: dict[str, str], niceness: int) -> subprocess.Popen[bytes]:
    """Start a server's process; it ends at once where another one serves. See `start`.

    Raises:
        OSError: it cannot be started.
    """
    # The same flags, so that the server's interpreter is what this one was; multiprocessing starts its own in this way.
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


def _tell(place: str) -> None:
    """Said once: the user should know what process of theirs that is."""
    if not os.isatty(2):
        return
    try:
        os.close(os.open(f"{place}/{TOLD}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
    sys.stderr.write(
        "labrun: the next commands start faster: a warm interpreter loads in the background "
        "('lab warm status', 'lab warm stop'; LABRUN_WARM=0 turns it off)\n"
    )
