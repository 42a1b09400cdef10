"""Jobs of an application that knows nothing of labrun: any function under `@hydra.main`."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def launch_foreign(launcher: LabrunLauncher, composed: Sequence[DictConfig]) -> list[JobReturn]:
    """Run every job, in the pool, on Slurm or here; one that dies is a failed result, and the others go on."""
    settings = checked(launcher.settings)
    target = settings["target"]
    assert launcher.hydra_context is not None and launcher.task_function is not None
    context, function = launcher.hydra_context, launcher.task_function
    state = Singleton.get_state()
    if target == "inline":
        results = []
        for config in composed:
            results.append(run_one(context, function, config, state, False))
            Singleton.set_state(state)
        return results
    folder = Path(str(composed[0].hydra.sweep.dir)).resolve() / ".submitit"
    jobs: list[Any] = []
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from labrun.launch.slurm_jobs import refusal
    from labrun.runs.recording import terminating_politely

    try:
        executor = _executor(target, folder, settings, _modules(function))
        arguments = zip(*((context, function, config, state, True) for config in composed), strict=True)
        with terminating_politely(), _importable():
            jobs = executor.map_array(OneJob(settings["timeout_min"]), *arguments)
            pairs = enumerate(zip(jobs, composed, strict=True))
            return [_result(job, config, number) for number, (job, config) in pairs]
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel(check=False)
        raise
    except (FailedJobError, FailedSubmissionError) as error:
        raise CompactHydraException(f"labrun: {refusal(error)}") from error
    finally:
        if target == "local" and jobs:
            executor.close()


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
    problems = list(check_fields(given, Compute, "hydra.launcher"))
    if given["target"] not in ("local", "slurm", "inline"):
        problems.append(f"hydra.launcher.target={given['target']!r}: allowed are local, slurm and inline")
    if not problems:
        try:
            compute.check({**asdict(Compute(target="local")), **given}, sweep=True)
        except ConfigError as error:
            problems = [problem.replace("compute.", "hydra.launcher.", 1) for problem in error.problems]
    if problems:
        raise CompactHydraException("labrun: " + "\n".join(problems))
    return given


def run_one(context: Any, function: Callable[..., Any], config: DictConfig, state: Any, elsewhere: bool) -> JobReturn:
    """One job, as Hydra's own launchers run it."""
    if elsewhere:
        Singleton.set_state(state)
        setup_globals()
    HydraConfig.instance().set_config(config)
    result = run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if elsewhere and result.status == JobStatus.FAILED:
        error = result._return_value
        logging.getLogger(__name__).error("The job failed", exc_info=error)
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes: whether it survives the way back
        except Exception:  # noqa: BLE001 - exceptions may hold anything
            result.return_value = RuntimeError(f"{type(error).__name__}: {error}")
    return result


class OneJob:
    """`run_one`, which begins anew where a cluster took its place away.

    Args:
        timeout_min: how long it may take.
    """

    def __init__(self, timeout_min: float | None) -> None:
        self.timeout_min = timeout_min

    def __call__(self, *arguments: Any) -> JobReturn:
        return run_one(*arguments)

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
        job.wait()
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
        reason = (str(error).strip().splitlines() or ["?"])[0]
        result.return_value = RuntimeError(f"job {number} ({', '.join(overrides)}): {reason}")
    how = "completed" if result.status == JobStatus.COMPLETED else "failed"
    log.info("#%d : %s  %s  (log: %s)", number, " ".join(overrides), how, job.paths.stdout)
    return result


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


def _modules(function: Callable[..., Any]) -> list[str]:
    """What the application has imported at its top, to be imported once: the rest of its calls find it there."""
    own = sys.modules.get(function.__module__)
    names = [] if own is None or function.__module__ == "__main__" else [function.__module__]
    for value in vars(own).values() if own is not None else ():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name not in ("__main__", "builtins") and name in sys.modules:
            names.append(name)
    return sorted(set(names))
