"""Metrics for comparing pipelines: a standard set, and any scikit-learn scorer by name."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.config.schema import Config
from labrun.errors import ConfigError
from labrun.tasks import automl_metrics

STANDARD = (
    "AUC_weighted",
    "AUC_macro",
    "accuracy",
    "balanced_accuracy",
    "precision_score_weighted",
    "precision_score_macro",
    "recall_score_weighted",
    "recall_score_macro",
    "f1_score_weighted",
    "f1_score_macro",
    "log_loss",
)
"""Metrics of classifiers, under Azure ML's names; `auto` means the first."""
QUANTITIES = ("r2", "rmse", "mae")


def wanted(config: Config) -> list[str]:
    """Return the metrics in a pipeline's config, the primary one last; empty if all are `auto`."""
    metric = config.sweep.metric if "sweep" in config.raw else None
    named = [config.pipeline_settings.metric, *(metric if isinstance(metric, list) else [metric])]
    return [str(one) for one in dict.fromkeys(named) if one not in (None, "auto")]


def check(names: Sequence[str], has_classes: bool) -> None:
    """Check that names are metrics of pipelines.

    Raises:
        ConfigError: there is no such metric, or it is for the other kind of target.
    """
    known = [*STANDARD, *automl_metrics.CLASSES] if has_classes else [*QUANTITIES, *automl_metrics.QUANTITIES]
    unknown = [name for name in names if name not in known]
    others = [*QUANTITIES, *automl_metrics.QUANTITIES, *STANDARD, *automl_metrics.CLASSES]
    for name in (name for name in unknown if name in others):
        kind = (
            "regression: set dataset.regression=true" if has_classes else "classification: leave dataset.regression out"
        )
        raise ConfigError(f"the metric {name!r} is for {kind}, or choose one of {', '.join(known)}")
    if not unknown:
        return
    from sklearn.metrics import get_scorer_names

    for name in (name for name in unknown if name not in get_scorer_names()):
        near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name, get_scorer_names(), n=1)
        raise ConfigError(
            f"there is no metric {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} There are "
            f"{', '.join(known)}, and scikit-learn's scorers"
        )


def scorers(names: Sequence[str], classes: int, span: float = float("nan")) -> dict[str, Any]:
    """Return scorers for the metrics that are not standard; a scorer is called with a model, rows and targets.

    Args:
        names: names of metrics, see `check`.
        classes: the number of classes; 0 for regression.
        span: the range of the targets in the training split.

    Raises:
        ConfigError: there is no such metric.
    """
    check(names, bool(classes))
    more = automl_metrics.CLASSES if classes else automl_metrics.QUANTITIES
    found = {}
    for name in names:
        if name in more:
            found[name] = _Scorer(name, classes, span)
        elif name not in (STANDARD if classes else QUANTITIES):
            from sklearn.metrics import get_scorer

            found[name] = get_scorer(name)
    return found


