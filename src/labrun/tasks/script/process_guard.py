"""Process between a run and its script. When the run is gone, it kills everything that the script started.

Started by path under a bare interpreter (`python -IS process_guard.py PARENT_PID COMMAND ...`), so it imports only the
standard library. It leads its own process group. The script is its child, whose exit code or signal it adopts.
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
    if sys.platform == "linux":  # the kernel sends SIGHUP when the run's process ends, for whatever reason
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        return 1
    # The run signals the whole group: the script handles the signal, and this process waits for the result.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: None)
    # In a Slurm job the run blocks it. The script would inherit that, and could never save its state.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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
