"""Results of a sweep: a table (best run first), `results.csv`, and the best run's pictures.

If a setting has several seeds, also a table of means and `results_over_seed.csv`.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from labrun import terminal
from labrun.control import objective
from labrun.errors import LabrunError
from labrun.report import aggregation, formatting
from labrun.runs import comparable, store
from labrun.runs.record import Record

log = logging.getLogger(__name__)


def print_summary(
    folder: Path,
    run_dirs: Sequence[Path],
    draw: Callable[[Path], object] | None,
    wanted: objective.Objective | None = None,
) -> list[Record]:
    """Print the table, write the CSV file, and draw the best run's pictures.

    Args:
        folder: the folder of the sweep, or of a single run, which gets no table.
        run_dirs: the runs, in order.
        draw: draws one run's pictures (`Executor.draw`); None: no pictures.
        wanted: the objective by which they are compared; None: their common one.

    Returns:
        The records.
    """
    there = store.readable(run_dirs)
    run_dirs, finished = [run_dir for run_dir, _ in there], [record for _, record in there]
    if not finished or finished[0].sweep is None:
        return finished
    wanted = wanted or objective.common(finished)
    order = sorted(range(len(finished)), key=lambda i: -objective.rank(finished[i], wanted))
    by = wanted.metric
    overrides, common = formatting.differing([record.overrides for record in finished])
    rows = [("run", f"status      {by:<8}  overrides")]
    rows += [_row(run_dirs[place], finished[place], by, overrides[place]) for place in order]
    rows += [("all", f"{'':<10}  {'':<{max(8, len(by))}}  {' '.join(common)}")] if common else []
    try:
        write_csv(finished, folder / "results.csv")
    except OSError as error:
        log.warning("results.csv cannot be written: %s", error)
    say(formatting.table(rows))
    files = f"results.csv{print_over_seed(finished, wanted, folder)}"
    best = finished[order[0]]
    if (mixture := comparable.mixture(finished, by)) is not None:
        log.warning("%s", mixture)
    if objective.rank(best, wanted) == -math.inf:
        say(f"{objective.no_best(finished, by)}\nfolder: {folder}   ({files})")
        return finished
    best_dir = run_dirs[order[0]]
    if best.typed.report == "auto" and draw is not None:
        draw_best(best_dir, draw)
    drawn = any((best_dir / "outputs").glob("*.png"))
    say(f"folder: {folder}   ({files}{f'; pictures of the best run: {best_dir}/outputs' if drawn else ''})")
    return finished


def _row(run_dir: Path, record: Record, by: str, overrides: Sequence[str]) -> tuple[str, str]:
    """Return a run's row: its number; its status, its value of the metric `by`, its overrides, and what went wrong."""
    value = record.metrics.get(by)
    shown = formatting.number(value) if isinstance(value, float) else "-"
    reason = record.reason or formatting.trouble(record.training)
    if not record.finished and not os.access(run_dir, os.W_OK):
        reason = "its folder cannot be written"
    output = run_dir / "driver.log"
    where = f"  ({output})" if output.exists() else ""
    why = f"   {reason}{where}" if reason else ""
    return str(record.number), f"{record.status:<10}  {shown:<{max(8, len(by))}}  {' '.join(overrides)}{why}"


def print_over_seed(finished: Sequence[Record], wanted: objective.Objective, folder: Path) -> str:
    """Print the means over seeds, best first, and write their file, if a setting has several seeds.

    Returns:
        Text for the list of the sweep's files.
    """
    settings = aggregation.of_seeds(finished)
    if not settings:
        return ""
    by, found = wanted.metric, [one.summary(wanted.metric) for one in settings]
    scores = [-math.inf if one.mean is None else wanted.score(one.mean) for one in found]
    own, _ = formatting.differing([record.overrides for record in finished])
    varied = {text for texts in own for text in texts}
    cells = [("n", f"{by}_mean", f"{by}_std", "overrides")]
    for place in sorted(range(len(settings)), key=lambda i: -scores[i]):
        numbers = [
            "-" if value is None else formatting.number(value) for value in (found[place].mean, found[place].std)
        ]
        overrides = " ".join(text for text in settings[place].overrides if text in varied)
        cells.append((found[place].count, numbers[0], numbers[1], overrides))
    lines = list(formatting.columns([line[1:] for line in cells]))
    rows = [(line[0], text) for line, text in zip(cells, lines, strict=True)]
    if max(scores) > -math.inf:
        say(formatting.table([("over seed", "mean and standard deviation of n runs"), *rows]))
    for note in aggregation.notes(settings, [by]):
        log.warning("%s", note)
    try:
        write_over_csv(settings, folder / OVER_SEED)
    except OSError as error:
        log.warning("%s cannot be written: %s", OVER_SEED, error)
    return f", {OVER_SEED}"


OVER_SEED = "results_over_seed.csv"


def say(text: str) -> None:
    """Print text. Ignore a closed pipe (`labrun ... | head`); report other errors, such as a full disk, on stderr."""
    try:
        print(terminal.lines(text), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"labrun: standard output cannot be written: {error.strerror}\n")


def draw_best(run_dir: Path, draw: Callable[[Path], object]) -> None:
    """Draw a sweep's best run unless it has its pictures; log why they could not be drawn. `draw`: `Executor.draw`."""
    if any((run_dir / "outputs" / name).exists() for name in ("confusion_matrix.png", "predictions.png")):
        return
    try:
        drawn = draw(run_dir)
    except (LabrunError, OSError, ValueError) as error:
        log.warning("The best run's pictures could not be drawn: %s", error)
    else:
        if drawn is False:
            log.warning("The best run's pictures could not be drawn; %s says why", run_dir / "driver.log")


def write_csv(finished: Sequence[Record], path: Path) -> None:
    """Write a line per run with its last metrics and its overrides."""
    names = sorted({name for record in finished for name in record.metrics})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "id", "status", "duration_s", *names, "overrides"])
        for record in finished:
            values: list[Any] = [record.metrics.get(name, "") for name in names]
            writer.writerow(
                [record.number, record.id, record.status, record.duration_s, *values, " ".join(record.overrides)]
            )


def write_over_csv(settings: Sequence[aggregation.Setting], path: Path) -> None:
    """Write a line per setting: number of runs; mean, standard deviation and count of each metric; overrides."""
    names, rows = aggregation.rows(settings)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "overrides"])
        for one, row in zip(settings, rows, strict=True):
            writer.writerow([*("" if cell is None else cell for cell in row), " ".join(one.overrides)])


def failure(record: Record) -> str:
    """Say why a run did not complete, in one line."""
    return f"{record.status}: {record.reason}"
