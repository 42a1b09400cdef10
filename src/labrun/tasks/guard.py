"""The process between a run and its script: it ends all that the script started when the run is gone.

Started by path under a bare interpreter (`python -IS guard.py PARENT_PID COMMAND ...`), with the standard library
alone, as the leader of a process group of its own. The script is its child; its exit code, or the signal that ended
it, becomes this process's own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1


def _end_all(number: int, frame: FrameType | None) -> None:
    os.killpg(0, signal.SIGKILL)


def main(parent: int, command: list[str]) -> int:
    """Start the script and wait for it."""
    signal.signal(signal.SIGHUP, _end_all)
    if sys.platform == "linux":  # told by SIGHUP when the run's process is gone, however it went
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        return 1
    # The run signals the whole group: the script hears it, and this process waits for what it makes of it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: None)
    try:
        process = subprocess.Popen(command, restore_signals=True)
    except OSError as error:
        sys.stderr.write(f"labrun: {command[0]} does not start: {error}\n")
        return 127
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
