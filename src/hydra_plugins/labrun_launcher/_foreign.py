"""Jobs of an application that knows nothing of labrun: any function under `@hydra.main`."""

from __future__ import annotations

import logging
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.labrun_launcher import _main
from hydra_plugins.labrun_launcher._job import LEAVING_S, Ended, OneClusterJob, restore, run_elsewhere, run_one
from labrun.errors import ConfigError, LabrunError

if TYPE_CHECKING:
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher

log = logging.getLogger(__name__)

REQUEUES = 1000
"""How often a cluster may take a job's place away."""
RESULT_S = 15.0
"""How long after a job's end its result may take to be seen through a network file system."""
CANCELED = 130
SUBMITIT = re.compile(rb"submitit (INFO|WARNING|ERROR) \(|\[[^]]*\]\[submitit\]\[INFO\] - ")
"""Lines of a job's log that submitit writes about itself."""
OF_OTHERS = {
    "n_jobs": "max_parallel",
    "array_parallelism": "max_parallel",
    "cpus_per_task": "cpus_per_run",
    "gpus_per_node": "gpus_per_run",
    "additional_parameters": "extra",
}
"""What Hydra's joblib and submitit launchers call settings that there are here too."""
KEPT = 2**16
"""Characters of a job's output that are kept to look into."""


def launch_foreign(launcher: LabrunLauncher, composed: Sequence[DictConfig], first: int) -> list[JobReturn]:
    """Run every job, in the pool, on Slurm or here; one that dies is a failed result, and the others go on.

    Args:
        launcher: with what Hydra gave it.
        composed: the jobs' configs.
        first: the number of the first of them in the sweep.
    """
    with Jobs(launcher) as jobs:
        jobs.submit(dict(enumerate(composed, start=first)))
        found = {}
        while jobs.busy:
            found.update(jobs.ended())
        return [found[number] for number in sorted(found)]


