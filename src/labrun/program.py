"""Runs without a command: what a program or a notebook logs while it goes on.

The program is the run's process: nothing is started for it but the sidecar, which keeps the log and the heartbeat and
passes requests on, as for a run that labrun carries out in its own process. A program that is killed leaves a record
that readers show as `lost`.
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

from labrun.checking import is_secret
from labrun.compat.azureml.training import promises
from labrun.errors import ConfigError, LabrunError, RunFailedError
from labrun.handles import Run
from labrun.mistakes.mistake import masked_word
from labrun.runs import context, recording, store
from labrun.runs import record as records
from labrun.runs.record import Record, RunPaths
from labrun.runs.recording import Capture
from labrun.submission import freeze, snapshot
from labrun.tasks import registering

log = logging.getLogger(__name__)

TASK = records.PROGRAM
LONGEST_NAME = 200


def start_run(
    name: str,
    tags: Mapping[str, Any] | None = None,
    parent: Run | str | None = None,
    root: str | os.PathLike[str] | None = None,
    code: str | os.PathLike[str] | None = ".",
    capture: bool | None = None,
) -> ActiveRun:
    """Begin a run of this program: it logs to it, and ends it with `complete()` or `fail()`, or by `with`.

    A program that ends without either ends the run: completed if the program ended well, else failed, or canceled
    (also where a notebook's kernel is restarted). A killed program's run is shown as lost; so is, without `with`, that
    of `python -m` and `python -c` ended by `raise SystemExit`, whose exit code Python tells of scripts alone.

    Args:
        name: the experiment's name: the folder below `outputs/` that holds the run.
        tags: for the run.
        parent: the run that it belongs to, or its id; None: inside of a run, that one.
        root: the workspace; None: LABRUN_ROOT, or the current folder.
        code: the folder whose code is kept with the run; None: none.
        capture: keep what the program prints in the run's log; None: yes, but for a notebook, whose cells keep it,
            and for a run begun while another keeps it.

    Raises:
        ConfigError: the name will not do.
        RecordError: the run's folder cannot be written.
    """
    if not name or "/" in name or "\\" in name or not name.isprintable() or name[0] == "." or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"start_run({name!r}): the name becomes a folder: give 1 to {LONGEST_NAME} printable characters, no "
            "slashes, no dot in front"
        )
    own = context.current()
    if parent is None and own is not None:
        parent = Run(own.run_dir)
    workspace = Path(root).expanduser().resolve() if root is not None else store.workspace_here()
    record = _record(name, tags or {}, parent, workspace, code)
    folder = workspace / "outputs" / name / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{record.id}"
    recording.create(folder, record)
    store.keep_out_of_git(workspace)
    # A run of labrun's has a log already.
    return ActiveRun(folder, own is None and not _in_notebook() if capture is None else capture)


def _record(
    name: str, tags: Mapping[str, Any], parent: Run | str | None, root: Path, code: str | os.PathLike[str] | None
) -> Record:
    folder = None if code is None else Path(code).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"code={code}: there is no such folder")
    return Record(
        id=freeze.new_id(),
        name=name,
        task=TASK,
        status=records.QUEUED,
        created=records.now(),
        config={"task": TASK},
        command=_command(),
        parent=parent.id if isinstance(parent, Run) else parent,
        tags={str(key): "" if value is None else str(value) for key, value in tags.items()},
        code=None if folder is None else _snapshot(folder, root),
        git=None if folder is None else freeze.git_state(folder, root),
        packages=_packages(),
        host=records.describe_host(),
    )


_packages = functools.cache(records.installed_packages)


def _snapshot(folder: Path, root: Path) -> dict[str, Any] | None:
    """The code as it is now; a folder of which none can be taken ends nothing."""
    try:
        return snapshot.take(folder, root)
    except LabrunError as error:
        log.warning("No code is kept with this run: %s", error)
        return None


def _command() -> str:
    """How this program was started, without the values of secrets."""
    if _in_notebook():
        return ""
    words = [masked_word(word) for word in sys.orig_argv[1:]]
    for place, word in enumerate(words[:-1]):
        if word.startswith("-") and "=" not in word and is_secret(word.lstrip("-").replace("-", "_")):
            words[place + 1] = "***"
        if word == "-c":  # the whole program
            words[place + 1] = "..."
    return shlex.join([Path(sys.executable).name, *words])


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


class ActiveRun(Run):
    """A run that this program is, until it completes it.

    Args:
        folder: the run's, with a record that was never begun.
        capture: keep what the program prints.

    Raises:
        RecordError: there is none, or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], capture: bool = False) -> None:
        super().__init__(folder)
        self._captures: bool = capture and not any(run._captures for run in _ending.runs)
        self._record = records.read(self.folder)
        self._pid = os.getpid()
        attempt = records.claim(self.folder)
        self._context = context.RunContext(self.folder, attempt)
        self._begin(attempt)
        self._sidecar = Capture(self.folder)
        self._sidecar.start(attempt, prints=self._captures)
        self._is_entered = False
        _ending.add(self)

    def _begin(self, attempt: int) -> None:
        record = self._record
        record.process, record.status, record.started = records.process_identity(), records.RUNNING, records.now()
        record.attempts.append(
            {"number": attempt, "started": record.started, "status": records.RUNNING, "process": record.process}
        )
        if record.parent and (job := os.environ.get(recording.JOB_VARIABLE)):
            record.job = json.loads(job)
        records.write(self.folder, record)

    def __enter__(self) -> ActiveRun:
        """Inside, `labrun.log` logs to it, too."""
        context.enter(self._context)
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete it; failed, or canceled, where an error ends the block."""
        if error is not None and self._captures and not isinstance(error, KeyboardInterrupt):
            sys.stderr.write(f"{recording.first_line(error)}\n")
        self._close(error)

    @property
    def outputs(self) -> Path:
        """The folder for what the program makes: what is written there is the run's."""
        return RunPaths(self.folder).outputs

    @property
    def is_open(self) -> bool:
        """Whether it still goes on."""
        return self in _ending.runs

    def log(self, name: str, value: SupportsFloat, step: int | None = None) -> None:
        """Log one value of a metric.

        Args and errors: as `labrun.log`.

        Raises:
            ConfigError: the run has ended.
        """
        self._check_open()
        _ending.forget()
        self._context.log(name, value, step)

    def _check_open(self) -> None:
        if not self.is_open:
            raise ConfigError(f"run {self.id} has ended ({self.status}): begin another with labrun.start_run")

    def complete(self) -> None:
        """End it well. What has ended stays as it is."""
        self._close(None)

    def fail(self, error: BaseException | str = "the program called run.fail()") -> None:
        """End it as failed, for a reason."""
        self._close(error if isinstance(error, BaseException) else RunFailedError(error))

    def cancel(self) -> None:
        """End it as canceled."""
        self._close(KeyboardInterrupt("canceled by the program"))

    def start_run(self, name: str | None = None, **options: Any) -> ActiveRun:
        """Begin a run below this one; see `labrun.start_run`. Without a name it has this one's."""
        root = self.folder.parents[2]
        return start_run(name or self.name, **{"parent": self, "root": root, "code": None, "capture": False, **options})

    def _close(self, error: BaseException | None) -> None:
        if os.getpid() != self._pid or not self.is_open:
            return
        if self._is_entered:
            context.leave(self._context)
        record, paths = self._record, RunPaths(self.folder)
        status, details = recording.outcome(error, paths)
        record.status, record.ended, record.error = status, records.now(), details
        record.duration_s = records.seconds_between(record.started or record.ended, record.ended)
        record.attempts[-1] |= {"ended": record.ended, "status": status}
        record.metrics = {**context.last_values(self.folder)}
        if status == records.COMPLETED:
            left = promises.read(self.folder, self._context.attempt)
            registering.register(self.folder.parents[2], self.folder, left)
        self._context.close()
        _ending.remove(self)
        try:
            records.write(self.folder, record)
        finally:
            self._sidecar.stop()


