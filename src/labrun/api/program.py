"""Runs started by a program or a notebook with `start_run`, without a `labrun` command.

The program itself is the process of the run. It starts only a sidecar, which keeps the log and the heartbeat and passes
on requests, as for an inline run. If the program is killed, its run is shown as `lost`.
"""

from __future__ import annotations

import atexit
import contextlib
import dis
import functools
import gc
import json
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, SupportsFloat

from labrun.api.handles import Run
from labrun.compat.azureml.training import pending_models
from labrun.config.checking import is_secret, masked_word
from labrun.errors import ConfigError, LabrunError, RunFailedError
from labrun.runs import context, recording, store
from labrun.runs.attempts import Attempt, Job
from labrun.runs.groups import Code
from labrun.runs.record import (
    COMPLETED,
    PROGRAM,
    QUEUED,
    RUNNING,
    Record,
    RunPaths,
    claim_attempt,
    describe_host,
    installed_packages,
    process_identity,
    read_record,
    seconds_between,
    timestamp,
    write_record,
)
from labrun.runs.recording import Capture
from labrun.submission import origin, snapshot
from labrun.tasks.script import registering

log = logging.getLogger(__name__)

TASK = PROGRAM
LONGEST_NAME = 200


def start_run(
    name: str,
    tags: Mapping[str, Any] | None = None,
    parent: Run | str | None = None,
    root: str | os.PathLike[str] | None = None,
    code: str | os.PathLike[str] | None = ".",
    capture: bool | None = None,
) -> ActiveRun:
    """Start a run of this program. End it with `complete()` or `fail()`, or use it in a `with` statement.

    When the program exits, a run that is still open becomes completed if the program succeeded, else failed or canceled
    (also when a notebook's kernel is restarted). The run of a killed program is shown as lost. So is the
    run of a `python -m` or `python -c` program that exits by `raise SystemExit`, unless it uses `with`: Python reveals
    the exit code only for scripts.

    Args:
        name: name of the experiment, which is the folder below `outputs/` that holds the run.
        tags: tags of the run.
        parent: the parent run, or its id; None: the current run, if there is one.
        root: the workspace; None: LABRUN_ROOT, or the current folder.
        code: folder whose code is stored with the run; None: store no code.
        capture: copy the program's output to the run's log; None: yes, except in a notebook, whose cells keep it, and
            while another run captures it.

    Raises:
        ConfigError: the name is invalid.
        RecordError: the run's folder cannot be written.
    """
    if not name or "/" in name or "\\" in name or not name.isprintable() or name[0] == "." or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"start_run({name!r}): the name becomes a folder: give 1 to {LONGEST_NAME} printable characters, no "
            "slashes, no leading dot"
        )
    own = context.current()
    if parent is None and own is not None:
        parent = Run(own.run_dir)
    workspace = Path(root).expanduser().resolve() if root is not None else store.workspace_here()
    record = _record(name, tags or {}, parent, workspace, code)
    folder = workspace / "outputs" / name / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{record.id}"
    recording.create(folder, record)
    store.keep_out_of_git(workspace)
    # Inside a run of labrun's, that run's log already has the output.
    return ActiveRun(folder, own is None and not _in_notebook() if capture is None else capture)


def _record(
    name: str, tags: Mapping[str, Any], parent: Run | str | None, root: Path, code: str | os.PathLike[str] | None
) -> Record:
    folder = None if code is None else Path(code).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"code={code}: there is no such folder")
    return Record(
        id=origin.new_id(),
        name=name,
        task=TASK,
        status=QUEUED,
        created=timestamp(),
        config={"task": TASK},
        command=_command(),
        parent=parent.id if isinstance(parent, Run) else parent,
        tags={str(key): "" if value is None else str(value) for key, value in tags.items()},
        code=None if folder is None else _snapshot(folder, root),
        git=None if folder is None else origin.git_state(folder, root),
        packages=_packages(),
        host=describe_host(),
    )


_packages = functools.cache(installed_packages)


def _snapshot(folder: Path, root: Path) -> Code | None:
    """Take a snapshot of the current code. If that fails, log a warning and return None."""
    try:
        return snapshot.take(folder, root)
    except LabrunError as error:
        log.warning("No code is kept with this run: %s", error)
        return None


