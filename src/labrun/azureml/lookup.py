"""Look-up of labrun's runs and sweeps: by id, by experiment, below another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labrun.api import functions, handles
from labrun.compat.azureml.exceptions import UserErrorException
from labrun.compat.azureml.training import children
from labrun.errors import LabrunError


def find(root: Path, run_id: str | None) -> Any:
    """Return labrun's run or sweep with this id.

    Args:
        root: the workspace's folder.
        run_id: the id, in labrun's form or the SDK's.

    Raises:
        UserErrorException: the id is missing or unknown.
    """
    if not run_id:
        raise UserErrorException("Run(experiment, run_id): give the id of a run; `lab runs` lists them")
    try:
        return functions.get_run(run_id, root=root)
    except LabrunError as error:
        sweep = next((path for path in (root / "multirun").glob(f"*/*-{run_id}") if path.is_dir()), None)
        if sweep is not None:
            return handles.Sweep(sweep)
        raise UserErrorException(f"Run {run_id!r}: {error}") from error


def runs_of(root: Path, name: str | None, include_children: bool = False) -> list[Any]:
    """Return the runs and sweeps of an experiment, newest first.

    Args:
        root: the workspace's folder.
        name: the experiment's name; None: all experiments.
        include_children: include runs and sweeps that belong to a sweep or to another run.
    """
    found: dict[Any, Any] = {}
    for run in functions.runs(root=root):
        if name not in (None, run.name):
            continue
        parent = _parent_of(run)
        if include_children or parent is None:
            found.setdefault(run.folder, run)
        if isinstance(parent, handles.Sweep) and (include_children or _parent_of(parent) is None):
            found.setdefault(parent.folder, parent)
    return list(found.values())


def _parent_of(work: Any) -> Any:
    """Return the parent sweep or run; None if there is none or it has been removed."""
    try:
        return work.parent
    except LabrunError:
        return None


def below(root: Path, run: handles.Run) -> list[Any]:
    """Return the child runs and sweeps of a run, oldest first: those whose records name it and those noted in it."""
    found: dict[Path, Any] = {work.folder: work for work in run.get_children()}
    for folder in children.folders(root, run.folder):
        found.setdefault(folder.resolve(), None)
    return sorted((work or functions.get_run(folder) for folder, work in found.items()), key=_created)


def _created(work: Any) -> tuple[str, str]:
    """Return the creation time of a run or of a sweep's first run, with the folder name to break ties."""
    runs = work.get_children() if isinstance(work, handles.Sweep) else [work]
    return min((str(run.record.created) for run in runs), default=""), work.folder.name
