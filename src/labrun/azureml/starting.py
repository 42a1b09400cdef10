"""Start of runs without a script: `experiment.start_logging()`, and child runs started by a control script."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labrun.api import program
from labrun.azureml import kinds
from labrun.azureml.kinds import RunType
from labrun.compat.azureml import arguments
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training.children import ASSIGNED, DISPLAY_NAME
from labrun.compat.azureml.training.run import TYPE_TAG
from labrun.errors import ConfigError
from labrun.runs import child_list, context

if TYPE_CHECKING:
    from labrun.azureml.interactive import InteractiveRun
    from labrun.azureml.run import Run


def start(
    experiment: Any,
    outputs: Any = None,
    snapshot_directory: Any = ".",
    display_name: str | None = None,
    parent: Any = None,
    tags: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
) -> InteractiveRun:
    """Start a run that consists of this program.

    Args:
        experiment: the experiment.
        outputs: a folder whose files are copied into the run's `outputs` when the run ends; None or True: the files
            written to `./outputs` since the run's start; False: none.
        snapshot_directory: the folder whose code is stored with the run; None: no code.
        display_name: the run's display name.
        parent: the parent run's id.
        tags: tags of the run.
        properties: properties of the run.

    Raises:
        UserErrorException: labrun cannot start the run, for example because the folder does not exist.
    """
    shown = {DISPLAY_NAME: display_name} if display_name else {}
    code = None if snapshot_directory is None else os.fspath(snapshot_directory)
    try:
        work = program.start_run(experiment.name, {**(tags or {}), **shown}, parent, experiment.workspace.folder, code)
    except ConfigError as error:
        raise UserErrorException(f"start_logging: {error}") from error
    own = {str(key): str(value) for key, value in (properties or {}).items()}
    context.annotate(work.folder, properties={**own, TYPE_TAG: RunType.INTERACTIVE})
    run: InteractiveRun = kinds.wrapped(experiment, work, RunType.INTERACTIVE)
    if outputs is None or outputs is True:
        run._outputs = Path.cwd() / "outputs", (work.folder / "run.json").stat().st_mtime
    elif outputs is not False:
        run._outputs = Path(os.fsdecode(outputs)).expanduser().absolute(), 0.0
    return run


def child(
    run: Run, name: Any = None, run_id: Any = None, outputs: Any = None, tags: Mapping[str, Any] | None = None
) -> InteractiveRun:
    """Start a child run. The parent may have ended.

    Args:
        run: the parent.
        name: the child's display name.
        run_id: not used: labrun assigns the ids; a notice says so.
        outputs: a folder whose files are copied into the child's `outputs` when the child ends; see `start`.
        tags: tags of the child.

    Raises:
        UserErrorException: the parent is a sweep.
    """
    if run._is_sweep:
        raise UserErrorException("child_run: a sweep creates its own child runs")
    arguments.tell_unused("child_run", {"run_id": run_id}, ASSIGNED)
    made = start(run.experiment, outputs, None, None if name is None else str(name), run._work.id, tags)
    note(run, made)
    return made


def note(run: Run, made: Run) -> None:
    """Note a child run in its parent."""
    child_list.add(run.experiment.workspace.folder, run._folder, made._folder)
