"""Runs the jobs of a plain Hydra application, as many at once as the launcher's settings allow."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from labrun._io import environ_overlay
from labrun.backends import registry
from labrun.backends.base import Calls
from labrun.config.schema import Compute
from labrun.errors import LabrunError
from labrun.submission.plain_app import main_module
from labrun.submission.plain_app.job import Ended, restore, run_in_process, run_one
from labrun.submission.plain_app.output import Output
from labrun.user_errors import EXIT_CANCELED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Application:
    """A plain Hydra application in a sweep: the objects that Hydra passes to a launcher's `setup`."""

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    """Config of the sweep."""

    def prepare(self) -> ConfigLoader:
        """Create the sweep folder, and return the loader to compose the jobs."""
        hydra = self.config.hydra
        setup_globals()
        configure_log(hydra.hydra_logging, hydra.verbose)
        sweep_dir = Path(str(hydra.sweep.dir))
        sweep_dir.mkdir(parents=True, exist_ok=True)
        if OmegaConf.select(self.config, "hydra.sweep.mode") is not None:
            sweep_dir.chmod(int(str(hydra.sweep.mode), 8))
        return self.context.config_loader


class Jobs:
    """Runs jobs of an application. A job that dies gives a failed result; the others continue.

    Args:
        application: the application.
        compute: the launcher's settings, after they were checked.
        shows_output: print the output of the jobs as it arrives.
        shows_all: also show the traceback of the first job that fails inline, which Hydra's own sweeper shows itself.

    Raises:
        CompactHydraException: a user error; Hydra shows it without a traceback.
        SystemExit: the context was ended by Ctrl-C; the jobs are canceled.
    """

    def __init__(self, application: Application, compute: Compute, shows_output: bool, shows_all: bool = False) -> None:
        self._compute, self._shows_output = compute, shows_output
        self._backend = registry.get(compute.target, compute.key("target"))
        self._context, self._function = application.context, application.function
        self._folder = Path(str(application.config.hydra.sweep.dir)).resolve() / ".submitit"
        self._state = Singleton.get_state()
        self._main = None if self._backend.in_process else main_module.capture()
        self._shows_next = shows_all or not self._backend.in_process
        self._calls: Calls | None = None
        self._open: dict[int, Any] = {}
        """submitit's jobs, by number."""
        self._configs: dict[int, DictConfig] = {}
        self._done: dict[int, JobReturn] = {}
        self._outputs: dict[int, Output] = {}
        self._printed: dict[str, int] = {}
        """Tracebacks already shown, each with the number of its job."""
        self._politely: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> Jobs:
        from labrun.runs.recording import terminating_politely

        self._politely = terminating_politely()
        self._politely.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        try:
            if kind is not None and self._open:
                self.cancel()
            self._politely.__exit__(kind, *rest)
        finally:
            if self._calls is not None:
                self._calls.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and not self._backend.in_process:
            sys.stderr.write("labrun: the sweep was canceled\n")
            raise SystemExit(EXIT_CANCELED) from None
        if kind is not None and issubclass(kind, LabrunError):
            raise CompactHydraException(f"labrun: {rest[0]}") from rest[0]

    @property
    def busy(self) -> bool:
        """Whether results are still to come."""
        return bool(self._open or self._done)

    @property
    def room(self) -> int:
        """Maximum number of concurrent jobs."""
        return self._backend.room(self._compute)

    def run(self, composed: Mapping[int, DictConfig]) -> list[JobReturn]:
        """Run jobs, given as configs by number, to their end; return their results by number."""
        self.submit(composed)
        found: dict[int, JobReturn] = {}
        while self.busy:
            found.update(self.ended())
        return [found[number] for number in sorted(found)]

    def submit(self, composed: Mapping[int, DictConfig]) -> None:
        """Submit jobs, given as configs by number. Inline jobs are run immediately."""
        self._configs.update(composed)
        if self._backend.in_process:
            for number, config in composed.items():
                ended = run_one(self._context, self._function, config)
                restore(self._state)
                self._done[number] = ended
                self._say(number, ended, "")
                if self._shows_next:
                    self._show(number, ended.trace)
                self._shows_next = self._shows_next or bool(ended.trace)
            return
        if not composed:
            return
        if self._calls is None:
            modules = _modules(self._function, self._main)
            self._calls = self._backend.calls(self._folder, self._compute, modules)
        payloads = [self._payload(config) for config in composed.values()]
        with _importable():
            submitted = self._calls.submit(run_in_process, payloads)
        self._open.update(zip(composed, submitted, strict=True))
        if self._shows_output:
            self._outputs.update((number, Output(number, self._open[number])) for number in composed)

    def _payload(self, config: DictConfig) -> bytes:
        from labrun.backends.local.pickling import dumps

        try:
            return dumps((self._main, self._context, self._function, config, self._state))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise CompactHydraException(
                f"labrun: the application cannot be sent to another process ({type(error).__name__}: {error}): one "
                "of its functions uses an object that cannot be pickled; hydra.launcher.target=inline runs the jobs in "
                "this process"
            ) from error

    def ended(self) -> dict[int, JobReturn]:
        """Return the results of jobs that have ended, by number. If there are none, wait for a moment first."""
        if self._done:
            found, self._done = self._done, {}
            return found
        found = {}
        ends = {} if self._calls is None else self._calls.ends(self._open)
        for number, state in ends.items():
            job, config = self._open.pop(number), self._configs.pop(number)
            ended = _ended(job, config, number, None if state is None else self._why(job, state))
            output = self._outputs.pop(number, None)
            if output is not None:
                output.show(at_end=True)
            self._say(number, ended, f"  (log: {job.paths.stdout})")
            if output is None or not output.has_shown(ended.trace):
                self._show(number, ended.trace)
            found[number] = ended
        for output in self._outputs.values():
            output.show()
        if not found and self._calls is not None:
            time.sleep(self._calls.poll_s)
        return found

    def _why(self, job: Any, state: str) -> str:
        """Return why a job has no result, given its final state."""
        said = "" if self._calls is None else self._calls.last_lines(job)
        return f"it ended without a result ({state})" + (f": {said}" if said else "")

    def _say(self, number: int, result: JobReturn, more: str) -> None:
        typed = " ".join(result.overrides or ())
        log.info("#%d : %s  %s%s", number, typed, "completed" if _is_fine(result) else "failed", more)

    def _show(self, number: int, trace: str) -> None:
        """Print the traceback of a failed job, or refer to the job for which the same one was printed."""
        if not trace:
            return
        if trace in self._printed:
            trace = f"(as job {self._printed[trace]})"
        self._printed.setdefault(trace, number)
        sys.stderr.write(f"{trace}\n")
        sys.stderr.flush()

    def cancel(self) -> None:
        """Cancel all jobs, and wait for local ones unless Ctrl-C is pressed again."""
        if self._calls is not None:
            self._calls.cancel(list(self._open.values()))
        self._open.clear()


