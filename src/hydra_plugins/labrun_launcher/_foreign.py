"""Jobs of an application that knows nothing of labrun: any function under `@hydra.main`."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from labrun.errors import ConfigError, LabrunError

if TYPE_CHECKING:
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher

log = logging.getLogger(__name__)

REQUEUES = 1000
"""How often a cluster may take a job's place away."""
RESULT_S = 15.0
"""How long after a job's end its result may take to be seen through a network file system."""
LEAVING_S = 10
"""How long before its time is up a job is ended, so that it can say so."""
CANCELED = 130


def launch_foreign(launcher: LabrunLauncher, composed: Sequence[DictConfig], first: int) -> list[JobReturn]:
    """Run every job, in the pool, on Slurm or here; one that dies is a failed result, and the others go on.

    Args:
        launcher: with what Hydra gave it.
        composed: the jobs' configs.
        first: the number of the first of them in the sweep.
    """
    settings = checked(launcher.settings)
    target = settings["target"]
    assert launcher.hydra_context is not None and launcher.task_function is not None
    context, function = launcher.hydra_context, launcher.task_function
    state = Singleton.get_state()
    if target == "inline":
        results = []
        for config in composed:
            results.append(run_one(context, function, config))
            Singleton.set_state(state)
        return results
    if not composed:
        return []
    folder = Path(str(composed[0].hydra.sweep.dir)).resolve() / ".submitit"
    jobs: list[Any] = []
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from labrun.launch.slurm_jobs import refusal
    from labrun.runs.recording import terminating_politely

    try:
        executor = _executor(target, folder, settings, _modules(function))
        own = _main_module(function)
        arguments = zip(*((context, function, config, state, own) for config in composed), strict=True)
        with terminating_politely():
            try:
                with _importable(), _away(target, executor):
                    one = OneClusterJob(settings["timeout_min"]) if target == "slurm" else run_elsewhere
                    jobs = _submitted(executor, one, arguments)
                found = {}
                for place, job, state in _as_they_end(jobs, target == "slurm"):
                    found[place] = _result(job, composed[place], first + place, state)
                return [found[place] for place in range(len(jobs))]
            except KeyboardInterrupt:
                _cancel(jobs, target)
                sys.stderr.write("labrun: the sweep was canceled\n")
                raise SystemExit(CANCELED) from None
    except (FailedJobError, FailedSubmissionError) as error:
        raise CompactHydraException(f"labrun: {refusal(error)}") from error
    finally:
        if target == "local" and jobs:
            executor.close()


def _away(target: str, executor: Any) -> AbstractContextManager[None]:
    """Inside, jobs may be submitted: see `slurm.submitting`."""
    if target != "slurm":
        return nullcontext()
    from labrun.launch.slurm import submitting

    return submitting({}, executor.parameters)


def _submitted(executor: Any, one: Callable[..., JobReturn], arguments: Any) -> list[Any]:
    try:
        return list(executor.map_array(one, *arguments))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CompactHydraException(
            f"labrun: the application cannot be sent to another process ({type(error).__name__}: {error}): a function "
            "of it uses an object that cannot be pickled; hydra.launcher.target=inline runs the jobs in this process"
        ) from error


def _as_they_end(jobs: Sequence[Any], on_slurm: bool) -> Iterator[tuple[int, Any, str | None]]:
    """Jobs and their places, each once it has ended; with the state that it ended in, if it left no result.

    Where there is no accounting, submitit learns only from its result that a job has ended.
    """
    from labrun.launch.slurm_jobs import ASK_S, OVER, states

    waiting, since = dict(enumerate(jobs)), dict[int, float]()
    shown, next_look = dict[str, str](), 0.0
    while waiting:
        if on_slurm and time.monotonic() >= next_look:
            next_look = time.monotonic() + ASK_S
            shown = states({job.job_id for job in waiting.values()})
        for place, job in list(waiting.items()):
            state: str | None = shown.get(job.job_id, "GONE") if on_slurm else None
            if all(job.task(task).paths.result_pickle.exists() for task in range(job.num_tasks)):
                state = None
            elif not (state in OVER if on_slurm else job.done()):
                since.pop(place, None)
                continue
            elif on_slurm and time.monotonic() - since.setdefault(place, time.monotonic()) < RESULT_S:
                continue
            else:
                state = state or job.end
            del waiting[place]
            yield place, job, state
        time.sleep(0.5 if on_slurm else 0.02)


