"""The command `labrun`: Hydra's main, and the execution of an inline run. Wiring only."""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from labrun import garbage, version
from labrun.app import new
from labrun.app.command_line import check_encoding, check_flags, check_yaml, may_set_mode, open_standard_streams
from labrun.app.hydra_changes import (
    JobCallbacks,
    explain_hydra_error,
    leaving_keys_to_runs,
    with_job_callbacks,
    with_own_messages,
    without_asking_for_mode,
)
from labrun.app.preflight import Preflight as Preflight  # `paths.PREFLIGHT`, in recorded configs too, names it here
from labrun.app.preflight import tidy
from labrun.app.resolvers import register
from labrun.backends import registry
from labrun.compose import composed, hydra_files, hydra_job, paths
from labrun.config import hydra_versions, masking
from labrun.errors import LabrunError, RunFailedError
from labrun.runs import recording, store
from labrun.runs.record import QUEUED, Record, read_record
from labrun.submission import freeze, origin, publish
from labrun.submission.publish import publish_location
from labrun.user_errors import EXIT_CANCELED, UserErrors, for_terminal, show_traceback

log = logging.getLogger(__name__)
RUN_HERE = {"labrun.tasks.estimator", "labrun.tasks.networks.lightning"}
"""Modules that are loaded if this process has executed a run itself, and thus user code."""


def run(config: DictConfig) -> dict[str, Any]:
    """Execute one run, in this process unless `compute` says otherwise, and return its metrics."""
    try:
        with _where_it_was_typed(HydraConfig.get().runtime.cwd):
            return _run(config, HydraConfig.get())
    except SystemExit as end:
        if end.code not in (None, 0, EXIT_CANCELED):
            JobCallbacks.report_failure(end.__context__ or end)
        raise


@contextlib.contextmanager
def _where_it_was_typed(folder: str) -> Iterator[None]:
    """In the context, work in the folder where the command was typed; `hydra.job.chdir` makes Hydra leave it."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _run(config: DictConfig, hydra_config: Any) -> dict[str, Any]:
    run_dir = Path(hydra_config.runtime.output_dir)
    root = store.workspace()
    with UserErrors(), _taken_back(run_dir, hydra_config.output_subdir):
        suffix = run_dir.name.rsplit("-", 1)[-1]
        run_id = suffix if re.fullmatch("[0-9a-f]{8}", suffix) else origin.new_id()
        around = freeze.capture_provenance(root)
        files = hydra_files.texts(_whole(config))
        hydra_files.save_of_run(files, run_dir, hydra_config.output_subdir)
        with hydra_job.given_variables(config, hydra_config):
            record = freeze.freeze(config, run_id, composed.task_overrides(hydra_config), root, around)
            variables = freeze.environment(config)
        record.parent = record.parent or publish.parent()
        record.hydra = hydra_job.settings(hydra_config)
        record.command = hydra_files.command(hydra_config, record.overrides)
        if not registry.chosen(record.typed.compute, sweep=False).in_process:
            from labrun.submission import submit

            job = submit.FrozenJob(record, run_dir, files, variables, hydra_config.output_subdir)
            ended = submit.execute_jobs([job], run_dir)[0]
            submit.answer(ended, run_dir)
            return ended.metrics
        freeze.submit(record, run_dir)
        publish_location(run_dir)
        os.environ.update(variables)
        return execute_run(record, run_dir, root).metrics


@contextlib.contextmanager
def _taken_back(run_dir: Path, subfolder: str | None) -> Iterator[None]:
    """Remove Hydra's files from the run directory if the run is refused or interrupted in the context.

    If the record has been written already, close it, because nothing will ever start that run.
    """
    try:
        yield
    except (LabrunError, KeyboardInterrupt, SystemExit) as end:
        if not (run_dir / "run.json").exists():
            hydra_files.remove_of_run(run_dir, subfolder)
        elif not isinstance(end, LabrunError) and read_record(run_dir).status == QUEUED:
            from labrun.runs import finalize

            finalize.close_unstarted(run_dir)
        raise


def _whole(config: DictConfig) -> DictConfig:
    """Return the config together with its `hydra` node."""
    whole: Any = copy.deepcopy(HydraConfig.instance().cfg)
    with open_dict(whole), read_write(whole):
        whole.merge_with(config)
    assert isinstance(whole, DictConfig)
    return whole


def execute_run(record: Record, run_dir: Path, root: Path) -> Record:
    """Execute a submitted run in this process, and feed its tracker."""
    from labrun.backends import inline
    from labrun.execute import execute
    from labrun.tracking.feed import follow

    inline.limit_threads(record.typed.compute)  # before the feeder starts, which inherits the limits
    with follow(root, record.typed.tracking):
        try:
            with hydra_job.folder(record.hydra or {}, run_dir):
                return execute(run_dir)
        except KeyboardInterrupt:
            sys.stderr.write(f"labrun: canceled; the record is in {run_dir}\n")
            sys.exit(EXIT_CANCELED)
        except RunFailedError as error:
            sys.stderr.write(f"labrun: the run failed: {for_terminal(str(error))}\n  log: {run_dir / 'driver.log'}\n")
            sys.exit(1)
        except LabrunError:
            raise
        except (Exception, SystemExit) as error:
            if os.environ.get("LABRUN_DEBUG") == "1":
                raise
            reason = for_terminal(recording.first_line(error))
            sys.stderr.write(f"labrun: the run failed: {reason}\n  log: {run_dir / 'driver.log'}\n")
            sys.exit(1)


def main() -> None:
    """Run the command `labrun`."""
    if new.is_asked(sys.argv):
        new.main()
        return
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["LABRUN_DEBUG"] = os.environ["HYDRA_FULL_ERROR"] = "1"
    open_standard_streams()
    if "--version" in sys.argv[1:]:
        print(version.text())
        return
    logging.raiseExceptions = False  # `labrun ... | head`: the pipe may be closed while logging
    register()
    gc.freeze()  # everything loaded so far stays loaded, so the garbage collector can skip it
    garbage.exempt_libraries()
    try:
        check_encoding()
        check_flags(sys.argv[1:])
        with UserErrors():
            texts = check_yaml(sys.argv[1:])
        defaults = hydra_versions.current_defaults()
        command = hydra.main(config_path=str(paths.conf_dir()), config_name="config", **defaults)(run)
        asking = contextlib.nullcontext() if may_set_mode(sys.argv[1:], texts) else without_asking_for_mode()
        with asking, with_job_callbacks(), leaving_keys_to_runs(), masking.in_logs(), with_own_messages():
            command()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    except KeyboardInterrupt:
        sys.stderr.write("labrun: canceled before the run began\n")
        sys.exit(EXIT_CANCELED)
    except (HydraException, OmegaConfBaseException) as error:
        explain_hydra_error(error)
    except Exception as error:
        if os.environ.get("LABRUN_DEBUG") != "1":
            raise
        show_traceback(error)
    finally:
        tidy()
        if not RUN_HERE & set(sys.modules):
            gc.freeze()  # saves the garbage collection at exit
