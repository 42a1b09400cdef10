"""One attempt of a run: claims it, keeps its log and heartbeat, and closes its record with what happened."""

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

from labrun import causes, messages
from labrun.config import masking
from labrun.errors import LabrunError, RecordError, RunFailedError
from labrun.runs import context, peer_errors
from labrun.runs.attempts import Attempt, Failure, Job
from labrun.runs.end_requests import Request, end_requested, read_request, request_path, stop_reason
from labrun.runs.record import (
    CANCELED,
    COMPLETED,
    FAILED,
    PREEMPTED,
    QUEUED,
    RUNNING,
    STOPPED,
    Record,
    RunPaths,
    cannot_write,
    claim_attempt,
    describe_host,
    installed_packages,
    newest_attempt,
    note_claimed_attempts,
    process_identity,
    read_record,
    seconds_between,
    timestamp,
    write_record,
)
from labrun.runs.status import EndReason, Status

log = logging.getLogger(__name__)

JOB_VARIABLE = "LABRUN_JOB"
"""Set in a cluster job: the record's `job`, as JSON."""


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM wherever the run's code is at the time."""


class Preempted(BaseException):
    """Raised when the run is preempted. It resumes later, from a checkpoint if it has one."""


PREEMPT_SIGNAL = signal.SIGUSR1
"""Signal by which a supervisor preempts a run."""
_preemption_requested = False
_defers_preemption = False
_was_interrupted = False


def preemption_requested() -> bool:
    """Return whether the run is to be preempted. Work that can save its state polls this."""
    return _preemption_requested


def was_interrupted() -> bool:
    """Return whether Ctrl-C or the supervisor interrupted the run, even if the run's code caught the interrupt.

    scikit-learn's neural networks, for example, treat an interrupt as the end of training and return half trained.
    """
    return _was_interrupted


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    _was_interrupted = True
    signal.default_int_handler(number, frame)


@contextlib.contextmanager
def deferring_preemption() -> Iterator[None]:
    """Let a preemption only set `preemption_requested`; the work then saves its state and raises `Preempted` itself."""
    global _defers_preemption
    _defers_preemption = True
    try:
        yield
    finally:
        _defers_preemption = False


def _on_preempt(number: int, frame: FrameType | None) -> None:
    global _preemption_requested
    _preemption_requested = True
    if not _defers_preemption:
        raise Preempted("preempted")


def red(text: str) -> str:
    """Color a text red if the run's output is shown on a terminal."""
    return f"\x1b[31m{text}\x1b[0m" if _is_watched and not os.environ.get("NO_COLOR") else text


_is_watched = False
"""Whether this process's output is shown on a terminal."""


