"""Cross-validates a pipeline, and finally fits it to all training data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.config.schema import Config
from labrun.data.arrays import Arrays, Part, float_rows, rows_at, stratified_split
from labrun.errors import ConfigError, UnfitError
from labrun.runs import context, recording
from labrun.runs.record import RunPaths
from labrun.tasks import automl_metrics, scoring
from labrun.tasks.estimator import EstimatorTask
from labrun.tasks.task import Scores

log = logging.getLogger(__name__)

OUT_OF_FOLD = "out_of_fold.npz"
"""Predictions of a cross-validated pipeline for each training sample, from the fold that did not train on it."""

MAX_LISTED = 5
MANY = 20
"""More classes than this, with few samples each, may mean that the target is a quantity."""


Round = tuple[Any, npt.NDArray[Any], Any, npt.NDArray[Any], npt.NDArray[Any]]
"""Training samples and targets; held-out samples and targets, and their positions among all held-out samples."""


class _Folds(Sequence[Round]):
    """Rounds of a cross-validation, created one at a time because each copies the samples."""

    def __init__(self, rows: Any, y: npt.NDArray[Any], splits: Sequence[tuple[npt.NDArray[Any], Any]]) -> None:
        self._rows, self._y, self._splits = rows, y, splits

    def __len__(self) -> int:
        return len(self._splits)

    def __getitem__(self, number: Any) -> Any:
        train, held = self._splits[number]
        return rows_at(self._rows, train), self._y[train], rows_at(self._rows, held), self._y[held], held


class PipelineTask(EstimatorTask):
    """Scores a pipeline on each fold in turn. All of its fitting, preprocessing included, happens within the fold.

    The running mean of the primary metric is logged after each fold, so that a poor pipeline can be stopped early.
    """

    def __init__(self, model: Any, config: Config, name: str, arrays: Arrays) -> None:
        super().__init__(model, config, name, arrays)
        settings = config.pipeline_settings
        self._folds, self._most, self.is_final = settings.folds, settings.cv_samples, settings.refit
        self._seed = config.dataset_settings.split_seed
        self._wanted = scoring.wanted(config)

    def fit(self, arrays: Arrays, paths: RunPaths, resume_from: Path | None) -> None:
        if resume_from is not None:
            raise ConfigError("trainer.resume works for networks; a pipeline has no checkpoint: run it again")
        span = float("nan") if arrays.num_classes else float(np.ptp(arrays.train.y))
        scorers = scoring.scorers(self._wanted, arrays.num_classes, span)
        if self._folds:
            self._cross_validate(arrays, paths, scorers)
        if self.is_final:
            super().fit(arrays, paths, None)

    def _cross_validate(self, arrays: Arrays, paths: RunPaths, scorers: Mapping[str, Any]) -> None:
        from sklearn.base import clone

        arrays = self._sampled(arrays)
        rounds, y = self._rounds(arrays)
        said = np.full((len(y), max(1, arrays.num_classes)), np.nan, np.float32)
        primary = self._primary(bool(arrays.num_classes))
        found: list[dict[str, float]] = []
        how = f"{len(rounds)} folds of" if self._folds > 1 else f"{len(y):,} samples of the validation split, fitted to"
        log.info("Cross-validating %s: %s %s samples", self._name, how, f"{len(arrays.train):,}")
        for number, (rows, own_y, held, held_y, places) in enumerate(rounds, start=1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = clone(self.model).fit(rows, own_y)
                predicted, probabilities = scoring.predict(model, held, arrays.num_classes)
                said[places] = predicted[:, None] if probabilities is None else probabilities
                scores = scoring.measure(held_y, predicted, probabilities, arrays.num_classes)
                scores |= {name: float(scorer(model, held, held_y)) for name, scorer in scorers.items()}
            if recording.was_interrupted():  # the fold's estimator treated the interrupt as the end of its training
                raise KeyboardInterrupt
            found.append(scores)
            if primary not in scores:
                raise ConfigError(f"{self._name} has no {primary}; it has {', '.join(scores)}")
            context.log(primary, float(np.mean([one[primary] for one in found])), step=number)
        for name in found[0]:
            if name != primary:
                context.log(name, float(np.mean([one[name] for one in found])))
        paths.outputs.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(paths.outputs / OUT_OF_FOLD, said=said, y=y)

    def _sampled(self, arrays: Arrays) -> Arrays:
        """Limit the training samples to `cv_samples`, with the same choice for every pipeline."""
        if self._most is None or len(arrays.train) <= self._most:
            return arrays
        strata = arrays.train.y if arrays.num_classes else np.zeros(len(arrays.train), np.int64)
        _, taken = stratified_split(strata, self._most, self._seed)
        log.info("Cross-validating on %s of the %s training samples", f"{self._most:,}", f"{len(arrays.train):,}")
        return replace(arrays, train=arrays.train.take(taken))

    def _primary(self, has_classes: bool) -> str:
        known = scoring.STANDARD if has_classes else scoring.QUANTITIES
        return self._wanted[-1] if self._wanted else known[0]

    def _rounds(self, arrays: Arrays) -> tuple[Sequence[Round], npt.NDArray[Any]]:
        """Return the rounds, and the targets of all held-out samples.

        Raises:
            UnfitError: there is no validation split, or a class has fewer samples than there are folds.
        """
        rows, y = float_rows(arrays.train.x, arrays.scaling), arrays.train.y
        if self._folds > 1:
            return _Folds(rows, y, self._splits(arrays)), y
        if arrays.validation is None:
            raise UnfitError(
                f"model.folds=1 compares pipelines on the validation split, but data set '{arrays.name}' has none: set "
                "dataset.validation_size=0.2, or model.folds=5"
            )
        held, target = float_rows(arrays.validation.x, arrays.scaling), arrays.validation.y
        return [(rows, y, held, target, np.arange(len(target)))], target

    def _splits(self, arrays: Arrays) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Return the folds, which are the same for every pipeline on the same data.

        Raises:
            UnfitError: a class has fewer samples than there are folds; the message has the counts.
        """
        from sklearn.model_selection import KFold, StratifiedKFold

        y = arrays.train.y
        if arrays.num_classes:
            counts = np.bincount(y, minlength=arrays.num_classes)
            if counts.min() < self._folds:
                raise UnfitError(self._too_few(arrays, counts))
            split: Any = StratifiedKFold(self._folds, shuffle=True, random_state=self._seed)
        elif len(y) < self._folds:
            raise UnfitError(
                f"model.folds={self._folds}: {len(y)} training samples cannot be split into {self._folds} folds: use "
                "fewer folds, or more samples"
            )
        else:
            split = KFold(self._folds, shuffle=True, random_state=self._seed)
        return list(split.split(np.zeros(len(y)), y))

    def _too_few(self, arrays: Arrays, counts: npt.NDArray[Any]) -> str:
        few = [f"{name}: {n}" for name, n in zip(arrays.class_names, counts, strict=True) if n < self._folds]
        listed = ", ".join(few[:MAX_LISTED]) + (f", ... {len(few)} classes in all" if len(few) > MAX_LISTED else "")
        less = f", or set model.folds={int(counts.min())}" if counts.min() > 1 else ", or leave these classes out"
        if arrays.num_classes > MANY:
            less += ". If the target is a quantity and not a class, set dataset.regression=true"
        return (
            f"{self._folds}-fold cross-validation needs {self._folds} training samples of every class, and data set "
            f"'{arrays.name}' has fewer of some ({listed}). Give more of them{less}"
        )

    def save(self, arrays: Arrays, paths: RunPaths) -> dict[str, Any]:
        return {**super().save(arrays, paths), **_columns(arrays)}

    def score(self, part: Part, arrays: Arrays) -> Scores:
        predicted, probabilities = self.predict(part, arrays)
        base = self.scores(part, predicted, probabilities, arrays)
        more = scoring.measure(part.y, predicted, probabilities, arrays.num_classes)
        prefix = "test_" if self._folds else ""
        span = float("nan") if arrays.num_classes else float(np.ptp(arrays.train.y))
        for name in self._wanted:
            if name in (automl_metrics.CLASSES if arrays.num_classes else automl_metrics.QUANTITIES):
                more[name] = automl_metrics.one(name, part.y, predicted, probabilities, arrays.num_classes, span)
        further = {f"test_{name}": value for name, value in more.items() if name != "accuracy"}
        if not arrays.num_classes and not self._folds:
            further |= base.more
        return replace(base, more=further, prefix=prefix)


def _columns(arrays: Arrays) -> dict[str, Any]:
    """Return a card's entry on the table that a model takes: for each column, whether it is numeric."""
    if not arrays.is_table:
        return {}
    from labrun.models.pipeline import columns_of

    table: Any = arrays.train.x
    numbers = columns_of(table)["numbers"]
    return {"columns": {str(name): str(name) in numbers for name in table.columns}}
