"""Metrics for comparing pipelines: a standard set, and any scikit-learn scorer by name."""

from __future__ import annotations

import difflib
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
    named = [config.model.get("metric"), *(metric if isinstance(metric, list) else [metric])]
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
        kind = "quantities: say dataset.regression=true" if has_classes else "classes: leave dataset.regression out"
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
    return {name: one(name, y, predicted, probabilities, classes) for name in names if name not in needing}


def one(
    name: str,
    y: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float64] | None,
    classes: int,
) -> float:
    """Compute one of the standard metrics; for shapes see `measure`."""
    from sklearn import metrics

    if name == "r2":
        return float(metrics.r2_score(y, predicted)) if len(y) > 1 else float("nan")
    if name == "rmse":
        return float(np.sqrt(np.mean((y - predicted) ** 2)))
    if name == "mae":
        return float(np.mean(np.abs(y - predicted)))
    if name == "accuracy":
        return float((y == predicted).mean())
    if name == "balanced_accuracy":
        return float(metrics.balanced_accuracy_score(y, predicted))
    kind, _, average = name.rpartition("_")
    if kind == "AUC":
        assert probabilities is not None
        return _area(y, probabilities, classes, average)
    if name == "log_loss":
        assert probabilities is not None
        return float(-np.log(np.clip(probabilities[np.arange(len(y)), y], 1e-15, 1.0)).mean())
    score = {
        "precision_score": metrics.precision_score,
        "recall_score": metrics.recall_score,
        "f1_score": metrics.f1_score,
    }[kind]
    return float(score(y, predicted, labels=range(classes), average=average, zero_division=0))


def _area(y: npt.NDArray[Any], probabilities: npt.NDArray[np.float64], classes: int, average: str) -> float:
    """Return the area under the ROC curve: of the second of two classes, else the mean over one-vs-rest curves.

    Args:
        y: (N,) class indices.
        probabilities: (N, classes).
        classes: the number of classes.
        average: `weighted` by the number of samples per class, or `macro`.
    """
    from sklearn.metrics import roc_auc_score

    present = np.unique(y)
    if len(present) < 2:
        return float("nan")
    if classes == 2:
        return float(roc_auc_score(y, probabilities[:, 1]))
    # Only classes that occur: a small test split may lack one.
    areas = [roc_auc_score(y == label, probabilities[:, label]) for label in present]
    weights = [float((y == label).sum()) for label in present] if average == "weighted" else None
    return float(np.average(areas, weights=weights))


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
