"""Output of a run: the log lines about its data, its pictures, and the final table."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

from labrun import messages
from labrun.config.schema import Config
from labrun.report import figures, formatting
from labrun.report.pictures import Pictures
from labrun.runs import context, store
from labrun.runs.record import Record, RunPaths, seconds_between, timestamp
from labrun.runs.recording import red
from labrun.tracking import trackers

if TYPE_CHECKING:  # a script has neither, and needs no NumPy
    from labrun.data.arrays import Arrays
    from labrun.tasks.task import ModelTask, Scores

log = logging.getLogger(__name__)

MAX_LISTED = 10
"""Maximum number of class names in the log line."""


def log_data(arrays: Arrays) -> None:
    """Log the content of a data set, and notes for the user about it."""
    names = list(arrays.class_names)
    shown = names if len(names) <= MAX_LISTED else [*names[: MAX_LISTED - 2], "...", names[-1]]
    log.info("Data: %s%s", data_line(arrays), f": {', '.join(shown)}" if names else "")
    for note in arrays.notes:
        log.info("Data: %s: %s", arrays.name, note)
    if arrays.reading is not None:
        where = "held in memory" if arrays.reading.in_memory else "streamed from the disk"
        log.info("Data: %s: %s: %s", arrays.name, where, arrays.reading.why)


def data_line(arrays: Arrays) -> str:
    """Describe a data set in one line: its splits, sample shape and classes."""
    held = "" if arrays.validation is None else f"{len(arrays.validation):,} validation, "
    aim = f"{arrays.num_classes} classes" if arrays.num_classes else "a numeric target"
    return (
        f"{arrays.name}: {len(arrays.train):,} train, {held}{len(arrays.test):,} test; "
        f"{messages.shape_text(arrays.input_shape)}, {aim}"
    )


def gather(work: ModelTask, scores: Scores | None, arrays: Arrays, record: Record) -> Pictures:
    """Collect the content of a run's pictures."""
    shown = Pictures(title(record), arrays.name, tuple(arrays.class_names), arrays.scaling.scale)
    if arrays.are_images and arrays.num_classes:
        order = figures.shown_samples(arrays.train.y)
        shown.samples, shown.labels = arrays.train.x[order], arrays.train.y[order]
    if scores is None:
        return shown
    if scores.confusion is not None and scores.accuracy is not None:
        shown.confusion, shown.accuracy = scores.confusion, float(scores.accuracy)
    if scores.predicted is not None:
        shown.true, shown.predicted = arrays.test.y, scores.predicted
        shown.quantity = (arrays.table.target if arrays.table is not None else None) or ""
    weights = work.weight_images()
    if weights is not None and len(arrays.input_shape) == 3 and arrays.input_shape[0] == 1:
        shown.weights, shown.image_shape = weights, tuple(arrays.input_shape)
    return shown


def write_confusion(scores: Scores, arrays: Arrays, paths: RunPaths) -> None:
    """Write the confusion matrix to the run's `outputs/`, if the task is a classification."""
    paths.outputs.mkdir(parents=True, exist_ok=True)
    if scores.confusion is None:
        return
    content = {"class_names": list(arrays.class_names), "counts": scores.confusion.tolist()}
    (paths.outputs / "confusion_matrix.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def show_scores(
    work: ModelTask, scores: Scores | None, arrays: Arrays, record: Record, paths: RunPaths, pictures: bool
) -> None:
    """Write the confusion matrix of a model, and draw the run's pictures if enabled."""
    if scores is not None:
        write_confusion(scores, arrays, paths)
    if draws(record.typed, pictures):
        gather(work, scores, arrays, record).draw(paths.root)


def draws(config: Config, pictures: bool) -> bool:
    """Whether a run draws its pictures. With `report=auto`, its executor decides (`pictures`)."""
    return config.report == "all" or (config.report == "auto" and pictures)


def title(record: Record) -> str:
    """Return the title of a run's pictures."""
    return f"{record.name} ({record.id})"


def finish_script(record: Record, paths: RunPaths, pictures: bool) -> None:
    """Draw the pictures of a finished script, and print its final table."""
    if draws(record.typed, pictures):
        Pictures(title(record)).draw(paths.root)
    took = seconds_between(str(record.started), timestamp())
    script = record.typed.script
    _print_table(record, paths, [("script", "" if script is None else script.shown_name)], f"{took:.1f} s")


def print_result(record: Record, data: str, seconds: float, paths: RunPaths, predictions: str = "") -> None:
    """Print the final table of a run.

    Args:
        record: record of the run.
        data: description of its data, in one line.
        seconds: duration of the task.
        paths: paths of the run.
        predictions: number of predictions and their file; empty for other tasks.
    """
    from labrun.tasks.task import model_name

    total = seconds_between(str(record.started), timestamp())
    source = record.typed.source
    about = [
        *([("predictions", predictions)] if predictions else []),
        ("data", data),
        ("model", model_name(record.typed.model) + (f", of run {source.id}" if source else "")),
    ]
    whole = "in all" if len(record.attempts) < 2 else f"in attempt {len(record.attempts)}"
    _print_table(record, paths, about, f"{seconds:.1f} s for the task, {total:.1f} s {whole}")


def _print_table(record: Record, paths: RunPaths, about: list[tuple[str, str]], took: str) -> None:
    run = context.current()
    metrics = {} if run is None else run.summary
    rows = [
        ("run", f"{record.name}  {record.id}"),
        *about,
        *([("epoch", formatting.tested(record.training))] if record.training is not None else []),
        *((name, formatting.number(value)) for name, value in metrics.items()),
        ("time", took),
        ("folder", str(paths.root)),
    ]
    with contextlib.suppress(Exception):  # an unavailable tracker must not fail the run
        tracker = trackers.named(record.typed.tracking)
        if tracker is not None:
            rows += [(tracker.label, tracker.shown(store.workspace(), record, paths.root))]
    print(formatting.table(rows))
    trouble = formatting.trouble(record.training)
    if trouble is not None:
        print(red(trouble))
