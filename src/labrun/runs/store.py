"""Finds and lists the runs of a workspace. Needs no server and no lock."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from labrun import messages
from labrun.config import checking
from labrun.errors import RecordError
from labrun.runs import comparable, custom_locations, direction, index, sdk_ids
from labrun.runs.direction import Direction
from labrun.runs.record import COMPLETED, Record, read_record
from labrun.runs.sweep_state import Plan
from labrun.runs.workspace import Workspace

log = logging.getLogger(__name__)

ROOT_VARIABLE = "LABRUN_ROOT"
RUN_FOLDERS = ("outputs", "multirun")
"""Folders of a workspace that hold runs."""
IGNORE = "# Written by labrun: runs are not code.\n*\n"


def workspace() -> Path:
    """Return the folder that holds `outputs/` and `multirun/`: LABRUN_ROOT, or the current folder."""
    return Path(os.environ.get(ROOT_VARIABLE) or os.getcwd()).resolve()


def workspace_here() -> Path:
    """Return the workspace of this process: in a script's run, the run's; otherwise `workspace()`."""
    inside = os.environ.get("LABRUN_WORKSPACE")
    return Path(inside).resolve() if inside else workspace()


def above(folder: Path) -> Path | None:
    """Return the nearest workspace above a folder, or None if there is none or the folder is itself a workspace."""
    if any((folder / name).is_dir() for name in RUN_FOLDERS) and not custom_locations.is_of_runs(folder):
        return None
    return next((one for one in folder.parents if Workspace(one).state.is_dir()), None)


def keep_out_of_git(root: Path) -> None:
    """Make git ignore `outputs/` and `multirun/`, each only if it holds nothing but folders."""
    for folder in (root / name for name in RUN_FOLDERS):
        with contextlib.suppress(OSError):
            if (folder / ".gitignore").exists():
                continue
            if folder.is_dir() and all(entry.is_dir() for entry in folder.iterdir()):
                (folder / ".gitignore").write_text(IGNORE, encoding="utf-8")


def environment_folder(digest: str) -> Path:
    """Return the folder of a script's environment. The log of its creation is next to it, with the suffix `.log`.

    Raises:
        RecordError: the argument is not a digest.
    """
    if not checking.is_sha256(digest):
        raise RecordError(f"{digest!r:.80} is not a digest of an environment: those have 64 hexadecimal digits")
    return Workspace(workspace()).environments / digest


def run_dirs(root: Path) -> Iterator[Path]:
    """Yield every run directory of a workspace, in no particular order."""
    for folder, _ in index.scan(root):
        yield Path(folder)


def note(folder: Path, runs: Sequence[str]) -> None:
    """Remember the location of newly submitted runs; see `custom_locations.note`."""
    root = workspace()
    custom_locations.note(root, folder.resolve(), runs)


def runs(root: Path) -> Iterator[tuple[Path, Record]]:
    """Yield every run of a workspace with its full record; damaged records are skipped."""
    for run_dir in run_dirs(root):
        try:
            yield run_dir, read_record(run_dir)
        except RecordError:
            continue


def listing(root: Path) -> index.Listing:
    """Return every run of a workspace from the index, whose records have no configs."""
    return index.listing(root)


def parse_metric(text: str, found: Iterable[Record]) -> tuple[str, Direction | None]:
    """Return the metric that the user gave and its direction, or None where the direction is unknown.

    An explicit direction (`NAME:max`, `NAME:min`) takes precedence, then the runs' configs, then the metric's name.

    Args:
        text: the metric, with or without a direction.
        found: the runs to compare.
    """
    records_of, (name, _, said) = list(found), text.rpartition(":")
    if name and said in DIRECTIONS and not any(text in record.metrics for record in records_of):
        return name, DIRECTIONS[said]
    known = {
        DIRECTIONS.get(str(record.directions.get(text)), direction.of(text))
        for record in records_of
        if text in record.metrics
    }
    return text, known.pop() if len(known) == 1 else None


DIRECTIONS: Mapping[str, Direction] = {direction.MAX: direction.MAX, direction.MIN: direction.MIN}


def score(record: Record, metric: str, wanted: Direction) -> float:
    """Return a run's value of a metric as a score: higher is better, and -inf if it has no finite value."""
    value = record.metrics.get(metric)
    if not checking.is_number(value):
        return -math.inf
    return float(value) if wanted == direction.MAX else -value


BEST = "best:"