class Recording:
    """Supervisor of one attempt: a context manager around the work.

    On entry it claims the next attempt and writes `running`. On exit it writes the outcome: `completed`, `failed` with
    the error, or `canceled` after Ctrl-C, SIGTERM or a request. Exceptions propagate.

    Args:
        run_dir: the run's directory, with a record written by the submitter.
        capture: also copy this process's output to `driver.log` (for runs in the user's own process).
        writes_on_entry: write `running` on entry; otherwise the work writes the record once it has more to add.
        to_disk: flush the final record to disk (fsync); otherwise the parent process does.

    Raises:
        RecordError: the record is missing, another process claimed the attempt, or the folder is not writable.
    """

    def __init__(self, run_dir: Path, capture: bool = True, writes_on_entry: bool = True, to_disk: bool = True) -> None:
        self.paths = RunPaths(Path(run_dir))
        self.record: Record = read_record(run_dir)
        masking.note_config(self.record.config)
        self.attempt = 0
        self._capture = Capture(self.paths.root, self.record.typed.measured_every_s) if capture else None
        self._writes_on_entry, self._to_disk = writes_on_entry, to_disk
        self._politely = contextlib.ExitStack()
        self._before: Any = None

    def __enter__(self) -> Recording:
        self.attempt = claim_attempt(self.paths.root)
        try:
            self._begin()
        except BaseException as error:  # Ctrl-C, for example: the record says `running` already
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self) -> None:
        record = self.record
        record.process = process_identity()
        record.host = record.host or describe_host()
        record.packages = record.packages or installed_packages()
        record.status, record.started, record.ended, record.error = RUNNING, timestamp(), None, None
        note_claimed_attempts(self.paths.root, record, before=self.attempt)
        record.attempts.append(Attempt(self.attempt, record.started, record.status, record.process))
        job = os.environ.get(JOB_VARIABLE)
        if job:
            record.job = record.attempts[-1].job = Job.of(json.loads(job))
        if self._writes_on_entry:
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
            global _preemption_requested, _was_interrupted
            _preemption_requested = _was_interrupted = False
            self._before = signal.signal(PREEMPT_SIGNAL, _on_preempt)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _interrupt)
        if end_requested(self.paths.root):  # the signal may have arrived before the handlers were installed
            raise KeyboardInterrupt

    def leave_if_forked(self) -> None:
        """Exit if this is a process that the run's own code forked and that returned into labrun's code."""
        if self.record.process is None or os.getpid() != self.record.process.pid:
            os._exit(0)

    def write(self) -> None:
        """Write the record in its current state."""
        self.leave_if_forked()
        write_record(self.paths.root, self.record, to_disk=self._to_disk and self.record.finished)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave_if_forked()
        if self._before is None:
            self._close(error)
            return
        with _ignoring_interrupts():
            signal.signal(PREEMPT_SIGNAL, self._before)
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        end = interrupt_in(error)
        if end is None and _was_interrupted and end_requested(self.paths.root):
            # The run's code caught the interrupt: its result is incomplete, its error a consequence.
            end = KeyboardInterrupt()
        status, details = outcome(end or error, self.paths)
        record = self.record
        record.status, record.ended, record.error = status, timestamp(), details
        record.duration_s = seconds_between(record.started or record.ended, record.ended)
        if record.attempts and record.attempts[-1].number == self.attempt:
            record.attempts[-1].end(status, None, record.ended)
        if status == PREEMPTED:
            record.ended, record.duration_s = None, None
        run = context.current()
        if run is not None:
            record.metrics = dict(run.summary)
            run.close()
        peer_errors.add_cause(self.paths.root, record)
        trouble = disk_trouble(error)
        is_explained = isinstance(error, LabrunError) or trouble is not None
        if details is not None and status == FAILED and not is_explained:
            sys.stderr.write(details.traceback)
        hidden = end if error is not end and error is not None else None
        if error is not None and hidden is not None:
            sys.stderr.write(f"The run was interrupted; its code then raised:\n{_trace(error)}")
        self._politely.close()
        os.environ.pop(context.RUN_DIR_VARIABLE, None)
        os.environ.pop(context.ATTEMPT_VARIABLE, None)
        try:
            if newest_attempt(self.paths.root) == self.attempt:
                self.write()
        finally:
            if self._capture:
                self._capture.stop()
        if trouble is not None:
            raise RecordError(cannot_write(self.paths.root, trouble)) from error
        if hidden is not None:
            raise type(hidden)(*hidden.args) from error


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore interrupts while a record is closed, then handle them as Python does; a second one would leave it open.

    A run that is to end gets several: from its supervisor, its sidecar, the terminal.
    """
    # Not SIG_IGN: to a process that ignores interrupts, the sidecar sends SIGTERM.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before in (None, _interrupt) else before)


@contextlib.contextmanager
def terminating_politely() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C in the context.

    Does nothing outside the main thread, because only that thread receives signals, or where SIGTERM is ignored: in a
    cluster job, the supervisor interprets it.
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


def outcome(error: BaseException | None, paths: RunPaths) -> tuple[Status, Failure | None]:
    """Return the status and the record's `error` for the exception that ended a run, or for None."""
    error = interrupt_in(error) or error
    if error is None:
        return COMPLETED, None
    if isinstance(error, Preempted):
        return PREEMPTED, None
    if isinstance(error, KeyboardInterrupt):
        why = stop_reason(paths.root)
        if why is not None:
            return STOPPED, Failure(EndReason.STOPPED, why)
        try:
            why = read_request(paths.root, Request.CANCEL) or "asked by requests/cancel"
        except OSError:
            why = masking.masked(str(error)) or "Ctrl-C"
        return CANCELED, Failure(EndReason.CANCELED, why)
    if isinstance(error, SystemExit):
        message = masking.masked(f"the run's code ended the process with exit code {error.code!r} before it was done")
        return FAILED, Failure("SystemExit", message, _trace(error))
    trace = masking.masked(error.trace) if isinstance(error, RunFailedError) else _trace(error)
    kind = masking.masked(storable(type(error).__name__))
    from_labrun = isinstance(error, LabrunError) and not isinstance(error, RunFailedError)
    return FAILED, Failure(kind, message_of(error), trace, from_labrun)


