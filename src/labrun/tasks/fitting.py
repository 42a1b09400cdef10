"""`task=fit`: trains a model, scores it on the test split, and saves it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from labrun.config.schema import Config
from labrun.data.arrays import Arrays
from labrun.report.pictures import Pictures
from labrun.runs import seals, store
from labrun.runs.record import RunPaths
from labrun.tasks import model_builder, reading, resume_checks, summary, threads
from labrun.tasks.base import Run
from labrun.tasks.networks import own_loaders
from labrun.tasks.task import ModelTask, Scores, log_scores, model_name, refuse_ranks, taken_by, write_card

log = logging.getLogger(__name__)


def fit(run: Run) -> None:
    """Fit the model in a run's config."""
    if run.config.has_loaders:
        _fit_with_loaders(run)
        return
    config, record, paths = run.config, run.record, run.paths
    arrays = reading.arrays_of_run(run)
    began = time.monotonic()
    work = _make(config, arrays)
    note_threads(work, run)
    proof = _begin(run)
    with work.limited_threads():
        work.fit(arrays, paths, _resumed(config, paths))
    record.training = work.training
    run.recording.leave_if_forked()
    if work.is_final:
        scores = score(work, arrays, paths)
        paths.outputs.mkdir(parents=True, exist_ok=True)
        saved, about = work.save(arrays, paths), taken_by(arrays)
        record.model = write_card(paths, saved, config, about, record.typed.model, proof)
        summary.show_scores(work, scores, arrays, record, paths, run.pictures)
    summary.print_result(record, summary.data_line(arrays), time.monotonic() - began, paths)


def _fit_with_loaders(run: Run) -> None:
    """Do the same for a data set with its own loaders: Lightning runs the module's own steps."""
    config, record, paths = run.config, run.record, run.paths
    batches = own_loaders.batches_of_run(run)
    began = time.monotonic()
    work, offered = own_loaders.make(config, batches)
    proof = _begin(run)
    work.train(paths, _resumed(config, paths))
    record.training, record.threads = work.training, work.threads  # known after the first batch
    log.info("Threads: %s", threads.describe(work.threads))
    run.recording.leave_if_forked()
    work.test_steps(paths)
    paths.outputs.mkdir(parents=True, exist_ok=True)
    saved, about = work.save_network(paths), own_loaders.taken_by(batches, offered)
    record.model = write_card(paths, saved, config, about, record.typed.model, proof)
    if summary.draws(config, run.pictures):
        Pictures(summary.title(record)).draw(paths.root)
    summary.print_result(record, batches.description, time.monotonic() - began, paths)


def assist(config: Config, paths: RunPaths) -> None:
    """Take part in training as a process other than the first."""
    if config.has_loaders:
        network, _ = own_loaders.make(config, own_loaders.make_batches(config, paths.root))
        network.train(paths, _resumed(config, paths))
        network.test_steps(paths)
        return
    arrays = reading.arrays_of(config)
    work = _make(config, arrays)
    work.fit(arrays, paths, _resumed(config, paths))
    work.assist_test(paths)


def note_threads(work: ModelTask, run: Run) -> None:
    """Record the number of threads for a model, and log a network's."""
    if work.threads is not None:
        run.record.threads = work.threads
        run.recording.write()
        if work.logs_threads:
            log.info("Threads: %s", threads.describe(run.record.threads))


def score(work: ModelTask, arrays: Arrays, paths: RunPaths) -> Scores | None:
    """Score a model on the test split and log the scores; None if only its own test steps can score it."""
    with work.limited_threads():
        scores = work.test(arrays, paths)
    if scores is not None:
        log_scores(scores, work.tested)
    return scores


def _begin(run: Run) -> seals.Proof:
    """Note the digests of the model's code, and check that a resumed training continues with what it started with."""
    proof = seals.Proof(store.workspace(), run.record.id, run.record.typed)
    resume_checks.begin(run.config, run.record, proof.code, run.paths)
    run.recording.write()
    return proof


def _make(config: Config, arrays: Arrays) -> ModelTask:
    work = model_builder.make(config, arrays)
    if not work.is_shared:
        refuse_ranks(config.compute, f"model={model_name(config.model)}")
    return work


def _resumed(config: Config, paths: RunPaths) -> Path | None:
    """Return the checkpoint to resume training from, or None to start from scratch."""
    # An earlier attempt of this run takes precedence over the run that it resumes.
    own, resumed = paths.checkpoints / "last.ckpt", config.resumed
    return own if own.is_file() else None if resumed is None else resumed.path