class Jobs:
    """Carries out jobs of an application, as many at once as its launcher's settings allow.

    Args:
        launcher: with what Hydra gave it.
        shows_all: whether the traceback of the first job that fails here is shown too: Hydra's own sweeper shows that.

    Raises:
        CompactHydraException: a setting is wrong, or cannot be had; Hydra shows it without a traceback.
        SystemExit: in the context, after Ctrl-C; the jobs are asked to end.
    """

    def __init__(self, launcher: LabrunLauncher, shows_all: bool = False) -> None:
        assert launcher.hydra_context is not None and launcher.task_function is not None
        assert launcher.config is not None
        self.settings = checked(launcher.settings)
        self.target = str(self.settings["target"])
        self._context, self._function = launcher.hydra_context, launcher.task_function
        self._folder = Path(str(launcher.config.hydra.sweep.dir)).resolve() / ".submitit"
        self._state = Singleton.get_state()
        self._main = None if self.target == "inline" else _main.capture()
        self._shows_next = shows_all or self.target != "inline"
        self._executor: Any = None
        self._open: dict[int, Any] = {}
        """submitit's jobs, by their numbers."""
        self._configs: dict[int, DictConfig] = {}
        self._done: dict[int, JobReturn] = {}
        self._since: dict[int, float] = {}
        """When a job that left no result yet was first seen to have ended."""
        self._states: dict[str, str] = {}
        self._next_look = 0.0
        self._outputs: dict[int, _Output] = {}
        self._told: dict[str, int] = {}
        """Tracebacks that were shown, and of which job."""
        self._politely: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> Jobs:
        from labrun.runs.recording import terminating_politely

        self._politely = terminating_politely()
        self._politely.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from labrun.backends.slurm.queue import refusal

        try:
            if kind is not None and self._open:
                self.cancel()
            self._politely.__exit__(kind, *rest)
        finally:
            if self.target == "local" and self._executor is not None:
                self._executor.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.target != "inline":
            sys.stderr.write("labrun: the sweep was canceled\n")
            raise SystemExit(CANCELED) from None
        if kind is not None and issubclass(kind, FailedJobError | FailedSubmissionError):
            raise CompactHydraException(f"labrun: {refusal(rest[0])}") from rest[0]

    @property
    def busy(self) -> bool:
        """Whether there are results to come."""
        return bool(self._open or self._done)

    @property
    def room(self) -> int:
        """How many jobs can go on at once."""
        if self.target == "inline":
            return 1
        if self.target == "slurm":
            return int(self.settings["max_parallel"] or 10)
        from labrun.backends import compute

        cpus, gpus = self.settings["cpus_per_run"], self.settings["gpus_per_run"]
        carried = len(compute.visible_gpus()) // gpus if gpus else compute.cores() // cpus
        return max(1, int(self.settings["max_parallel"] or carried))

    def submit(self, composed: Mapping[int, DictConfig]) -> None:
        """Hand over jobs: their configs, by their numbers. Inline they are carried out now."""
        self._configs.update(composed)
        if self.target == "inline":
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
        if self._executor is None:
            modules = _modules(self._function, self._main)
            self._executor = _executor(self.target, self._folder, self.settings, modules)
        payloads = [self._payload(config) for config in composed.values()]
        one = OneClusterJob(self.settings["timeout_min"]) if self.target == "slurm" else run_elsewhere
        with _importable(), _away(self.target, self._executor):
            submitted = self._executor.map_array(one, payloads)
        self._open.update(zip(composed, submitted, strict=True))
        if self.settings["show_output"]:
            self._outputs.update((number, _Output(number, self._open[number])) for number in composed)

    def _payload(self, config: DictConfig) -> bytes:
        from labrun.backends.local.pickling import dumps

        try:
            return dumps((self._main, self._context, self._function, config, self._state))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise CompactHydraException(
                f"labrun: the application cannot be sent to another process ({type(error).__name__}: {error}): a "
                "function of it uses an object that cannot be pickled; hydra.launcher.target=inline runs the jobs in "
                "this process"
            ) from error

    def ended(self) -> dict[int, JobReturn]:
        """Wait a little; the results of jobs that have ended since, by their numbers."""
        if self._done:
            found, self._done = self._done, {}
            return found
        found = {}
        for number, state in list(self._ends()):
            job, config = self._open.pop(number), self._configs.pop(number)
            ended = _ended(job, config, number, state)
            output = self._outputs.pop(number, None)
            if output is not None:
                output.show(at_end=True)
            self._say(number, ended, f"  (log: {job.paths.stdout})")
            if output is None or not output.has_shown(ended.trace):
                self._show(number, ended.trace)
            found[number] = ended
        for output in self._outputs.values():
            output.show()
        if not found:
            time.sleep(0.5 if self.target == "slurm" else 0.02)
        return found

    def _ends(self) -> Iterator[tuple[int, str | None]]:
        """Jobs that have ended, with the state that they ended in, if they left no result.

        Where there is no accounting, submitit learns only from its result that a job has ended.
        """
        from labrun.backends.slurm.queue import ASK_S, OVER, states

        on_slurm = self.target == "slurm"
        if on_slurm and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + ASK_S
            self._states = states({job.job_id for job in self._open.values()})
        for number, job in self._open.items():
            state: str | None = self._states.get(job.job_id, "GONE") if on_slurm else None
            if all(job.task(task).paths.result_pickle.exists() for task in range(job.num_tasks)):
                state = None
            elif not (state in OVER if on_slurm else job.done()):
                self._since.pop(number, None)
                continue
            elif on_slurm and time.monotonic() - self._since.setdefault(number, time.monotonic()) < RESULT_S:
                continue
            else:
                state = state or job.end
            yield number, state

    def _say(self, number: int, result: JobReturn, more: str) -> None:
        typed = " ".join(result.overrides or ())
        log.info("#%d : %s  %s%s", number, typed, "completed" if _is_fine(result) else "failed", more)

    def _show(self, number: int, trace: str) -> None:
        """Show a failed job's traceback; one that was shown already is named."""
        if not trace:
            return
        if trace in self._told:
            trace = f"(as job {self._told[trace]})"
        self._told.setdefault(trace, number)
        sys.stderr.write(f"{trace}\n")
        sys.stderr.flush()

    def cancel(self) -> None:
        """Ask the jobs to stop; those here are waited for, unless Ctrl-C comes again."""
        jobs = list(self._open.values())
        for job in jobs:
            job.cancel(check=False)
        if self.target == "local" and not all(job.done() for job in jobs):
            log.info("Asking the jobs to stop; Ctrl-C ends them at once")
            with suppress(KeyboardInterrupt):
                for job in jobs:
                    job.wait()
        self._open.clear()


