"""Jobs of an application that knows nothing of labrun: any function under `@hydra.main`."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig

from labrun.errors import ConfigError, LabrunError

if TYPE_CHECKING:
    from hydra_plugins.labrun_launcher.launcher import LabrunLauncher

log = logging.getLogger(__name__)


def launch_foreign(launcher: LabrunLauncher, composed: Sequence[DictConfig]) -> list[JobReturn]:
    """Run every job, in the pool, on Slurm or here; one that dies is a failed result, and the others go on."""
    settings = dict(launcher.settings)
    target = settings.pop("target")
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
    executor = _executor(target, folder, settings, _modules(function))
    try:
        jobs = executor.map_array(
            run_one, *zip(*((context, function, config, state, True) for config in composed), strict=True)
        )
        return [_result(job, config, number) for number, (job, config) in enumerate(zip(jobs, composed, strict=True))]
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel(check=False)
        raise
    finally:
        if target == "local":
            executor.close()


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


def _result(job: Any, config: DictConfig, number: int) -> JobReturn:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    from labrun.launch.executor import check_own

    overrides = list(config.hydra.overrides.task)
    try:
        job.wait()
        if job.paths.result_pickle.exists():
            check_own(job.paths.result_pickle)
        result: JobReturn = job.result()
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
    if target != "slurm":
        raise ConfigError(f"hydra.launcher.target={target!r}: allowed are local, slurm and inline")
    from submitit import SlurmExecutor

    from labrun.launch import compute

    compute.partitions()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster = SlurmExecutor(folder=folder)
    given = {
        "time": None if settings["timeout_min"] is None else compute.whole_minutes(60 * settings["timeout_min"]),
        "mem": None if settings["mem_gb"] is None else f"{round(1024 * settings['mem_gb'])}MB",
        "cpus_per_task": settings["cpus_per_run"], "gpus_per_node": settings["gpus_per_run"] or None,
        "partition": settings["partition"], "array_parallelism": settings["max_parallel"] or 1000,
        "additional_parameters": dict(settings["extra"]) or None,
    }  # fmt: skip
    cluster.update_parameters(**{key: value for key, value in given.items() if value is not None or key == "time"})
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