def _command() -> str:
    """Return the command line of this program, with secrets masked."""
    if _in_notebook():
        return ""
    words = [masked_word(word) for word in sys.orig_argv[1:]]
    for place, word in enumerate(words[:-1]):
        if word.startswith("-") and "=" not in word and is_secret(word.lstrip("-").replace("-", "_")):
            words[place + 1] = "***"
        if word == "-c":  # its argument is the whole program
            words[place + 1] = "..."
    return shlex.join([Path(sys.executable).name, *words])


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


class ActiveRun(Run):
    """A run of the current program, open until the program ends it.

    Args:
        folder: folder of the run, with a record that has no attempt yet.
        capture: copy the program's output to the run's log.

    Raises:
        RecordError: there is no such record, or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], capture: bool = False) -> None:
        super().__init__(folder)
        self._captures: bool = capture and not any(run._captures for run in _ending.runs)
        self._record = read_record(self.folder)
        self._pid = os.getpid()
        attempt = claim_attempt(self.folder)
        self._context = context.RunContext(self.folder, attempt)
        self._begin(attempt)
        self._sidecar = Capture(self.folder)
        self._sidecar.start(attempt, prints=self._captures)
        self._is_entered = False
        _ending.add(self)

    def _begin(self, attempt: int) -> None:
        record = self._record
        record.process, record.status, record.started = process_identity(), RUNNING, timestamp()
        record.attempts.append(Attempt(attempt, record.started, record.status, record.process))
        if record.parent and (job := os.environ.get(recording.JOB_VARIABLE)):
            record.job = Job.of(json.loads(job))
        write_record(self.folder, record)

    def __enter__(self) -> ActiveRun:
        """Make this the current run, so that `labrun.log` logs to it."""
        context.enter(self._context)
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: completed, or failed or canceled if an error ended the block."""
        if error is not None and self._captures and not isinstance(error, KeyboardInterrupt):
            sys.stderr.write(f"{recording.first_line(error)}\n")
        self._close(error)

    @property
    def outputs(self) -> Path:
        """The folder for files that the program writes; they are stored with the run."""
        return RunPaths(self.folder).outputs

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended yet."""
        return self in _ending.runs

    def log(self, name: str, value: SupportsFloat, step: int | None = None) -> None:
        """Log one value of a metric. Arguments and errors are those of `labrun.log`.

        Raises:
            ConfigError: the run has ended.
        """
        self._check_open()
        _ending.forget()
        self._context.log(name, value, step)

    def _check_open(self) -> None:
        if not self.is_open:
            raise ConfigError(f"run {self.id} has ended ({self.status}): start another with labrun.start_run")

    def complete(self) -> None:
        """End the run as completed. A run that has ended is not changed."""
        self._close(None)

    def fail(self, error: BaseException | str = "the program called run.fail()") -> None:
        """End the run as failed, with an error or a reason."""
        self._close(error if isinstance(error, BaseException) else RunFailedError(error))

    def cancel(self) -> None:
        """End the run as canceled."""
        self._close(KeyboardInterrupt("canceled by the program"))

    def start_run(self, name: str | None = None, **options: Any) -> ActiveRun:
        """Start a child run of this one; see `labrun.start_run`. The default name is this run's."""
        root = self.folder.parents[2]
        return start_run(name or self.name, **{"parent": self, "root": root, "code": None, "capture": False, **options})

    def _close(self, error: BaseException | None) -> None:
        if os.getpid() != self._pid or not self.is_open:
            return
        if self._is_entered:
            context.leave(self._context)
        record, paths = self._record, RunPaths(self.folder)
        status, details = recording.outcome(error, paths)
        record.status, record.ended, record.error = status, timestamp(), details
        record.duration_s = seconds_between(record.started or record.ended, record.ended)
        record.attempts[-1].end(status, None, record.ended)
        record.metrics = {**context.last_values(self.folder)}
        if status == COMPLETED:
            left = pending_models.read(self.folder, self._context.attempt)
            registering.register(self.folder.parents[2], self.folder, left)
        self._context.close()
        _ending.remove(self)
        try:
            write_record(self.folder, record)
        finally:
            self._sidecar.stop()


