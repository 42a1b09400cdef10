"""`task=evaluate`: scores a finished run's model. Also loads such models for predicting and drawing."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

from labrun.config.schema import Config
from labrun.data.arrays import Arrays
from labrun.errors import UnfitError
from labrun.report.pictures import Pictures
from labrun.runs import seals, store
from labrun.runs.record import RunPaths, read_record
from labrun.tasks import fitting, model_builder, model_files, reading, resume_checks, summary
from labrun.tasks.base import Run
from labrun.tasks.networks import own_loaders
from labrun.tasks.task import ModelTask, card_scaling, check_card, load_card

log = logging.getLogger(__name__)


def evaluate(run: Run) -> None:
    """Score the model of run `from`."""
    if run.config.has_loaders:
        _evaluate_with_loaders(run)
        return
    config, record, paths = run.config, run.record, run.paths
    arrays = reading.arrays_of_run(run)
    began = time.monotonic()
    resume_checks.check_scoring(config, record, arrays.is_split)
    work, arrays = around_saved(config, arrays)
    fitting.note_threads(work, run)
    run.recording.leave_if_forked()
    if work.is_final:
        summary.show_scores(work, fitting.score(work, arrays, paths), arrays, record, paths, run.pictures)
    summary.print_result(record, summary.data_line(arrays), time.monotonic() - began, paths)


def _evaluate_with_loaders(run: Run) -> None:
    config, record, paths = run.config, run.record, run.paths
    batches = own_loaders.batches_of_run(run)
    began = time.monotonic()
    resume_checks.check_scoring(config, record, is_split=False)
    work = own_loaders.wrap(saved_model(config), config, batches)
    run.recording.leave_if_forked()
    work.test_steps(paths)
    if summary.draws(config, run.pictures):
        Pictures(summary.title(record)).draw(paths.root)
    summary.print_result(record, batches.description, time.monotonic() - began, paths)


def around_saved(config: Config, arrays: Arrays, own_file: bool = False) -> tuple[ModelTask, Arrays]:
    """Return the task for a finished run's model, and the data scaled as in its training; see `saved_model`."""
    source = config.scored
    card = load_card(RunPaths(source.run_dir), source.id)
    if card.takes_batches:
        raise UnfitError(
            f"model '{card.name}' of run {source.id} takes the batches of a data module, but data set "
            f"'{arrays.name}' is read into arrays: choose a data set with loaders (dataset=...)"
        )
    arrays = check_card(card, arrays, source.id)
    arrays = dataclasses.replace(arrays, scaling=card_scaling(card, arrays.scaling))
    log.info("Scoring %s of run %s on %s test samples", card.name, source.id, f"{len(arrays.test):,}")
    return model_builder.wrap(saved_model(config, own_file), config, arrays), arrays


def saved_model(config: Config, own_file: bool = False) -> Any:
    """Load a finished run's model without executing any code in its files.

    Args:
        config: the config of the current run, whose `from` refers to the finished run.
        own_file: whether this command has just written the model's file.
    """
    source = config.scored
    paths = RunPaths(source.run_dir)
    card, title = load_card(paths, source.id), f"run {source.id}"

    def load(names: Sequence[str] | None) -> Any:
        return model_files.load(paths.outputs / card.file, card, title, names)

    def why() -> str:
        return seals.refusal(store.workspace(), card, source.id, read_record(paths.root).imported is not None)

    if own_file:
        return load(None)
    return model_files.proven(load, config.trusted, why, title, log.warning)