def _cancel(jobs: Sequence[Any], target: str) -> None:
    """Ask the jobs to stop; those here are waited for, unless Ctrl-C comes again."""
    for job in jobs:
        job.cancel(check=False)
    if target == "local" and not all(job.done() for job in jobs):
        log.info("Asking the jobs to stop; Ctrl-C again ends them at once")
        with suppress(KeyboardInterrupt):
            for job in jobs:
                job.wait()


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

    from labrun.checking import check_fields
    from labrun.launch import compute
    from labrun.schema import Compute

    given = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in settings.items()}
    if given["target"] not in ("local", "slurm", "inline"):
        problems = [f"hydra.launcher.target={given['target']!r}: allowed are local, slurm and inline"]
    else:
        problems = list(check_fields(given, Compute, "hydra.launcher"))
    if not problems:
        try:
            compute.check({**asdict(Compute(target="local")), **given}, sweep=True)
        except ConfigError as error:
            problems = [_in_its_words(problem) for problem in error.problems]
    if problems:
        raise CompactHydraException("labrun: " + "\n".join(problems))
    return given


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


def run_one(context: Any, function: Callable[..., Any], config: DictConfig) -> JobReturn:
    """One job, as Hydra's own launchers run it."""
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def run_elsewhere(
    context: Any, function: Callable[..., Any], config: DictConfig, state: Any, own: Mapping[str, Any] | None
) -> JobReturn:
    """One job, in a process that knows nothing of the application yet.

    Args:
        context: Hydra's.
        function: the application's.
        config: the job's.
        state: of Hydra's singletons.
        own: what the application's own file defines, if that is its main module.
    """
    from labrun.launch.forkserver import let_workers_be_ended

    if own is not None:
        sys.modules["__main__"] = ModuleType("__main__")
        vars(sys.modules["__main__"]).update(own)
    Singleton.set_state(state)
    setup_globals()
    let_workers_be_ended()
    result = run_one(context, function, config)
    if result.status == JobStatus.FAILED:
        error = result._return_value
        logging.getLogger(__name__).error("The job failed", exc_info=error)
        if not _survives(error):
            result.return_value = RuntimeError(f"{type(error).__name__}: {error}")
    elif not _survives(result._return_value):
        kind = type(result._return_value).__name__
        logging.getLogger(__name__).warning("What the job returned, a %s, cannot be passed on; None is instead", kind)
        result.return_value = None
    return result


def _survives(value: Any) -> bool:
    """Whether it can be sent back: exceptions and results may hold anything."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(value))  # its own bytes
    except Exception:  # noqa: BLE001
        return False
    return True


class OneClusterJob:
    """`run_elsewhere`, which begins anew where the cluster took its place away, and ends when its time is up.

    Args:
        timeout_min: how long it may take; None: as long as the cluster gives it.
    """

    def __init__(self, timeout_min: float | None) -> None:
        self.timeout_min = timeout_min

    def __call__(self, *arguments: Any) -> JobReturn:
        from labrun.launch.cluster_job import job_id, shown_job, time_of, why_signaled

        leave: Any = signal.getsignal(signal.SIGUSR2)
        timers: list[threading.Timer] = []
        is_due = threading.Event()

        def end() -> None:
            is_due.set()
            os.kill(os.getpid(), signal.SIGUSR2)

        def due_in(seconds: float) -> None:
            timers.append(threading.Timer(seconds, end))
            timers[-1].daemon = True
            timers[-1].start()

        def on_signal(number: int, frame: Any) -> None:
            shown = shown_job(job_id())
            if why_signaled(signal.SIGUSR2, shown) == "timeout" and not is_due.is_set():
                left_s = time_of(shown.get("EndTime")) - LEAVING_S - time.time()  # Slurm's warning comes early
                if left_s > 0:
                    due_in(left_s)
                    return
            leave(number, frame)

        if callable(leave):
            signal.signal(signal.SIGUSR2, on_signal)
        if self.timeout_min is not None:
            due_in(60 * self.timeout_min)
        try:
            return run_elsewhere(*arguments)
        finally:
            for timer in timers:
                timer.cancel()

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit puts back in the queue; it takes short jobs that were preempted for late ones: Slurm knows.

        Raises:
            TimeoutError: its time is up.
        """
        from submitit.helpers import DelayedSubmission

        from labrun.launch.cluster_job import job_id, shown_job, why_signaled

        if why_signaled(signal.SIGUSR2, shown_job(job_id())) == "timeout":
            limit = "its partition's time limit" if self.timeout_min is None else f"timeout_min={self.timeout_min:g}"
            raise TimeoutError(f"ended by {limit}")
        return DelayedSubmission(self, *arguments)


