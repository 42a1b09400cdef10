"""Reading the runs of a workspace: find one, list all. Needs no server and no lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from labrun.errors import RecordError
from labrun.runs import record as records
from labrun.runs.record import Record

ROOT_VARIABLE = "LABRUN_ROOT"


def workspace() -> Path:
    """The folder that holds `outputs/` and `multirun/`: LABRUN_ROOT, or the current one."""
    return Path(os.environ.get(ROOT_VARIABLE) or os.getcwd()).resolve()


def state_folder(root: Path) -> Path:
    """Where labrun keeps what is its own: code snapshots, caches, MLflow's database."""
    return root / "outputs" / ".labrun"


def run_dirs(root: Path) -> Iterator[Path]:
    """Every run directory of a workspace, in no order."""
    for pattern in ("outputs/*/*/run.json", "multirun/*/*/*/run.json"):
        for path in root.glob(pattern):
            yield path.parent


def runs(root: Path) -> Iterator[tuple[Path, Record]]:
    """Every readable run of a workspace; a damaged record is left out."""
    for run_dir in run_dirs(root):
        try:
            yield run_dir, records.read(run_dir)
        except RecordError:
            continue


def find(
    root: Path,
    reference: str,
    suitable: Callable[[Path, Record], bool] = lambda run_dir, record: True,
    wanted: str = "a run",
) -> tuple[Path, Record]:
    """The run that a person names.

    Args:
        root: the workspace.
        reference: `last`, the beginning of an id, or a run's folder.
        suitable: which runs can be meant.
        wanted: what those are, for messages.

    Raises:
        RecordError: no run, or more than one, goes by that name.
    """
    for folder in (Path(reference).expanduser(), root / reference):
        if (folder / "run.json").is_file():
            matches = [(folder.resolve(), records.read(folder))]
            break
    else:
        found = sorted(runs(root), key=lambda pair: pair[1].created)
        if reference == "last":
            matches = [pair for pair in found if suitable(*pair)][-1:]
            if not matches:
                raise RecordError(f"there is no {wanted.removeprefix('a ')} yet in {root}/outputs or {root}/multirun")
        else:
            matches = [pair for pair in found if pair[1].id.startswith(reference)]
    if not matches:
        recent = ", ".join(pair[1].id for pair in found[-3:][::-1]) or "none"
        raise RecordError(
            f"no run is called {reference!r} in {root}: give 'last', the beginning of a run's id, or its folder. "
            f"The newest ids: {recent}"
        )
    if len(matches) > 1:
        ids = ", ".join(record.id for _, record in matches)
        raise RecordError(f"{reference!r} is the beginning of {len(matches)} ids: {ids}")
    if not suitable(*matches[0]):
        raise RecordError(f"run {matches[0][1].id} in {matches[0][0]} is not {wanted}")
    return matches[0]
