"""Feeding views of the records, on demand or during runs; by one process at a time, idempotently.

`lab ui` and `lab runs sync` read the run directories and send what is new. A lock selects the sender; others wait.
A tracker that follows (`Tracker.follows`) is fed during runs by a small separate process, so that neither its imports
nor an unavailable server can delay a run. `outputs/.labrun` keeps notes on what was sent; losing them is harmless.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labrun.config.schema import Tracking
from labrun.errors import RecordError
from labrun.runs import removing
from labrun.runs.record import replace_text
from labrun.runs.workspace import Workspace
from labrun.tracking import trackers
from labrun.tracking.base import Fed, ProgressCallback, Session, Tracker

log = logging.getLogger(__name__)

INTERVAL_S, LONGEST_S = 2.0, 15.0
"""Shortest and longest pause between two rounds."""
PATIENCE_S = 60.0
"""How long `sync` waits for another process before it gives up."""


@contextlib.contextmanager
def follow(root: Path, settings: Tracking) -> Iterator[None]:
    """Feed the configured view while the context is active, and once more after it.

    A view that does not follow is not fed: it is updated when somebody opens it.

    Args:
        root: the workspace.
        settings: the config's `tracking`.
    """
    tracker = trackers.named(settings)
    if tracker is None or not tracker.follows(settings):
        if settings.wait:
            log.warning("tracking.wait=true waits for the server of tracking.uri, which is not set: lab runs sync")
        yield
        return
    address = tracker.address(root, settings)
    if (why := tracker.silence(address)) is not None:
        log.warning(
            "%s at %s does not answer (%s). The runs continue and their records are complete: '%s' sends them later",
            tracker.label,
            address,
            why,
            trackers.sync_command(tracker, address),
        )
    process, output = _start(root, tracker, address)
    try:
        yield
    finally:
        # Closing its standard input tells the feeder that the runs are over, as does a kill of this process.
        if process.stdin is not None:
            process.stdin.close()
        if settings.wait and process.wait() != 0:
            log.warning(
                "%s at %s could not be updated; %s says why. The records are complete", tracker.label, address, output
            )


def _start(root: Path, tracker: Tracker, address: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a feeder process with open standard input; return it and its log file."""
    log_file = Workspace(root).tracking_log
    log_file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "labrun.tracking.feeder", str(root), tracker.kind, address]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LABRUN_RUN")}
    with open(log_file, "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=environment
        )
    return process, log_file


def sync(
    root: Path,
    tracker: Tracker,
    address: str,
    patience_s: float = PATIENCE_S,
    progress: ProgressCallback | None = None,
    everything: bool = False,
) -> Fed:
    """Bring a view up to date with the records.

    Args:
        root: the workspace.
        tracker: the kind of view.
        address: the address of the view.
        patience_s: how long to wait for another process that is feeding it.
        progress: called with the numbers of runs done and in total.
        everything: see `Tracker.open`.

    Raises:
        RecordError: the view refused, or another process that feeds it did not finish a round in time.
    """
    began = time.time()
    lock = _lock(root, tracker, address)
    while not _acquired(lock):
        fed = _fed_since(root, tracker, address, began)
        if fed is not None:
            return fed
        if time.time() - began > patience_s:
            raise RecordError(
                f"another process of this workspace feeds {tracker.label} at {address}, and has not sent the latest "
                f"changes within {patience_s:.0f} s: wait until its runs, or 'lab ui', have ended"
            )
        time.sleep(0.2)
    try:
        with tracker.translate_errors(address):
            return _round(root, tracker, address, tracker.open(root, address, everything), progress)
    finally:
        lock.release()


def feed(
    root: Path,
    tracker: Tracker,
    address: str,
    ended: threading.Event,
    failed: Callable[[Exception], None],
    progress: ProgressCallback | None = None,
    done: Callable[[Fed], None] | None = None,
    last_s: float = float("inf"),
) -> None:
    """Feed a view until `ended` is set, then once more; one process at a time.

    Args:
        root: the workspace.
        tracker: the kind of view.
        address: the address of the view.
        ended: ends the feeding.
        failed: called when a round fails; the next may succeed.
        progress: called with the numbers of runs done and in total.
        done: called with each round's result.
        last_s: how long the last round may take.

    Raises:
        RecordError, OSError: the last round failed.
    """
    lock = _lock(root, tracker, address)
    since: float | None = None
    while not _acquired(lock):
        if not ended.wait(1.0):
            continue
        since = since or time.time()
        if _fed_since(root, tracker, address, since) is not None or time.time() - since > last_s:
            return
        time.sleep(0.5)
    try:
        _feed(root, tracker, address, ended, failed, progress, done, last_s)
    finally:
        lock.release()


def _feed(
    root: Path,
    tracker: Tracker,
    address: str,
    ended: threading.Event,
    failed: Callable[[Exception], None],
    progress: ProgressCallback | None,
    done: Callable[[Fed], None] | None,
    last_s: float,
) -> None:
    session: Session | None = None
    while True:
        is_last, began = ended.is_set(), time.monotonic()

        def must_end(is_last: bool = is_last, began: float = began) -> bool:
            return time.monotonic() - began > last_s if is_last else ended.is_set()

        try:
            with tracker.translate_errors(address):
                session = tracker.open(root, address) if session is None or session.is_lost else session
                fed = _round(root, tracker, address, session, progress, must_end)
            if done is not None:
                done(fed)
        except Exception as error:  # server down, disk full: the next round may succeed
            session = None
            if is_last:
                raise
            failed(error)
        if is_last:
            return
        ended.wait(min(max(INTERVAL_S, 10 * (time.monotonic() - began)), LONGEST_S))


def forget(root: Path, gone: Sequence[tuple[str, Path]]) -> None:
    """Note removed runs, so that the next feeder removes them from the views.

    Args:
        root: the workspace.
        gone: id and folder of each run.
    """
    state = Workspace(root).state
    has_notes = any(state.glob("tracking*.json")) or any(state.glob("round*.json"))
    if has_notes or any(tracker.has_view(root) for tracker in trackers.all_known()):
        removing.note(root, gone)


def _state(root: Path, name: str, tracker: Tracker, address: str, suffix: str = ".json") -> Path:
    return Workspace(root).note(name, tracker.key(root, address), suffix)


def _lock(root: Path, tracker: Tracker, address: str) -> Any:
    from filelock import FileLock

    Workspace(root).state.mkdir(parents=True, exist_ok=True)
    return FileLock(_state(root, "tracking", tracker, address, ".lock"))


def _acquired(lock: Any) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _round(
    root: Path,
    tracker: Tracker,
    address: str,
    session: Session,
    progress: ProgressCallback | None = None,
    must_end: Callable[[], bool] = lambda: False,
) -> Fed:
    """Send everything that is new; then write the result for waiting processes."""
    began = time.time()
    news = session.send(progress, must_end)
    fed = Fed(news, session.left_out.taken())
    if not must_end():
        content = json.dumps({"began": began, **asdict(fed)})
        replace_text(_state(root, "round", tracker, address), content, to_disk=False)
    return fed


def _fed_since(root: Path, tracker: Tracker, address: str, time_s: float) -> Fed | None:
    """Return the result of a round that another process began after the given time; None if there is none yet."""
    try:
        content = json.loads(_state(root, "round", tracker, address).read_text(encoding="utf-8"))
        return Fed(int(content["news"]), list(content["left_out"])) if content["began"] >= time_s else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
