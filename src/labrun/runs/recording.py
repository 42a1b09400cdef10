"""One attempt at a run: claim it, keep its log and its heartbeat, close its record truthfully."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from labrun import masking
from labrun.errors import LabrunError, RecordError, RunFailedError
from labrun.runs import context, others
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths

log = logging.getLogger(__name__)

JOB_VARIABLE = "LABRUN_JOB"
"""In a cluster's job: what the record says of it, as JSON."""


LARGEST_REQUEST = 2**16


class Terminated(KeyboardInterrupt):
    """Raised where SIGTERM found the run."""


class Preempted(BaseException):
    """Raised where the run was asked to make room; it goes on later, from a checkpoint if it has one."""


LEAVE_SIGNAL = signal.SIGUSR1
"""What a supervisor sends to ask a run to make room."""
_asked_to_leave = False
_leaves_by_itself = False
_was_interrupted = False


def asked_to_leave() -> bool:
    """Whether the run was asked to make room: work that can save its state looks from time to time."""
    return _asked_to_leave


def was_interrupted() -> bool:
    """Whether the run was told to end (Ctrl-C, or its supervisor), even if the code that it interrupted went on.

    scikit-learn's networks, for one, take an interrupt for the end of training, and go on half trained.
    """
    return _was_interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    _was_interrupted = True
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def leaving_by_itself() -> Iterator[None]:
    """Inside, a request to make room only sets `asked_to_leave`; the work saves its state and raises `Preempted`."""
    global _leaves_by_itself
    _leaves_by_itself = True
    try:
        yield
    finally:
        _leaves_by_itself = False


def _leave(number: int, frame: FrameType | None) -> None:
    global _asked_to_leave
    _asked_to_leave = True
    if not _leaves_by_itself:
        raise Preempted("asked to make room")


def red(text: str) -> str:
    """A text for whoever watches the run on a terminal, in red; as it is where nobody does."""
    return f"\x1b[31m{text}\x1b[0m" if _is_watched and not os.environ.get("NO_COLOR") else text


_is_watched = False
"""Whether what this process prints is shown on a terminal."""


