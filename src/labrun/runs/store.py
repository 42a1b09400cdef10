"""Reading the runs of a workspace: find one, list all. Needs no server and no lock."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from labrun import checking
from labrun.errors import RecordError
from labrun.runs import elsewhere, index
from labrun.runs import record as records
from labrun.runs.record import Record

log = logging.getLogger(__name__)

ROOT_VARIABLE = "LABRUN_ROOT"


def workspace() -> Path:
    """The folder that holds `outputs/` and `multirun/`: LABRUN_ROOT, or the current one."""
    return Path(os.environ.get(ROOT_VARIABLE) or os.getcwd()).resolve()


def state_folder(root: Path) -> Path:
    """Where labrun keeps what is its own: code snapshots, caches, MLflow's database."""
    return root / "outputs" / ".labrun"


def environment_folder(digest: str) -> Path:
    """Where a script's environment lies; the log of its making beside it, as `.log`.

    Raises:
        RecordError: that is no digest.
    """
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise RecordError(f"{digest!r:.80} is no digest of an environment: those have 64 hexadecimal digits")
    return state_folder(workspace()) / "environments" / digest


def run_dirs(root: Path) -> Iterator[Path]:
    """Every run directory of a workspace, in no order."""
    for folder, _ in index.scan(root, state_folder(root)):
        yield Path(folder)


def note(folder: Path, runs: Sequence[str]) -> None:
    """Remember where runs lie that were just submitted; see `elsewhere.note`."""
    root = workspace()
    elsewhere.note(root, state_folder(root), folder.resolve(), runs)


def runs(root: Path) -> Iterator[tuple[Path, Record]]:
    """Every readable run of a workspace, its record whole; a damaged record is left out."""
    for run_dir in run_dirs(root):
        try:
            yield run_dir, records.read(run_dir)
        except RecordError:
            continue


def listing(root: Path) -> index.Listing:
    """Every run of a workspace, from the index: records without their configs."""
    return index.listing(root, state_folder(root))


SMALL = re.compile(r"(^|[_ ./])(loss|error|errors|err|mse|rmse|mae|perplexity|regret|latency|seconds)($|[_ ./])", re.I)
"""Metrics with such a word in their name are to be small, unless they begin with `neg_`."""


def is_to_be_small(metric: str) -> bool:
    """Whether less of a metric is better, by its name."""
    return SMALL.search(metric) is not None and not metric.startswith("neg_")


def score(record: Record, metric: str) -> float:
    """A run's value of a metric as a score: more is better; worst of all where it has none."""
    value = record.metrics.get(metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return -math.inf
    return -value if is_to_be_small(metric) else float(value)


BEST = "best:"


def find(
    root: Path,
    reference: str,
    suitable: Callable[[Path, Record], bool] = lambda run_dir, record: True,
    wanted: str = "a run",
) -> tuple[Path, Record]:
    """The run that a person names.

    Args:
        root: the workspace.
        reference: `last`, `best:METRIC`, the beginning of an id, or a run's folder.
        suitable: which runs can be meant; told a record without its config.
        wanted: what those are, for messages.

    Raises:
        RecordError: no run, or more than one, goes by that name.
    """
    for folder in (Path(reference).expanduser(), root / reference):
        if os.path.isfile(folder / "run.json"):
            return _suitable(folder.resolve(), records.read(folder), suitable, wanted)
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
    return _suitable(run_dir, records.read(run_dir), suitable, wanted)


def best(
    found: Sequence[tuple[Path, Record]], metric: str, suitable: Callable[[Path, Record], bool], root: Path
) -> tuple[Path, Record]:
    """The completed run with the best value of a metric; of equal ones the oldest.

    Raises:
        RecordError: no completed run has that metric.
    """
    completed = [pair for pair in found if pair[1].status == records.COMPLETED and suitable(*pair)]
    ranked = [pair for pair in completed if score(pair[1], metric) > -math.inf]
    if not ranked:
        names = sorted({name for _, record in completed for name in record.metrics})
        if metric in names:
            raise RecordError(f"{BEST}{metric}: no completed run in {root} has a finite value of it")
        raise RecordError(
            f"{BEST}{metric}: no completed run in {root} has a metric of that name.{checking.suggest(metric, names)} "
            f"Metrics there: {', '.join(names) or 'none'}"
        )
    return max(ranked, key=lambda pair: score(pair[1], metric))


def _suitable(
    run_dir: Path, record: Record, suitable: Callable[[Path, Record], bool], wanted: str
) -> tuple[Path, Record]:
    if not suitable(run_dir, record):
        raise RecordError(f"run {record.id} in {run_dir} is not {wanted}")
    return run_dir, record


def readable(run_dirs: Sequence[Path]) -> list[tuple[Path, Record]]:
    """The runs whose record can be read, with it; what is gone or damaged is told and left out."""
    found, gone = [], []
    for run_dir in run_dirs:
        try:
            found.append((run_dir, records.read(run_dir)))
        except RecordError as error:
            if os.path.exists(run_dir / "run.json"):  # False too of a name that no file can have
                log.warning("Left out: %s", error)
            else:
                gone.append(run_dir)
    if gone:
        more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
        log.warning("Left out: %s holds no run.json, so it is not a run's folder%s", gone[0], more)
    return found
