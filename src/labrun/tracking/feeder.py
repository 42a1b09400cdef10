"""The process that feeds a view during runs: `python -m labrun.tracking.feeder WORKSPACE KIND ADDRESS`.

It ends when its standard input is closed, after a last round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from pathlib import Path

from labrun.errors import RecordError
from labrun.tracking import feed, trackers
from labrun.tracking.base import Fed

log = logging.getLogger(__name__)


def main(root: Path, kind: str, address: str) -> None:
    """Feed a view until standard input is closed, then once more."""
    _lower_priority(True)
    ended = threading.Event()
    threading.Thread(target=_await_end, args=(ended,), daemon=True).start()
    try:
        feed.feed(
            root, trackers.get(kind), address, ended, failed=lambda error: log.warning("%s", error), done=_log_left_out
        )
    except RecordError as error:
        sys.exit(f"{error}")


def _log_left_out(fed: Fed) -> None:
    for line in fed.left_out:
        log.warning("left out: %s", line)


def _lower_priority(lower: bool) -> None:
    """Lower this process's priority during runs, since the view can wait; restore it once the runs are over.

    Otherwise the last round would take minutes on a machine that others keep busy.
    """
    # Linux may schedule by session (autogroup) first; this process is its own session, so set the session's niceness.
    with contextlib.suppress(OSError):
        if Path("/proc/sys/kernel/sched_autogroup_enabled").read_text(encoding="ascii").strip() == "1":
            Path("/proc/self/autogroup").write_text("19" if lower else "0", encoding="ascii")
            return
    if lower:  # permanent: only root may lower the niceness
        with contextlib.suppress(OSError):
            os.nice(10)


def _await_end(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    _lower_priority(False)
    ended.set()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