def _is_fine(result: JobReturn) -> bool:
    return result.status == JobStatus.COMPLETED


@contextmanager
def _importable() -> Iterator[None]:
    """In the context, make child processes find the same modules as this process."""
    with environ_overlay({"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}):
        yield


def _ended(job: Any, config: DictConfig, number: int, why: str | None) -> Ended:
    """Return the result of a job that has ended.

    Args:
        job: submitit's job.
        config: config of the job.
        number: number of the job in the sweep.
        why: why the job has no result; None if it has one.
    """
    from labrun.runs.recording import first_line

    typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    overrides = [str(text) for text in typed]  # with environment references unresolved
    try:
        if why is not None:
            raise LabrunError(why)
        returned = [_result(job.task(task).paths.result_pickle) for task in range(job.num_tasks)]
        ended = next((one for one in returned if not _is_fine(one)), returned[0])
        if ended.trace:
            error = ended._return_value
            failure = _with_reason(number, overrides, f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            ended.return_value = failure
    except Exception as error:  # noqa: BLE001 - reading a result can raise anything, and must not lose the others
        why = str(error) if isinstance(error, LabrunError) else first_line(error)
        ended = Ended(cfg=config, overrides=list(filter_overrides(overrides)), status=JobStatus.FAILED)
        ended.return_value = _with_reason(number, overrides, why)
    ended.overrides = overrides
    return ended


def _result(path: Path) -> Ended:
    """Return what a task of a job has returned.

    Args:
        path: submitit's pickle of the outcome.

    Raises:
        LabrunError: the job's function failed, or another user could have written the file.
    """
    from labrun.backends.local.pickling import check_own

    check_own(path)
    outcome, value = pickle.loads(path.read_bytes())  # noqa: S301 - checked
    if outcome == "error":  # submitit has kept the error only as a traceback
        raise LabrunError(next(iter(value.strip().splitlines()[-1:]), "it failed without a message"))
    ended: Ended = value
    return ended


def _with_reason(number: int, overrides: Sequence[str], why: str) -> CompactHydraException:
    """Return the error of a failed job, which Hydra shows without a traceback."""
    return CompactHydraException(f"job {number} ({', '.join(overrides)}): {why}")


def _modules(function: Callable[..., Any], main: main_module.MainModule | None) -> list[str]:
    """Return the modules that the application imports at the top level, to be imported once for all its jobs."""
    names = [run_in_process.__module__]
    sources = [getattr(function, "__module__", None), *([] if main is None else ["__main__"])]
    for own in [sys.modules[name] for name in sources if name in sys.modules]:
        if own.__name__ != "__main__":
            names.append(own.__name__)
        for value in vars(own).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name not in ("__main__", "builtins") and name in sys.modules:
                names.append(name)
    return sorted(set(names))
