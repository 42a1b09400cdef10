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
from contextlib import contextmanager, suppress
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
                with _importable():
                    one = OneJob(settings["timeout_min"] if target == "slurm" else None)
                    jobs = _submitted(executor, one, arguments)
                found = {}
                for place, job in _as_they_end(jobs, RESULT_S if target == "slurm" else 0.0):
                    found[place] = _result(job, composed[place], first + place)
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


def _submitted(executor: Any, one: OneJob, arguments: Any) -> list[Any]:
    try:
        return list(executor.map_array(one, *arguments))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CompactHydraException(
            f"labrun: the application cannot be sent to another process ({type(error).__name__}: {error}): a function "
            "of it uses an object that cannot be pickled; hydra.launcher.target=inline runs the jobs in this process"
        ) from error


def _as_they_end(jobs: Sequence[Any], patience_s: float) -> Iterator[tuple[int, Any]]:
    """Jobs and their places, each once it has ended; one without a result that much later, for slow file systems."""
    waiting, missing = dict(enumerate(jobs)), dict[int, float]()
    while waiting:
        for place, job in list(waiting.items()):
            if not job.done():
                continue
            tasks = [job.task(task) for task in range(job.num_tasks)]
            if not all(task.paths.result_pickle.exists() for task in tasks):
                if time.monotonic() - missing.setdefault(place, time.monotonic()) < patience_s:
                    continue
                for task in tasks:
                    task._results_timeout_s = 0
            del waiting[place]
            yield place, job
        time.sleep(0.5 if patience_s else 0.02)


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
    if own is not None:
        sys.modules["__main__"] = ModuleType("__main__")
        vars(sys.modules["__main__"]).update(own)
    Singleton.set_state(state)
    setup_globals()
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


class OneJob:
    """`run_elsewhere`, which begins anew where a cluster took its place away.

    Args:
        timeout_min: how long it may take, if a cluster is to hold it to that.
    """

    def __init__(self, timeout_min: float | None) -> None:
        self.timeout_min = timeout_min

    def __call__(self, *arguments: Any) -> JobReturn:
        if self.timeout_min is None:
            return run_elsewhere(*arguments)
        # Slurm's own warning comes with a minute's tolerance.
        timer = threading.Timer(60 * self.timeout_min, os.kill, (os.getpid(), signal.SIGUSR2))
        timer.daemon = True
        timer.start()
        try:
            return run_elsewhere(*arguments)
        finally:
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


def _result(job: Any, config: DictConfig, number: int) -> JobReturn:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    from labrun.launch.executor import check_own

    overrides = list(config.hydra.overrides.task)
    try:
        for file in (job.task(task).paths.result_pickle for task in range(job.num_tasks)):
            if file.exists():
                check_own(file)
        returned: list[JobReturn] = job.results()
        result = next((one for one in returned if one.status == JobStatus.FAILED), returned[0])
    except (FailedJobError, UncompletedJobError, LabrunError) as error:
        result = JobReturn()
        result.cfg, result.overrides = config, list(filter_overrides(overrides))
        result.hydra_cfg = None
        result.status = JobStatus.FAILED
        result.return_value = RuntimeError(f"job {number} ({', '.join(overrides)}): {_reason(error)}")
    how = "completed" if result.status == JobStatus.COMPLETED else "failed"
    log.info("#%d : %s  %s  (log: %s)", number, " ".join(overrides), how, job.paths.stdout)
    return result


def _reason(error: Exception) -> str:
    """What submitit tells in many lines: the state of a job without a result, and the last of what it printed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    state = next((line for line in lines if "(state: " in line), None)
    if state is None:
        trace = [line for line in lines if not line.startswith(("You can check", "or at paths", "- "))]
        return trace[-1] if trace else "?"
    return f"it {state}" + (f": {lines[-1]}" if lines[-1] != state and "Check: " not in lines[-1] else "")


def _executor(target: str, folder: Path, settings: dict[str, Any], modules: list[str]) -> Any:
    if target == "local":
        from labrun.launch.executor import LabrunExecutor

        executor = LabrunExecutor(folder)
        executor.update_parameters(
            timeout_min=settings["timeout_min"], mem_gb=settings["mem_gb"], cpus_per_task=settings["cpus_per_run"],
            gpus_per_node=settings["gpus_per_run"], max_parallel=settings["max_parallel"], modules=modules,
        )  # fmt: skip
        return executor
    from submitit import SlurmExecutor

    from labrun.launch import compute, slurm
    from labrun.launch.executor import check_own

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_own(folder / "any")
    cluster = SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
    is_limited = settings["timeout_min"] is not None
    given = {
        "job_name": folder.parent.name, "signal_delay_s": slurm.signal_delay_s(settings),
        "time": slurm.minutes_asked(settings, 1) if is_limited else int(compute.longest_min(settings)),
        "mem": None if settings["mem_gb"] is None else f"{round(1024 * settings['mem_gb'])}MB",
        "cpus_per_task": settings["cpus_per_run"], "gpus_per_node": settings["gpus_per_run"] or None,
        "nodes": settings["nodes"], "ntasks_per_node": settings["tasks_per_node"],
        "partition": settings["partition"], "account": settings["account"], "qos": settings["qos"],
        "array_parallelism": settings["max_parallel"] or 1000, "setup": settings["setup"] or None,
        "srun_args": [f"--cpus-per-task={settings['cpus_per_run']}", *settings["srun_args"]],
        "additional_parameters": dict(settings["extra"]) or None,
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