class _Scorer:
    """Scorer for one of AutoML's further metrics, with the interface of scikit-learn's scorers."""

    def __init__(self, name: str, classes: int, span: float) -> None:
        self._name, self._classes, self._span = name, classes, span

    def __call__(self, model: Any, rows: Any, y: npt.NDArray[Any]) -> float:
        predicted, probabilities = predict(model, rows, self._classes)
        try:
            return automl_metrics.one(self._name, y, predicted, probabilities, self._classes, self._span)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def predict(model: Any, rows: Any, classes: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """Return a fitted model's predictions, and its probabilities or None.

    Shapes:
        returns: (N,) predictions; (N, classes) probabilities, 0 for classes that it has not seen.
    """
    return np.asarray(model.predict(rows)), probabilities_of(model, rows, classes)


def probabilities_of(model: Any, rows: Any, classes: int) -> npt.NDArray[np.float64] | None:
    """Return a fitted model's probabilities as `predict` does, in the model's own precision."""
    if not classes or not hasattr(model, "predict_proba"):
        return None
    given = np.asarray(model.predict_proba(rows))
    places = np.asarray([int(label) for label in model.classes_])
    known = (places >= 0) & (places < classes)
    probabilities = np.zeros((len(given), classes), given.dtype)
    probabilities[:, places[known]] = given[:, known]
    return probabilities


def softmax(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return class probabilities from a network's scores, in double precision.

    Shapes:
        scores, returns: (N, classes).
    """
    raised = scores.astype(np.float64)
    probabilities = np.exp(raised - raised.max(axis=1, keepdims=True))
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def measure(
    y: npt.NDArray[Any], predicted: npt.NDArray[Any], probabilities: npt.NDArray[np.float64] | None, classes: int
) -> dict[str, float]:
    """Compute the standard metrics.

    Shapes:
        y, predicted: (N,).
        probabilities: (N, classes), or None, which leaves out the metrics that need them.
    """
    probabilities = None if probabilities is None else np.asarray(probabilities, np.float64)
    names = QUANTITIES if not classes else STANDARD
    needing = () if probabilities is not None else ("AUC_weighted", "AUC_macro", "log_loss")
    measures = _Measures(y, predicted, probabilities, classes)
    return {name: measures.value(name) for name in names if name not in needing}


def one(
    name: str,
    y: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float64] | None,
    classes: int,
) -> float:
    """Compute one of the standard metrics; for shapes see `measure`."""
    return _Measures(y, predicted, probabilities, classes).value(name)


class _Measures:
    """The standard metrics of the same predictions; what several of them need is computed once.

    Args: see `measure`.
    """

    def __init__(
        self,
        y: npt.NDArray[Any],
        predicted: npt.NDArray[Any],
        probabilities: npt.NDArray[np.float64] | None,
        classes: int,
    ) -> None:
        self._y, self._predicted, self._probabilities, self._classes = y, predicted, probabilities, classes
        self._by_average: dict[str, dict[str, float]] = {}

    def value(self, name: str) -> float:
        """Compute a metric."""
        y, predicted, probabilities = self._y, self._predicted, self._probabilities
        if name == "r2":
            from sklearn.metrics import r2_score

            return float(r2_score(y, predicted)) if len(y) > 1 else float("nan")
        if name == "rmse":
            return float(np.sqrt(np.mean((y - predicted) ** 2)))
        if name == "mae":
            return float(np.mean(np.abs(y - predicted)))
        if name == "accuracy":
            return float((y == predicted).mean())
        if name == "balanced_accuracy":
            from sklearn.metrics import balanced_accuracy_score

            return float(balanced_accuracy_score(y, predicted))
        if name == "log_loss":
            assert probabilities is not None
            return float(-np.log(np.clip(probabilities[np.arange(len(y)), y], 1e-15, 1.0)).mean())
        kind, _, average = name.rpartition("_")
        return self._area(average) if kind == "AUC" else self._averages(average)[kind]

    def _averages(self, average: str) -> dict[str, float]:
        """Return precision, recall and F1, averaged over the classes."""
        if average not in self._by_average:
            from sklearn.metrics import precision_recall_fscore_support

            found = precision_recall_fscore_support(
                self._y, self._predicted, labels=range(self._classes), average=average, zero_division=0
            )
            names = ("precision_score", "recall_score", "f1_score")
            self._by_average[average] = {name: float(value) for name, value in zip(names, found[:3], strict=True)}
        return self._by_average[average]

    def _area(self, average: str) -> float:
        """Return the area under the ROC curve: of the second of two classes, else the mean over one-vs-rest curves.

        Args:
            average: `weighted` by the number of samples per class, or `macro`.
        """
        areas, counts = self._areas
        if len(areas) < 2:  # of two classes, or of none
            return areas[0] if areas else float("nan")
        return float(np.average(areas, weights=counts if average == "weighted" else None))

    @functools.cached_property
    def _areas(self) -> tuple[list[float], list[float]]:
        """Areas under the ROC curves, and the number of samples of each class; empty if all are of one class."""
        probabilities = self._probabilities
        assert probabilities is not None
        present = np.unique(self._y)
        if len(present) < 2:
            return [], []
        if not np.isfinite(probabilities).all():
            raise ValueError("the probabilities contain NaN or infinity")
        # Only classes that occur: a small test split may lack one.
        labels = [1] if self._classes == 2 else list(present)
        areas = [_area_under_curve(self._y == label, probabilities[:, label]) for label in labels]
        return areas, [float((self._y == label).sum()) for label in labels]


def _area_under_curve(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """Return the area under a ROC curve: how often a positive sample has a higher score than a negative one.

    scikit-learn's `roc_auc_score` computes the same; its checks take ten times as long, and an ensemble is chosen by
    hundreds of areas.

    Shapes:
        positive, scores: (N,); some samples are positive, and some are not.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # equal scores share the mean of their ranks
    positives = int(positive.sum())
    above = rank[place[positive]].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))


def replaying_model(predictions: npt.NDArray[np.float64], classes: int) -> Any:
    """Return a model that repeats given predictions, for scorers; its samples are positions in `predictions`.

    Shapes:
        predictions: (N, classes) probabilities, or (N, 1) values.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Returns the given probabilities."""

        classes_ = np.arange(classes)

        def fit(self, x: Any, y: Any) -> Any:
            """Learns nothing."""
            return self

        def predict_proba(self, x: Any) -> Any:
            """Return the probabilities at these positions."""
            return predictions[np.asarray(x).ravel()]

        def predict(self, x: Any) -> Any:
            """Return the most likely classes."""
            return self.predict_proba(x).argmax(axis=1)

    class Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        """Returns the given values."""

        def fit(self, x: Any, y: Any) -> Any:
            """Learns nothing."""
            return self

        def predict(self, x: Any) -> Any:
            """Return the values at these positions."""
            return predictions[np.asarray(x).ravel(), 0]

    return Classifier() if classes else Regressor()