class _Output:
    """What a job prints, as it comes, each line with the job's number before it.

    Args:
        number: the job's.
        job: submitit's.
    """

    def __init__(self, number: int, job: Any) -> None:
        self._mark = f"[{number}] ".encode()
        self._files = {path: 0 for task in range(job.num_tasks) for path in _logs(job.task(task))}
        self._rest: dict[Path, bytes] = {}
        self._last = ""

    def has_shown(self, trace: str) -> bool:
        """Whether a traceback was among what the job printed last."""
        return bool(trace) and trace.splitlines()[-1] in self._last

    def show(self, at_end: bool = False) -> None:
        """Show what is new, in whole lines; at the end all of it."""
        for path, position in self._files.items():
            with suppress(OSError), open(path, "rb") as file:
                file.seek(position)
                content = file.read()
                self._files[path] += len(content)
                *lines, rest = (self._rest.get(path, b"") + content).split(b"\n")
                self._rest[path] = b"" if at_end else rest
                lines += [rest] if at_end and rest else []
                lines = [line for line in lines if not SUBMITIT.match(line)]
                text = b"".join(self._mark + line + b"\n" for line in lines).decode("utf-8", "replace")
                self._last = (self._last + text)[-KEPT:]
                sys.stdout.write(text)
        sys.stdout.flush()


def _logs(job: Any) -> list[Path]:
    return [job.paths.stdout, job.paths.stderr]


def _is_fine(result: JobReturn) -> bool:
    return result.status == JobStatus.COMPLETED


def _away(target: str, executor: Any) -> AbstractContextManager[None]:
    """Inside, jobs may be submitted: see `backend.submitting`."""
    if target != "slurm":
        return nullcontext()
    from labrun.backends.slurm.backend import submitting

    return submitting({}, executor.parameters)


@contextmanager
def _importable() -> Iterator[None]:
    """Inside, what is started from here finds the modules that this process finds."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `hydra.launcher`, held against what there is.

    Raises:
        CompactHydraException: one of them is wrong, or cannot be had; Hydra shows it without a traceback.
    """
    from dataclasses import asdict

    from labrun.backends import compute
    from labrun.checking import check_fields
    from labrun.schema import Compute

    given = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in settings.items()}
    shows = given.pop("show_output", False)
    if given["target"] not in ("local", "slurm", "inline"):
        problems = [f"hydra.launcher.target={given['target']!r}: allowed are local, slurm and inline"]
    else:
        problems = list(check_fields(given, Compute, "hydra.launcher"))
        problems += [
            f"hydra.launcher.{key}, of another launcher, is hydra.launcher.{ours} here"
            for key, ours in OF_OTHERS.items()
            if key in given
        ]
    if not isinstance(shows, bool):
        problems.append(f"hydra.launcher.show_output={shows!r}: expected true or false")
    if not problems:
        try:
            compute.check({**asdict(Compute(target="local")), **given}, sweep=True)
        except ConfigError as error:
            problems = [_in_its_words(problem) for problem in error.problems]
    if problems:
        raise CompactHydraException("labrun: " + "\n".join(problems))
    return {**given, "show_output": shows}


def _in_its_words(problem: str) -> str:
    """A message about `compute`, for an application that has `hydra.launcher` instead."""
    for ours, its in (
        (r"only compute=slurm and compute=slurm_gpu know it", "only hydra.launcher.target=slurm knows it"),
        (r"compute=slurm_gpu|compute=slurm", "hydra.launcher.target=slurm"),
        (r"compute=local runs on", "without it the jobs run on"),
        (r"compute=(\w+)", r"hydra.launcher.target=\1"),
        (r"\bcompute\.", "hydra.launcher."),
    ):
        problem = re.sub(ours, its, problem)
    return problem


