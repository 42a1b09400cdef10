"""Execution of one job in its process: a call of the application's function, as by Hydra's own launchers."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from omegaconf import DictConfig

# A new instance executes Hydra's own plug-ins again and so replaces their classes, after which configs unpickled before
# cannot be pickled any more. So create the instance at once. The warm interpreter must not import this module.
Plugins.instance()


class JobExitError(RuntimeError):
    """The application's function has exited with an error code."""


@dataclass
class Ended(JobReturn):
    """Result of a job: Hydra's own, as expected by readers of `.submitit`, with a traceback."""

    trace: str = ""
    """Traceback of a failed job, starting at the application's function."""


def run_one(context: Any, function: Callable[..., Any], config: DictConfig) -> Ended:
    """Run one job in this process. If it fails, the result holds its error."""
    HydraConfig.instance().set_config(config)
    ended = Ended()
    result = run_job(
        hydra_context=context,
        task_function=_without_exit(function),
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    vars(ended).update(vars(result))
    if ended.status == JobStatus.FAILED:
        _drop_own_frame(ended._return_value)
        ended.trace = trace_of(ended._return_value)
    return ended


def restore(state: Any) -> None:
    """Set the state of Hydra's singletons, but keep the current plug-ins."""
    state["instances"][Plugins] = Plugins.instance()
    Singleton.set_state(state)


def _without_exit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that `sys.exit(0)` in it makes it return, and any other exit code makes it fail."""

    @functools.wraps(function, updated=())
    def called(config: DictConfig) -> Any:
        try:
            return function(config)
        except SystemExit as end:
            if end.code in (None, 0):
                return None
            raise JobExitError(f"sys.exit({end.code!r})").with_traceback(end.__traceback__) from None

    return called


def _drop_own_frame(error: BaseException) -> None:
    """Remove this module's frames from a traceback, because they say nothing about the application."""
    spot = error.__traceback__
    while spot is not None:
        while spot.tb_next is not None and spot.tb_next.tb_frame.f_code.co_filename == __file__:
            spot.tb_next = spot.tb_next.tb_next
        spot = spot.tb_next


def trace_of(error: BaseException) -> str:
    """Return a traceback as Hydra shows it: without Hydra's frames at the top and OmegaConf's at the bottom."""
    trace = traceback.TracebackException.from_exception(error)
    frames = list(trace.stack)
    start = max((place for place, one in enumerate(frames) if one.name in ("run_job", "_run_job")), default=-1)
    frames = frames[start + 1 :]
    inner = next((place for place, one in enumerate(frames) if f"{os.sep}omegaconf{os.sep}" in one.filename), None)
    kept = frames[:inner] or frames
    trace.stack = traceback.StackSummary.from_list(kept)
    return "".join(trace.format()).rstrip()


def run_in_process(payload: bytes) -> Ended:
    """Run one job in a process that has not loaded the application yet.

    Args:
        payload: a pickled tuple of the application's main module (or None), Hydra's context, the function, the job's
            config, and the state of Hydra's singletons.
    """
    from labrun.backends.local.call import let_workers_be_ended

    main, context, function, config, state = pickle.loads(payload)  # noqa: S301 - part of submitit's pickle, which was checked
    if main is not None:
        main.restore()
    restore(state)
    setup_globals()
    let_workers_be_ended()
    # submitit has its own handler; its lines must not mix with the application's.
    logging.getLogger("submitit").propagate = False
    ended = run_one(context, function, config)
    if ended.status == JobStatus.FAILED:
        error = ended._return_value
        logging.getLogger(__name__).error("The job failed\n%s", ended.trace)
        if not _survives(error):
            ended.return_value = RuntimeError(f"{type(error).__name__}: {error}")
    elif not _survives(ended._return_value):
        kind = type(ended._return_value).__name__
        logging.getLogger(__name__).warning("The job's result, a %s, cannot be passed on; None replaces it", kind)
        ended.return_value = None
    return ended


def _survives(value: Any) -> bool:
    """Whether a value can be sent back by pickling: exceptions and results may hold anything."""
    import cloudpickle

    try:
        cloudpickle.loads(cloudpickle.dumps(value))  # bytes made here, so safe to load
    except Exception:  # noqa: BLE001
        return False
    return True
