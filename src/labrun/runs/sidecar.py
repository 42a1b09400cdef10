"""Helper process of an inline run: it writes the log and the heartbeat, and relays requests to the run.

Started by path under a bare interpreter (`python -IS sidecar.py ...`), so it imports only the standard library. It is a
separate process so that output reaches `driver.log` even when the run is killed, and so that a run that holds the
interpreter lock for minutes still has a heartbeat.

Usage: sidecar.py RUN_DIR PARENT_PID OUT_FD ERR_FD ATTEMPT EVERY_S REQUEST...
The descriptors are the read ends of pipes for the run's standard output and standard error. The run's resource usage is
measured every EVERY_S seconds (`system_metrics.py`), or never if it is 0.
Each REQUEST is the path of a file that ends the run once it exists.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from labrun.runs.system_metrics import SystemMetrics

HEARTBEAT_S = 2.0


def _ignores_interrupts(pid: int) -> bool:
    """Return whether a process ignores SIGINT, as background processes of a shell do."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            ignored = next((line.split()[1] for line in file if line.startswith("SigIgn")), "0")
    except OSError:
        return False
    return bool(int(ignored, 16) >> (signal.SIGINT - 1) & 1)


def main(
    run_dir: str, parent: int, out_fd: int, err_fd: int, attempt: int, every_s: float, requests: list[str]
) -> None:
    """Copy both streams to the log and to the terminal until the run ends."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the run started this process with signals blocked
    log = os.open(os.path.join(run_dir, "driver.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    streams = selectors.DefaultSelector()
    streams.register(out_fd, selectors.EVENT_READ, 1)
    streams.register(err_fd, selectors.EVENT_READ, 2)
    measured = _measured(run_dir, parent, attempt, every_s) if every_s else None
    next_beat = 0.0
    asked = False
    while streams.get_map():
        now = time.monotonic()
        alive = os.getppid() == parent
        if now >= next_beat and alive:
            next_beat = now + HEARTBEAT_S
            if _overtaken(run_dir, attempt):
                # A newer attempt owns the record now. SIGKILL keeps this one from writing anything more.
                os.kill(parent, signal.SIGKILL)
            else:
                _touch(os.path.join(run_dir, "heartbeat"))
        if not asked and alive and any(map(os.path.exists, requests)):
            asked = True
            os.kill(parent, signal.SIGTERM if _ignores_interrupts(parent) else signal.SIGINT)
        ready = streams.select(timeout=0.5 if alive else 0.1)
        for key, _ in ready:
            data = os.read(key.fd, 65536)
            if not data:
                streams.unregister(key.fd)
                continue
            _write(log, data)
            _write(key.data, data)
        if not ready and not alive:
            break
    if measured is not None:
        measured.close()


def _measured(run_dir: str, parent: int, attempt: int, every_s: float) -> SystemMetrics:
    """Start a thread that measures the run: GPU drivers can be slow to answer."""
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[2]))  # last: the standard library comes first
    from labrun.runs.system_metrics import SystemMetrics

    measured = SystemMetrics()
    measured.watch(Path(run_dir), parent, every_s, attempt=attempt)
    return measured


def _overtaken(run_dir: str, attempt: int) -> bool:
    try:
        return any(name.isdecimal() and int(name) > attempt for name in os.listdir(os.path.join(run_dir, "attempts")))
    except OSError:
        return False


def _touch(path: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{time.time():.3f}\n")
    except OSError:
        pass


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return


if __name__ == "__main__":
    pid, out, err, number = map(int, sys.argv[2:6])
    main(sys.argv[1], pid, out, err, number, float(sys.argv[6]), sys.argv[7:])