class _Ending:
    """How this program ends, for the runs that it has not ended itself."""

    def __init__(self) -> None:
        self.runs: list[ActiveRun] = []
        self._error: BaseException | None = None
        self._is_told = False
        """Whether it is known how the program exits."""
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
            with contextlib.suppress(AttributeError, TypeError):  # no stream, or one that takes no attributes
                vars(stream)["flush"] = self._flushing(stream.flush)

    def remove(self, run: ActiveRun) -> None:
        self.runs.remove(run)

    def forget(self) -> None:
        """The program goes on: what seemed to end it was caught."""
        self._error, self._is_told = None, False

    def _noting(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def noted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self._error = error
            hook(kind, error, trace)

        return noted

    def _exit(self, code: Any = None, /) -> NoReturn:
        """`sys.exit`, which calls no hook."""
        self._error, self._is_told = None if code in (None, 0) else SystemExit(code), True
        raise SystemExit(code)

    def _flushing(self, flush: Callable[[], Any]) -> Callable[[], Any]:
        """Called by Python when a script has ended, while its `SystemExit` still exists: nothing else reveals a
        `raise SystemExit(1)`.
        """

        def flushed() -> Any:
            frame = self._frame
            if frame is not None and threading.current_thread() is threading.main_thread():
                is_over = _outermost(sys._getframe()) is not frame  # a stream of the program's own may stand between
                if is_over and not _has_returned(frame):
                    self._error, self._is_told = _leaving(frame) or (self._error, self._is_told)
            return flush()

        return flushed

    def _after_cell(self, result: Any) -> None:
        """Of a notebook's last cell."""
        self._error = result.error_before_exec or result.error_in_exec

    def _before(self, shut_down: Callable[[bool], Any]) -> Callable[[bool], Any]:
        """How a notebook's kernel ends: it may be killed before it has come to what `atexit` has."""

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
                self._error = None  # what seemed to end it was caught
            elif self._error is None and not self._is_told:
                self._leave_open(runs)
                return
        for run in runs:
            run._close(self._error)

    def _leave_open(self, runs: Sequence[ActiveRun]) -> None:
        """Nobody can tell whether the program did well: readers show its runs as lost."""
        for run in runs:
            sys.stderr.write(
                f"labrun: run {run.id} was not ended: the program raised SystemExit, and Python does not say with "
                "which exit code. Begin it with `with labrun.start_run(...)`, or end it with run.complete()\n"
            )


def _leaving(frame: FrameType) -> tuple[BaseException | None, bool] | None:
    """The `SystemExit` that has just ended a frame, None in place of one that is not an error; None: it is not sure.

    Python 3.11 gives it a traceback only when it is caught; later ones do so at once.
    """
    # `isinstance` would ask proxies what they are.
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
    """Whether a frame that is over has returned; else an exception ended it."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN_")


_ending = _Ending()
