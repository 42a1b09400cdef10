"""Fits and scores scikit-learn estimators, and any object with `fit` and `predict`."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.config.schema import Config
from labrun.data.arrays import Arrays, Part, float_rows
from labrun.errors import ConfigError, DataError, UnfitError, UntrustedError
from labrun.runs import context
from labrun.runs.cards import CardKind
from labrun.runs.groups import ThreadUse
from labrun.runs.record import RunPaths
from labrun.tasks import base, scoring, skops_io
from labrun.tasks.task import ModelTask, Scores, confusion, quantities
from labrun.tasks.threads import for_estimator, from_environment

log = logging.getLogger(__name__)


SAFE_INTERNALS = (
    "sklearn.tree._tree.Tree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance32",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance32",
    "sklearn.utils._bunch.Bunch",
    "numpy.dtype",
    "scipy.sparse._csr.csr_matrix",
    "scipy.sparse._csr.csr_array",
    "labrun.models.pipeline.AsText",
    "labrun.models.pipeline.Calibrated",
    "labrun.models.pipeline.Truncated",
    "labrun.models.pipeline.dense",
)
"""Parts of scikit-learn's models that skops does not list; they hold only numbers and execute nothing when built."""


class EstimatorTask(ModelTask):
    """Trains on rows of scaled float32 values; images are flattened."""

    def __init__(self, model: Any, config: Config, name: str, arrays: Arrays) -> None:
        self.model = model
        self._export = config.export
        self._profiler = config.trainer.profiler
        self._name = name
        rows, self._allowed = max(len(arrays.train), len(arrays.test)), config.compute.cpus_per_run
        environment = from_environment(config.compute.environment, self._allowed)
        values = rows * math.prod(arrays.input_shape)
        self._trains = base.of(config).trains
        self._threads = for_estimator(config.trainer.threads, environment, self._allowed, rows, values)

    @property
    def threads(self) -> ThreadUse:
        choice = self._threads.recorded()
        return ThreadUse(self._allowed, choice if self._trains else None, choice)

    def limited_threads(self) -> contextlib.AbstractContextManager[Any]:
        if self._threads.count >= self._allowed:  # the process is limited to these already
            return contextlib.nullcontext()
        from threadpoolctl import threadpool_limits

        limits: contextlib.AbstractContextManager[Any] = threadpool_limits(self._threads.count, user_api="blas")
        return limits

    def fit(self, arrays: Arrays, paths: RunPaths, resume_from: Path | None) -> None:
        if resume_from is not None:
            raise ConfigError("trainer.resume works for networks; a scikit-learn fit has no checkpoint: run it again")
        rows = float_rows(arrays.train.x, arrays.scaling)
        log.info("Fitting %s on %s samples of %s values", self._name, f"{len(arrays.train):,}", rows.shape[1])
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self._profiled(lambda: self.model.fit(rows, arrays.train.y), paths)
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning):
                log.info("Stopped at the iteration limit before full convergence; model.max_iter raises it")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if arrays.validation is not None:
            scores = self.score(arrays.validation, arrays)
            for name, value in scores.more.items():
                context.log(f"val_{name}", value)
            if scores.accuracy is not None:
                context.log("val_accuracy", scores.accuracy)
            if scores.loss is not None:
                context.log("val_loss", scores.loss)

    def _profiled(self, work: Any, paths: RunPaths) -> None:
        if not self._profiler:
            work()
            return
        import cProfile
        import pstats

        profile = cProfile.Profile()
        profile.runcall(work)
        paths.outputs.mkdir(parents=True, exist_ok=True)
        with open(paths.outputs / "profile.txt", "w", encoding="utf-8") as file:
            pstats.Stats(profile, stream=file).sort_stats("cumulative").print_stats(60)
        log.info("Profile: %s", paths.outputs / "profile.txt")

    def score(self, part: Part, arrays: Arrays) -> Scores:
        return self.scores(part, *self.predict(part, arrays), arrays)

    def predict(self, part: Part, arrays: Arrays) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
        """Return the model's predictions, and its probabilities or None.

        Raises:
            UnfitError: it predicts something other than classes of the data.
        """
        rows = float_rows(part.x, arrays.scaling)
        predicted = np.asarray(self.model.predict(rows))
        known = range(arrays.num_classes)
        if arrays.num_classes and (predicted.shape != part.y.shape or not np.isin(predicted, known).all()):
            raise UnfitError(
                f"model '{self._name}' does not predict one class number (0 to {arrays.num_classes - 1}) per sample, "
                f"but {predicted.dtype} values of the shape {predicted.shape}"
            )
        return predicted, scoring.probabilities_of(self.model, rows, arrays.num_classes)

    def scores(
        self, part: Part, predicted: npt.NDArray[Any], probabilities: npt.NDArray[np.float64] | None, arrays: Arrays
    ) -> Scores:
        """Score predictions and probabilities."""
        if not arrays.num_classes:
            return quantities(part.y, predicted, self._name)
        loss = None
        if probabilities is not None:
            loss = float(-np.log(np.clip(probabilities[np.arange(len(part.y)), part.y], 1e-15, 1.0)).mean())
        accuracy = float((predicted == part.y).mean())
        return Scores(accuracy, loss, confusion(part.y, predicted, arrays.num_classes))

    def save(self, arrays: Arrays, paths: RunPaths) -> dict[str, Any]:
        from labrun.models.logistic_regression import portable

        model = portable(self.model)
        try:
            skops_io.load().dump(model, paths.outputs / "model.skops")
        except Exception as error:  # the model may hold values of any type
            raise UnfitError(
                f"model '{self._name}' is trained, but cannot be saved: it holds a value that skops does not support "
                f"({type(error).__name__}: {' '.join(str(error).split())}). Let {type(self.model).__name__} drop it at "
                "the end of fit(), or define __getstate__"
            ) from error
        if "pkl" in self._export:
            import joblib

            joblib.dump(model, paths.outputs / "model.pkl")
        return {"kind": CardKind.ESTIMATOR, "file": "model.skops"}

    def weight_images(self) -> npt.NDArray[Any] | None:
        weights = getattr(self.model, "coef_", None)
        return np.asarray(weights) if weights is not None and np.ndim(weights) == 2 else None


def load_estimator(path: Path, trusted: Sequence[str] | None) -> Any:
    """Load a model saved by skops, building only scikit-learn's types and those in `trusted`.

    Args:
        path: the file.
        trusted: further types to trust; None trusts the whole file, if this command has just written it.

    Raises:
        UntrustedError: the file holds other types; the message lists them.
        DataError: the file cannot be read.
    """
    io = skops_io.load()
    try:
        with skops_io.trusting() if trusted is None else contextlib.nullcontext():
            found = io.get_untrusted_types(file=path)
            allowed = found if trusted is None else [*trusted, *SAFE_INTERNALS]
            unknown = [name for name in found if name not in allowed]
            if unknown:
                raise UntrustedError(
                    f"{path} holds types that are not trusted by default: {', '.join(unknown)}",
                    [*dict.fromkeys([*(trusted or ()), *unknown])],
                )
            model = io.load(path, trusted=found)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(type(model), "predict"):
        raise DataError(f"{path} holds a {type(model).__name__}, which is not an estimator")
    return model


def warm() -> None:
    """Import what every fit and every saved model needs."""
    import joblib  # noqa: F401
    import sklearn.exceptions  # noqa: F401
    from sklearn.preprocessing import StandardScaler

    skops_io.load()
    # The first check of an array searches the installed packages for data frame libraries. This starts no threads.
    StandardScaler().fit([[0.0], [1.0]])