class _Ending:
    """Ends the open runs when the program exits, with a status that depends on how it exits."""

    def __init__(self) -> None:
        self.runs: list[ActiveRun] = []
        self._error: BaseException | None = None
        self._is_exit_known = False
        """Whether it is known whether the program exits with an error."""
        self._frame: FrameType | None = None
        self._is_ready = False

    def add(self, run: ActiveRun) -> None:
        self.runs.append(run)
        if self._is_ready:
            return
        self._is_ready = True
        atexit.register(self._end)
        sys.excepthook = self._noting(sys.excepthook)
        sys.exit = self._exit
        if _in_notebook():
            ipython = sys.modules["IPython"].get_ipython()
            ipython.events.register("post_run_cell", self._after_cell)
            if (kernel := getattr(ipython, "kernel", None)) is not None:
                kernel.do_shutdown = self._before(kernel.do_shutdown)
            return
        self._frame = _outermost(sys._current_frames().get(threading.main_thread().ident or 0))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, TypeError):  # no stream, or its attributes cannot be set
                vars(stream)["flush"] = self._flushing(stream.flush)

    def remove(self, run: ActiveRun) -> None:
        self.runs.remove(run)

    def forget(self) -> None:
        """Forget the last error: the program continues, so it was caught."""
        self._error, self._is_exit_known = None, False

    def _noting(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def noted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self._error = error
            hook(kind, error, trace)

        return noted

    def _exit(self, code: Any = None, /) -> NoReturn:
        """Act as `sys.exit`, which calls no `sys.excepthook`, and remember the exit code."""
        self._error, self._is_exit_known = None if code in (None, 0) else SystemExit(code), True
        raise SystemExit(code)

    def _flushing(self, flush: Callable[[], Any]) -> Callable[[], Any]:
        """Wrap a stream's `flush`, which Python calls when a script has ended while its `SystemExit` still exists.

        Nothing else reveals a `raise SystemExit(1)`.
        """

        def flushed() -> Any:
            frame = self._frame
            if frame is not None and threading.current_thread() is threading.main_thread():
                is_over = (
                    _outermost(sys._getframe()) is not frame
                )  # the outermost frame, because the program may have wrapped the stream
                if is_over and not _has_returned(frame):
                    self._error, self._is_exit_known = _leaving(frame) or (self._error, self._is_exit_known)
            return flush()

        return flushed

    def _after_cell(self, result: Any) -> None:
        """Remember the error of a notebook's last cell, if any."""
        self._error = result.error_before_exec or result.error_in_exec

    def _before(self, shut_down: Callable[[bool], Any]) -> Callable[[bool], Any]:
        """Wrap a kernel's shutdown to end the runs first: the kernel may be killed before `atexit` handlers run."""

        def ended(restart: bool) -> Any:
            if restart:
                self._error = KeyboardInterrupt("the notebook's kernel was restarted")
            self._end()
            return shut_down(restart)

        return ended

    def _end(self) -> None:
        runs = [run for run in reversed(self.runs) if run._pid == os.getpid()]
        if self._frame is not None and self._frame is not _outermost(sys._getframe()):
            if _has_returned(self._frame):
                self._error = None  # the error was caught
            elif self._error is None and not self._is_exit_known:
                self._leave_open(runs)
                return
        for run in runs:
            run._close(self._error)

    def _leave_open(self, runs: Sequence[ActiveRun]) -> None:
        """Leave the runs open, to be shown as lost, because it is unknown whether the program succeeded."""
        for run in runs:
            sys.stderr.write(
                f"labrun: run {run.id} was not ended: the program raised SystemExit, and Python does not say with "
                "which exit code. Begin it with `with labrun.start_run(...)`, or end it with run.complete()\n"
            )


def _leaving(frame: FrameType) -> tuple[BaseException | None, bool] | None:
    """Find the `SystemExit` that has just ended a frame.

    Python 3.11 gives it a traceback only when it is caught; later versions do so at once.

    Returns:
        The `SystemExit`, or None if its exit code means success, and True; None alone if it cannot be identified.
    """
    # Not `isinstance`, which would call the `__class__` property of proxy objects.
    found = [one for one in gc.get_objects() if issubclass(type(one), SystemExit)]
    caught = [one for one in found if one.__traceback__ is not None and one.__traceback__.tb_frame is frame]
    here = [one for one in caught if one.__traceback__.tb_lasti == frame.f_lasti]
    fitting = [one for one in found if one.__traceback__ is None] or here or caught
    if len({repr(one.code) for one in fitting}) != 1:
        return None
    return None if fitting[0].code in (None, 0) else fitting[0], True


def _outermost(frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _has_returned(frame: FrameType) -> bool:
    """Whether a finished frame has returned, rather than ended with an exception."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN_")


_ending = _Ending()