class Recording:
    """The supervisor's side of one attempt, as a context manager around the work.

    On entry it claims the next attempt and writes `running`; on exit it writes how the work ended: `completed`,
    `failed` with the error, or `canceled` after Ctrl-C, SIGTERM or a request. Exceptions pass through.

    Args:
        run_dir: the run's directory, with a record written by the submitter.
        capture: also copy everything that this process prints to `driver.log` (for runs in the user's own process).
        announced: write `running` on entry; else the work writes the record as soon as there is more to say.
        to_disk: wait in the end until the disk has the record; else that is left to whoever started this process.

    Raises:
        RecordError: no record, claimed by another, or the folder cannot be written.
    """

    def __init__(self, run_dir: Path, capture: bool = True, announced: bool = True, to_disk: bool = True) -> None:
        self.paths = RunPaths(Path(run_dir))
        self.record: Record = records.read(run_dir)
        masking.note_config(self.record.config)
        self.attempt = 0
        self._capture = Capture(self.paths.root, measured_every_s(self.record)) if capture else None
        self._announced, self._to_disk = announced, to_disk
        self._politely = contextlib.ExitStack()
        self._before: Any = None

    def __enter__(self) -> Recording:
        self.attempt = records.claim(self.paths.root)
        try:
            self._begin()
        except BaseException as error:  # Ctrl-C, for one: the record says `running` already
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        record = self.record
        record.process = records.process_identity()
        record.host = record.host or records.describe_host()
        record.packages = record.packages or records.installed_packages()
        record.status, record.started, record.ended, record.error = records.RUNNING, records.now(), None, None
        records.note_claimed(self.paths.root, record, before=self.attempt)
        record.attempts.append(
            {"number": self.attempt, "started": record.started, "status": records.RUNNING, "process": record.process}
        )
        job = os.environ.get(JOB_VARIABLE)
        if job:
            record.job = record.attempts[-1]["job"] = json.loads(job)
        if self._announced:
            self.write()
        os.environ[context.RUN_DIR_VARIABLE] = str(self.paths.root)
        os.environ[context.ATTEMPT_VARIABLE] = str(self.attempt)
        run = context.current()
        if run is not None and self.attempt > 1:
            run.summary.update(context.last_values(self.paths.root))
        if self._capture:
            self._capture.start(self.attempt)
        self._politely.enter_context(masking.in_logs())
        self._politely.enter_context(terminating_politely())
        if threading.current_thread() is threading.main_thread():
            global _asked_to_leave, _was_interrupted
            _asked_to_leave = _was_interrupted = False
            self._before = signal.signal(LEAVE_SIGNAL, _leave)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _interrupt)
        if is_asked_to_end(self.paths):  # the signal may have come too early to be heard
            raise KeyboardInterrupt

    def leave_if_forked(self) -> None:
        """End a process that the run's own code forked, and that came back from there: it is not the run."""
        if os.getpid() != (self.record.process or {}).get("pid"):
            os._exit(0)

    def write(self) -> None:
        """Put the record on disk as it is now."""
        self.leave_if_forked()
        records.write(self.paths.root, self.record, to_disk=self._to_disk and self.record.finished)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave_if_forked()
        if self._before is not None:
            signal.signal(LEAVE_SIGNAL, self._before)
            if signal.getsignal(signal.SIGINT) is _interrupt:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if error is None and _was_interrupted and is_asked_to_end(self.paths):
            # Its code swallowed the interrupt: what it made of the rest is not what was asked for.
            error = KeyboardInterrupt()
        status, details = outcome(error, self.paths)
        record = self.record
        record.status, record.ended, record.error = status, records.now(), details
        record.duration_s = records.seconds_between(record.started or record.ended, record.ended)
        if record.attempts and record.attempts[-1]["number"] == self.attempt:
            record.attempts[-1] |= {"ended": record.ended, "status": status}
        if status == records.PREEMPTED:
            record.ended, record.duration_s = None, None
        run = context.current()
        if run is not None:
            record.metrics = dict(run.summary)
            run.close()
        others.add_words(self.paths.root, record)
        trouble = disk_trouble(error)
        told = isinstance(error, LabrunError) or trouble is not None
        if details is not None and status == records.FAILED and not told:
            sys.stderr.write(details["traceback"])
        self._politely.close()
        os.environ.pop(context.RUN_DIR_VARIABLE, None)
        os.environ.pop(context.ATTEMPT_VARIABLE, None)
        try:
            if records.newest_attempt(self.paths.root) == self.attempt:
                self.write()
        finally:
            if self._capture:
                self._capture.stop()
        if trouble is not None:
            raise RecordError(records.cannot_write(self.paths.root, trouble)) from error