def interrupt_in(error: BaseException | None) -> KeyboardInterrupt | Preempted | None:
    """Return the interrupt that an error is or was raised for, or None.

    A library may turn an interrupt into an error of its own, as NumPy does while it reads the format of a buffer.
    """
    return next((one for one in causes.chain(error) if isinstance(one, (KeyboardInterrupt, Preempted))), None)


def _trace(error: BaseException) -> str:
    return masking.masked(storable("".join(traceback.format_exception(error))))


def message_of(error: BaseException) -> str:
    """Return an error's message. The `__str__` of a user's exception may itself raise."""
    try:
        return masking.masked(storable(str(error)))
    except Exception as other:  # noqa: BLE001 - any `__str__`
        return f"(its message cannot be shown: {type(other).__name__})"


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, if any."""
    line = messages.first_line(message_of(error))
    return ": ".join([masking.masked(type(error).__name__), *([line] if line else [])])


def storable(text: str) -> str:
    """Escape what UTF-8 cannot encode, such as the surrogates in undecodable file names."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGKILL, or its number for real-time signals, which have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def disk_trouble(error: BaseException | None) -> OSError | None:
    """Return the error in a chain of causes that reports a full disk or a read-only folder, or None."""
    for one in causes.chain(error):  # torch wraps it in an exception of its own
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            return one
    return None


class Capture:
    """Redirects this process's output, including that of native code, through the sidecar to `driver.log`.

    Args:
        run_dir: the run's directory.
        measured_every_s: see `Config.measured_every_s`.
    """

    def __init__(self, run_dir: Path, measured_every_s: float | None = None) -> None:
        self._run_dir, self._measured_every_s = run_dir, measured_every_s
        self._saved: tuple[int, int] | None = None
        self._idle: tuple[int, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, attempt: int, prints: bool = True) -> None:
        """Start the sidecar and redirect standard output and error to it.

        Args:
            attempt: the number of the attempt.
            prints: if False, leave both alone; the sidecar then only writes the heartbeat and handles requests.
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
            *(str(request_path(self._run_dir, request)) for request in Request),
        ]
        # A notebook kernel ends its process group before it exits, and is killed if that takes too long.
        own_group = -1 if prints else 0
        # Ctrl-C reaches the whole process group. It must not end the sidecar before the sidecar ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
        try:
            self._process = subprocess.Popen(
                command, pass_fds=(out_read, err_read), stdin=subprocess.DEVNULL, process_group=own_group
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
        """Restore standard output and error once the log is complete."""
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
        # A child that still prints keeps the pipes open, and the sidecar alive.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def create(run_dir: Path, record: Record) -> None:
    """Write a new run's first record, with status `queued`.

    Raises:
        RecordError: the folder already holds a run, or is not writable.
    """
    paths = RunPaths(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if paths.record.exists():
            raise RecordError(f"{run_dir} already holds a run; a new run needs its own folder")
        for folder in (paths.outputs, paths.logs, paths.requests):
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RecordError(cannot_write(run_dir, error)) from error
    write_record(run_dir, dataclasses.replace(record, status=QUEUED))