def find(
    root: Path,
    reference: str,
    suitable: Callable[[Path, Record], bool] = lambda run_dir, record: True,
    wanted: str = "a run",
) -> tuple[Path, Record]:
    """Find the run that a reference denotes.

    Args:
        root: the workspace.
        reference: `last`, `best:METRIC` (`best:METRIC:min`), a prefix of an ID, a run's folder, or the ID of a search's
            run in the form of Azure's SDK.
        suitable: filter for the candidates; receives a record without its config.
        wanted: description of suitable runs, for messages.

    Raises:
        RecordError: no run, or more than one, matches.
    """
    reference = resolve_sdk_id(root, reference)
    for folder in (Path(reference).expanduser(), root / reference):
        if os.path.isfile(folder / "run.json"):
            return _suitable(folder.resolve(), read_record(folder), suitable, wanted)
    found = sorted(listing(root).runs, key=lambda pair: pair[1].created)
    if reference == "last":
        matches = [pair for pair in found if suitable(*pair)][-1:]
        if not matches:
            raise RecordError(f"there is no {wanted.removeprefix('a ')} yet in {root}/outputs or {root}/multirun")
    elif reference.startswith(BEST):
        matches = [best(found, reference.removeprefix(BEST), suitable, root)]
    else:
        matches = [pair for pair in found if reference and pair[1].id.startswith(reference)]
    if not matches:
        recent = ", ".join(pair[1].id for pair in found[-3:][::-1]) or "none"
        raise RecordError(
            f"no run is called {reference!r} in {root}: give 'last', 'best:METRIC', the beginning of a run's id, or "
            f"its folder. The newest ids: {recent}"
        )
    if len(matches) > 1:
        ids = ", ".join(record.id for _, record in matches[:10]) + (", ..." if len(matches) > 10 else "")
        raise RecordError(f"{reference!r} is the beginning of {len(matches)} ids: {ids}")
    run_dir = matches[0][0]
    return _suitable(run_dir, read_record(run_dir), suitable, wanted)


def resolve_sdk_id(root: Path, reference: str) -> str:
    """Resolve an ID in the form of Azure's SDK to the folder of its search or run; return any other reference as is."""
    found = sdk_ids.parts(reference)
    if found is None:
        return reference
    search, number = found
    folder = next((path for path in (root / "multirun").glob(f"*/*-{search}") if path.is_dir()), None)
    if number is None:
        return reference if folder is None else str(folder)
    if folder is not None and os.path.isfile(folder / str(number) / "run.json"):
        return str(folder / str(number))
    for run_dir, record in listing(root).runs:
        sweep = record.sweep
        if sweep is not None and sweep.number == number and str(sweep.folder).endswith(f"-{search}"):
            return str(run_dir)
    return reference


def best(
    found: Sequence[tuple[Path, Record]], metric: str, suitable: Callable[[Path, Record], bool], root: Path
) -> tuple[Path, Record]:
    """Return the completed run with the best value of a metric, the oldest of several.

    Raises:
        RecordError: no completed run has a finite value of the metric, or the metric's direction is unknown.
    """
    completed = [pair for pair in found if pair[1].status == COMPLETED and suitable(*pair)]
    metric, wanted = parse_metric(metric, [record for _, record in completed])
    ranked = [pair for pair in completed if score(pair[1], metric, direction.MAX) > -math.inf]
    if not ranked:
        names = sorted({name for _, record in completed for name in record.metrics})
        if metric in names:
            raise RecordError(f"{BEST}{metric}: no completed run in {root} has a finite value of it")
        raise RecordError(
            f"{BEST}{metric}: no completed run in {root} has a metric of that name.{messages.suggest(metric, names)} "
            f"Metrics there: {', '.join(names) or 'none'}"
        )
    if wanted is None:
        raise RecordError(unknown_direction_message(metric, BEST))
    if (why := comparable.mixture([record for _, record in ranked], metric)) is not None:
        log.warning("%s%s: %s", BEST, metric, why)
    return max(ranked, key=lambda pair: score(pair[1], metric, wanted))


def unknown_direction_message(metric: str, before: str = "") -> str:
    """Return the error message for a metric whose direction is unknown."""
    return (
        f"{before}{metric}: neither its name nor the runs say whether higher or lower is better. Write "
        f"{before}{metric}:max or {before}{metric}:min (runs remember trainer.monitor_mode=min|max and "
        "sweep.goal=minimize|maximize)"
    )


def _suitable(
    run_dir: Path, record: Record, suitable: Callable[[Path, Record], bool], wanted: str
) -> tuple[Path, Record]:
    if not suitable(run_dir, record):
        raise RecordError(f"run {record.id} in {run_dir} is not {wanted}")
    return run_dir, record


def of_plan(folder: Path, plan: Plan) -> list[tuple[Path, Record]]:
    """Return a plan's runs with a readable record; missing and damaged records are skipped with a warning.

    Args:
        folder: the plan's folder.
        plan: the plan.
    """
    return readable([(folder / name).resolve() for name in plan.runs])


def dirs_of_plan(folder: Path, plan: Plan) -> list[Path]:
    """Return the folders of the runs that `of_plan` returns."""
    return [run_dir for run_dir, _ in of_plan(folder, plan)]


def readable(run_dirs: Sequence[Path]) -> list[tuple[Path, Record]]:
    """Return the runs with a readable record; missing and damaged records are skipped with a warning."""
    found, gone = [], []
    for run_dir in run_dirs:
        try:
            found.append((run_dir, read_record(run_dir)))
        except RecordError as error:
            if os.path.exists(run_dir / "run.json"):  # False too of a name that no file can have
                log.warning("Left out: %s", error)
            else:
                gone.append(run_dir)
    if gone:
        more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
        log.warning("Left out: %s holds no run.json, so it is not a run's folder%s", gone[0], more)
    return found