@contextlib.contextmanager
def terminating_politely() -> Iterator[None]:
    """Inside, SIGTERM ends things as Ctrl-C does.

    Does nothing outside the main thread, which alone takes signals, nor where SIGTERM is ignored: in a cluster's job,
    whose supervisor alone knows what is meant by it.
    """
    ignored = signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    if threading.current_thread() is not threading.main_thread() or ignored:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        global _was_interrupted
        _was_interrupted = True
        raise Terminated(f"signal {signal.Signals(number).name}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def outcome(error: BaseException | None, paths: RunPaths) -> tuple[records.Status, dict[str, Any] | None]:
    """The status that an ending means, and what the record says of it."""
    if error is None:
        return records.COMPLETED, None
    if isinstance(error, Preempted):
        return records.PREEMPTED, None
    if isinstance(error, KeyboardInterrupt):
        why = stop_reason(paths)
        if why is not None and not (paths.requests / "cancel").exists():
            return records.STOPPED, {"type": records.EndReason.STOPPED, "message": why, "traceback": ""}
        try:
            why = asked(paths, "cancel") or "asked by requests/cancel"
        except OSError:
            why = masking.masked(str(error)) or "Ctrl-C"
        return records.CANCELED, {"type": type(error).__name__, "message": why, "traceback": ""}
    if isinstance(error, SystemExit):
        message = masking.masked(f"the run's code ended the process with exit code {error.code!r} before it was done")
        return records.FAILED, {"type": "SystemExit", "message": message, "traceback": _trace(error)}
    trace = masking.masked(error.trace) if isinstance(error, RunFailedError) else _trace(error)
    kind = masking.masked(storable(type(error).__name__))
    return records.FAILED, {"type": kind, "message": said(error), "traceback": trace}


def is_asked_to_end(paths: RunPaths) -> bool:
    """Whether a request to cancel or to stop lies in a run's folder."""
    return any((paths.requests / name).exists() for name in ("cancel", "stop"))


def asked(paths: RunPaths, name: str) -> str:
    """What a request says: anybody may have left it.

    Raises:
        OSError: there is none, or it is not a plain file.
    """
    return context.content(paths.requests / name, LARGEST_REQUEST).decode(errors="replace").strip()


def stop_reason(paths: RunPaths) -> str | None:
    """Why a run was asked to end early, by what is not a failure of its own; None if it was not."""
    try:
        return asked(paths, "stop") or "asked by requests/stop"
    except OSError:
        return None


def _trace(error: BaseException) -> str:
    return masking.masked(storable("".join(traceback.format_exception(error))))


def said(error: BaseException) -> str:
    """An error's own words; one of the user's own may fail to have any."""
    try:
        return masking.masked(storable(str(error)))
    except Exception as other:  # noqa: BLE001 - any `__str__`
        return f"(its message cannot be shown: {type(other).__name__})"


def first_line(error: BaseException) -> str:
    """An error's kind, and the first line of its own words if it has any."""
    words = said(error).strip().splitlines()
    return ": ".join([masking.masked(type(error).__name__), *words[:1]])


def storable(text: str) -> str:
    """A text as files take it: what is not a Unicode, as in the names of files, as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def signal_name(number: int) -> str:
    """SIGKILL, say; of a real-time signal, which has no name, its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def disk_trouble(error: BaseException | None) -> OSError | None:
    """What says in an error, or in one behind it, that the disk is full, or the folder read-only; None if nothing."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__  # torch has words of its own for it
    return None


def measured_every_s(record: Record) -> float | None:
    """How often a run's supervisor measures what it uses of the machine; None: never."""
    tracking = record.config.get("tracking") or {}
    return float(tracking.get("system_every_s", 10)) if tracking.get("system") else None


class Capture:
    """Sends everything that this process prints, native code included, through the sidecar to `driver.log`.

    Args:
        run_dir: the run.
        measured_every_s: see the function of that name.
    """

    def __init__(self, run_dir: Path, measured_every_s: float | None = None) -> None:
        self._run_dir, self._measured_every_s = run_dir, measured_every_s
        self._saved: tuple[int, int] | None = None
        self._idle: tuple[int, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, attempt: int, prints: bool = True) -> None:
        """Start the sidecar and turn standard output and error to it.

        Args:
            attempt: the number of the attempt.
            prints: False: leave both as they are; the sidecar then has only the heartbeat and the requests to see to.
        """
        if prints:
            _flush()
            global _is_watched
            _is_watched = os.isatty(1)
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        sidecar = Path(__file__).with_name("sidecar.py")
        command = [
            sys.executable,
            "-IS",
            str(sidecar),
            str(self._run_dir),
            str(os.getpid()),
            str(out_read),
            str(err_read),
            str(attempt),
            str(self._measured_every_s or 0),
        ]
        # A notebook's kernel ends its whole group before it ends itself, and is killed if that takes too long.
        own_group = -1 if prints else 0
        self._process = subprocess.Popen(
            command, pass_fds=(out_read, err_read), stdin=subprocess.DEVNULL, process_group=own_group
        )
        if not prints:
            self._idle = (out_write, err_write)
            os.close(out_read)
            os.close(err_read)
            return
        self._saved = (os.dup(1), os.dup(2))
        for write_end, standard in ((out_write, 1), (err_write, 2)):
            os.dup2(write_end, standard)
            os.close(write_end)
        os.close(out_read)
        os.close(err_read)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def stop(self) -> None:
        """Give the terminal back, once the log has all that was printed."""
        for descriptor in self._idle:
            os.close(descriptor)
        self._idle = ()
        if self._saved is None or self._process is None:
            return
        _flush()
        for saved, standard in zip(self._saved, (1, 2), strict=True):
            os.dup2(saved, standard)
            os.close(saved)
        self._saved = None
        # A child that still prints keeps the pipes open; the sidecar then stays with it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def create(run_dir: Path, record: Record) -> None:
    """Write a new run's first record, status `queued`.

    Raises:
        RecordError: the folder holds a run already, or cannot be written.
    """
    paths = RunPaths(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if paths.record.exists():
            raise RecordError(f"{run_dir} holds a run already; a new run needs a folder of its own")
        for folder in (paths.outputs, paths.logs, paths.requests):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RecordError(records.cannot_write(run_dir, error)) from error
    records.write(run_dir, dataclasses.replace(record, status=records.QUEUED))