def _result(job: Any, config: DictConfig, number: int, state: str | None) -> JobReturn:
    """What a job came to.

    Args:
        job: submitit's.
        config: its own.
        number: in the sweep.
        state: in which it ended without a result; None: it left one.
    """
    from labrun.launch.executor import check_own
    from labrun.launch.slurm_jobs import last_lines

    typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    overrides = [str(text) for text in typed]  # references to the environment stay references
    try:
        if state is not None:
            said = last_lines(job.paths.stderr)
            raise LabrunError(f"it ended without a result ({state})" + (f": {said}" if said else ""))
        for task in range(job.num_tasks):
            check_own(job.task(task).paths.result_pickle)
        returned: list[JobReturn] = job.results()
        result = next((one for one in returned if one.status == JobStatus.FAILED), returned[0])
    except Exception as error:  # noqa: BLE001 - a result may be anything; the others' must not be lost with it
        lines = [line for line in str(error).splitlines() if line.strip(" -")]
        trace = [line for line in lines if not line.strip().startswith(("You can check", "or at paths", "- "))]
        result = JobReturn()
        result.cfg, result.overrides = config, list(filter_overrides(overrides))
        result.hydra_cfg = None
        result.status = JobStatus.FAILED
        why = trace[-1].strip() if trace else type(error).__name__
        result.return_value = CompactHydraException(f"job {number} ({', '.join(overrides)}): {why}")
    how = "completed" if result.status == JobStatus.COMPLETED else "failed"
    log.info("#%d : %s  %s  (log: %s)", number, " ".join(overrides), how, job.paths.stdout)
    return result


def _executor(target: str, folder: Path, settings: dict[str, Any], modules: list[str]) -> Any:
    if target == "local":
        from labrun.launch.executor import LabrunExecutor

        executor = LabrunExecutor(folder)
        executor.imports_from_cwd = False  # as the application itself
        executor.update_parameters(
            timeout_min=settings["timeout_min"], mem_gb=settings["mem_gb"], cpus_per_task=settings["cpus_per_run"],
            gpus_per_node=settings["gpus_per_run"], max_parallel=settings["max_parallel"], modules=modules,
        )  # fmt: skip
        return executor
    from labrun.launch import compute, slurm
    from labrun.launch.cluster_call import CallExecutor
    from labrun.launch.executor import check_own

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_own(folder / "any")
    cluster = CallExecutor(folder=folder, max_num_timeout=REQUEUES)
    is_limited = settings["timeout_min"] is not None
    given = {
        "job_name": folder.parent.name, "signal_delay_s": LEAVING_S,
        "time": slurm.minutes_asked(settings, 1) if is_limited else int(compute.longest_min(settings)),
        "mem": None if settings["mem_gb"] is None else f"{round(1024 * settings['mem_gb'])}MB",
        "cpus_per_task": settings["cpus_per_run"], "gpus_per_node": settings["gpus_per_run"] or None,
        "nodes": settings["nodes"], "ntasks_per_node": settings["tasks_per_node"],
        "partition": settings["partition"], "account": settings["account"], "qos": settings["qos"],
        "array_parallelism": settings["max_parallel"] or 1000, "setup": settings["setup"] or None,
        "srun_args": [f"--cpus-per-task={settings['cpus_per_run']}", *settings["srun_args"]],
        "additional_parameters": compute.sbatch_options(settings["extra"]) or None,
    }  # fmt: skip
    cluster.update_parameters(**{key: value for key, value in given.items() if value is not None})
    return cluster


def _main_module(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The functions and classes of an application that is a single file, which is `__main__` here and nowhere else."""
    import cloudpickle

    if function.__module__ != "__main__":
        return None
    main = sys.modules["__main__"]
    found = {"__file__": getattr(main, "__file__", None)}
    for name, value in vars(main).items():
        if getattr(value, "__module__", None) == "__main__" and not name.startswith("__"):
            with suppress(Exception):  # what cannot be sent may not be needed
                cloudpickle.dumps(value)
                found[name] = value
    return found


def _modules(function: Callable[..., Any]) -> list[str]:
    """What the application has imported at its top, to be imported once: the rest of its calls find it there."""
    own = sys.modules.get(function.__module__)
    names = [] if own is None or function.__module__ == "__main__" else [function.__module__]
    for value in vars(own).values() if own is not None else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name not in ("__main__", "builtins") and name in sys.modules:
            names.append(name)
    return sorted(set(names))