def _ended(job: Any, config: DictConfig, number: int, state: str | None) -> Ended:
    """What a job came to.

    Args:
        job: submitit's.
        config: its own.
        number: in the sweep.
        state: in which it ended without a result; None: it left one.
    """
    from labrun.backends.local.executor import check_own
    from labrun.backends.slurm.queue import last_lines

    typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    overrides = [str(text) for text in typed]  # references to the environment stay references
    try:
        if state is not None:
            said = last_lines(job.paths.stderr)
            raise LabrunError(f"it ended without a result ({state})" + (f": {said}" if said else ""))
        for task in range(job.num_tasks):
            check_own(job.task(task).paths.result_pickle)
        returned: list[Ended] = job.results()
        ended = next((one for one in returned if not _is_fine(one)), returned[0])
        if ended.trace:
            error = ended._return_value
            told = _told(number, overrides, f"{type(error).__name__}: {error}")
            told.__cause__ = error
            ended.return_value = told
    except Exception as error:  # noqa: BLE001 - a result may be anything; the others' must not be lost with it
        lines = [line for line in str(error).splitlines() if line.strip(" -")]
        trace = [line for line in lines if not line.strip().startswith(("You can check", "or at paths", "- "))]
        ended = Ended(cfg=config, overrides=list(filter_overrides(overrides)), status=JobStatus.FAILED)
        ended.return_value = _told(number, overrides, trace[-1].strip() if trace else type(error).__name__)
    ended.overrides = overrides
    return ended


def _told(number: int, overrides: Sequence[str], why: str) -> CompactHydraException:
    """A job's failure, which Hydra shows without its own frames."""
    return CompactHydraException(f"job {number} ({', '.join(overrides)}): {why}")


def _executor(target: str, folder: Path, settings: dict[str, Any], modules: list[str]) -> Any:
    if target == "local":
        from labrun.backends.local.executor import LabrunExecutor

        executor = LabrunExecutor(folder)
        executor.imports_from_cwd = False  # as the application itself
        executor.update_parameters(
            timeout_min=settings["timeout_min"],
            mem_gb=settings["mem_gb"],
            cpus_per_task=settings["cpus_per_run"],
            gpus_per_node=settings["gpus_per_run"],
            max_parallel=settings["max_parallel"],
            modules=modules,
            signal_delay_s=0,
        )
        return executor
    from labrun.backends import compute
    from labrun.backends.local.call import CallExecutor
    from labrun.backends.local.executor import check_own
    from labrun.backends.slurm import backend

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_own(folder / "any")
    cluster = CallExecutor(folder=folder, max_num_timeout=REQUEUES)
    is_limited = settings["timeout_min"] is not None
    given = {
        "job_name": folder.parent.name,
        "signal_delay_s": LEAVING_S,
        "time": backend.minutes_asked(settings, 1) if is_limited else int(compute.longest_min(settings)),
        "mem": None if settings["mem_gb"] is None else f"{round(1024 * settings['mem_gb'])}MB",
        "cpus_per_task": settings["cpus_per_run"],
        "gpus_per_node": settings["gpus_per_run"] or None,
        "nodes": settings["nodes"],
        "ntasks_per_node": settings["tasks_per_node"],
        "partition": settings["partition"],
        "account": settings["account"],
        "qos": settings["qos"],
        "array_parallelism": settings["max_parallel"] or 1000,
        "setup": settings["setup"] or None,
        "srun_args": [f"--cpus-per-task={settings['cpus_per_run']}", *settings["srun_args"]],
        "additional_parameters": compute.sbatch_options(settings["extra"]) or None,
    }
    cluster.update_parameters(**{key: value for key, value in given.items() if value is not None})
    return cluster


def _modules(function: Callable[..., Any], main: _main.MainModule | None) -> list[str]:
    """What the application has imported at its top, to be imported once: the rest of its calls find it there."""
    names = ["hydra_plugins.labrun_launcher._job"]
    sources = [getattr(function, "__module__", None), *([] if main is None else ["__main__"])]
    for own in [sys.modules[name] for name in sources if name in sys.modules]:
        if own.__name__ != "__main__":
            names.append(own.__name__)
        for value in vars(own).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name not in ("__main__", "builtins") and name in sys.modules:
                names.append(name)
    return sorted(set(names))
