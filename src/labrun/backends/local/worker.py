"""The work of the fork server and its children: import modules, limit threads, execute a run."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labrun import execute
from labrun.backends.local.threads import limit_run, own_variables
from labrun.config import instantiate, masking, schema
from labrun.config.instantiate import Node
from labrun.config.references import references, resolve_environment
from labrun.data import shared_cache
from labrun.data.mount import local_root
from labrun.errors import ConfigError, LabrunError
from labrun.runs import peer_errors
from labrun.runs.record import Record, read_record
from labrun.runs.recording import Preempted
from labrun.runs.sweep_state import WITH_HYDRA
from labrun.tasks import deferral
from labrun.tasks.threads import wait_asleep

if TYPE_CHECKING:
    from labrun.backends.local.messages import GatherTask, RunTask


def preload(targets: Sequence[str]) -> None:
    """Import the modules that runs of these targets need. Compute nothing, because threads do not survive a fork.

    A target that cannot be imported, or whose module exits, is left to its run, which reports the error.
    """
    models, reads = [], False
    deferral.install()
    if targets:
        import labrun.compose.hydra_job  # wraps each run but plain scripts
    for name in targets:
        with contextlib.suppress(ConfigError, SystemExit, KeyboardInterrupt):
            target = instantiate.locate(name, "model")
            instantiate.signature(target)
            if name == WITH_HYDRA or _is_file_system(target):
                continue
            from labrun.data.reader import Reader

            reads = True
            if isinstance(target, type) and issubclass(target, Reader):
                target.warm()
            elif not schema.has_loaders({"_target_": name}):  # a data module is no estimator
                models.append(target)
    import psutil  # noqa: F401 - each run records its process

    import labrun.tasks.kinds
    import labrun.tasks.script.registering
    import labrun.tasks.script.script
    import labrun.tasks.summary

    if reads:
        import labrun.tasks.evaluating
    torch = sys.modules.get("torch")
    networks = [torch is not None and isinstance(m, type) and issubclass(m, torch.nn.Module) for m in models]
    if torch is not None:
        import labrun.tasks.networks.lightning  # noqa: F401
    if not all(networks):
        from labrun.tasks import estimator

        estimator.warm()


def _is_file_system(target: object) -> bool:
    """Return whether a target is a file system of fsspec, which a remote datastore needs."""
    return isinstance(target, type) and any(base.__module__.startswith("fsspec.") for base in target.__mro__)


def hold(data: Mapping[str, Node]) -> None:
    """Read a data set for the runs that will be forked from this process.

    Args:
        data: the nodes `dataset` and `datastore` of their config.

    Raises:
        DataError, ConfigError: the data cannot be read.
    """
    if schema.has_loaders(data["dataset"]):
        return
    config = schema.Config(resolve_environment(data))
    root = local_root(config.datastore, config.dataset)
    if root is not None and not any(references(config.dataset)):
        shared_cache.hold(config.dataset, root)


def run_task(message: RunTask | GatherTask) -> int:
    """Execute the message sent to a forked process of the pool. Return the exit code."""
    set_before = os.environ.get("OMP_NUM_THREADS")
    os.environ.update(message["environment"])
    limit_run(message["threads"], message["environment"], set_before)
    if "gather" in message:
        return gather(message["run"], message["gather"])
    if message["rank"]:
        return assist(message["run"], message["threads"])
    if message["ranks"] > 1:
        peer_errors.note_log_sizes(Path(message["run"]))
    return run(message["run"], message["pictures"])


def run(run_dir: str, pictures: bool) -> int:
    """Execute one run. Return the exit code: 0 completed, 1 failed, 130 canceled; the record holds the details.

    The pool forces the record to disk later, when the next run already has this one's slot.
    """
    return _reported(
        lambda: execute.execute(Path(run_dir), capture=False, pictures=pictures, to_disk=False, around=_around)
    )


def _around(record: Record, run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Provide Hydra's job features to a run that can use them."""
    if not record.needs_hydra:
        return contextlib.nullcontext()
    from labrun.compose import hydra_job

    return hydra_job.around(record, run_dir)


def assist(run_dir: str, threads: int) -> int:
    """Train as a further process of a run with several processes. Return the exit code."""
    wait_asleep()
    record = read_record(run_dir)
    limit_run(threads, own_variables(record.typed.compute))

    def work() -> None:
        with _as_its_job(Path(run_dir)):
            execute.assist(Path(run_dir))

    return _reported(work)


def gather(run_dir: str, file: str) -> int:
    """Write the data for a finished run's pictures to a file. Return the exit code: 0, or 1 with the reason logged."""

    def work() -> None:
        with _as_its_job(Path(run_dir)):
            execute.pictures_of(Path(run_dir)).save(Path(file))

    return _reported(work)


def _as_its_job(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Provide the job config and the working folder of a run: to its further ranks, and to its model afterwards."""
    record = read_record(run_dir)
    if not record.needs_hydra:
        return contextlib.nullcontext()
    from labrun.compose import hydra_job

    return hydra_job.along(record, run_dir)


def draw_quietly(run_dir: Path) -> bool:
    """Draw a finished run's pictures in this process, without progress messages. Return whether that succeeded."""
    ours = logging.getLogger("labrun")
    before = ours.level
    ours.setLevel(logging.WARNING)
    try:
        with _as_its_job(run_dir):
            execute.redraw(run_dir)
    finally:
        ours.setLevel(before)
    return True


def _reported(work: Callable[[], object]) -> int:
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    try:
        work()
        return 0
    except KeyboardInterrupt:
        return 130
    except Preempted:
        return 0
    except LabrunError as error:
        sys.stderr.write(f"labrun: {masking.masked(str(error))}\n")
        return 1
    except BaseException:  # noqa: BLE001 - recorded; a forked process must not return into the server's code
        sys.stderr.write(masking.masked(traceback.format_exc()))
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
