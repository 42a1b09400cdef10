"""The metrics by which pipelines are compared: a standard set, and any of scikit-learn's scorers by its name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labrun.errors import ConfigError

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
"""Of classifiers, by the names that Azure ML gave them; the first is what `auto` means."""
QUANTITIES = ("r2", "rmse", "mae")


def scorers(names: Sequence[str], has_classes: bool) -> dict[str, Any]:
    """The scorers of scikit-learn that are asked for beside the standard metrics.

    Raises:
        ConfigError: there is no such metric.
    """
    from sklearn.metrics import get_scorer, get_scorer_names

    known = STANDARD if has_classes else QUANTITIES
    found = {}
    for name in names:
        if name in known:
            continue
        if name not in get_scorer_names():
            near = difflib.get_close_matches(name, [*known, *get_scorer_names()], n=1)
            raise ConfigError(
                f"there is no metric {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} There are "
                f"{', '.join(known)}, and scikit-learn's scorers"
            )
        found[name] = get_scorer(name)
    return found


def said(model: Any, rows: Any, classes: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64] | None]:
    """What a fitted model predicts, and its probabilities where it has any.

    Shapes:
        returns: (N,) predictions; (N, classes), zeros for classes that it has not seen.
    """
    return np.asarray(model.predict(rows)), chances_of(model, rows, classes)


def chances_of(model: Any, rows: Any, classes: int) -> npt.NDArray[np.float64] | None:
    """A fitted model's probabilities, as `said` gives them, in the model's own precision."""
    if not classes or not hasattr(model, "predict_proba"):
        return None
    given = np.asarray(model.predict_proba(rows))
    places = np.asarray([int(label) for label in model.classes_])
    known = (places >= 0) & (places < classes)
    chances = np.zeros((len(given), classes), given.dtype)
    chances[:, places[known]] = given[:, known]
    return chances


def softmax(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Probabilities of classes from a network's scores, in double precision.

    Shapes:
        scores, returns: (N, classes).
    """
    raised = scores.astype(np.float64)
    chances = np.exp(raised - raised.max(axis=1, keepdims=True))
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))


def measure(
    y: npt.NDArray[Any], predicted: npt.NDArray[Any], chances: npt.NDArray[np.float64] | None, classes: int
) -> dict[str, float]:
    """The standard metrics.

    Shapes:
        y, predicted: (N,).
        chances: (N, classes), or None where the model gives none; then what needs them is left out.
    """
    chances = None if chances is None else np.asarray(chances, np.float64)
    names = QUANTITIES if not classes else STANDARD
    needing = () if chances is not None else ("AUC_weighted", "AUC_macro", "log_loss")
    return {name: one(name, y, predicted, chances, classes) for name in names if name not in needing}


def one(
    name: str, y: npt.NDArray[Any], predicted: npt.NDArray[Any], chances: npt.NDArray[np.float64] | None, classes: int
) -> float:
    """One of the standard metrics; shapes as `measure`."""
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
        assert chances is not None
        return _area(y, chances, classes, average)
    if name == "log_loss":
        assert chances is not None
        return float(-np.log(np.clip(chances[np.arange(len(y)), y], 1e-15, 1.0)).mean())
    score = {
        "precision_score": metrics.precision_score,
        "recall_score": metrics.recall_score,
        "f1_score": metrics.f1_score,
    }[kind]
    return float(score(y, predicted, labels=range(classes), average=average, zero_division=0))


def _area(y: npt.NDArray[Any], chances: npt.NDArray[np.float64], classes: int, average: str) -> float:
    """The area under the ROC curve: of two classes the second's, of more the mean of each against the rest.

    Args:
        y: (N,) class numbers.
        chances: (N, classes).
        classes: how many there are.
        average: `weighted`, by how many samples a class has, or `macro`.
    """
    from sklearn.metrics import roc_auc_score

    present = np.unique(y)
    if len(present) < 2:
        return float("nan")
    if classes == 2:
        return float(roc_auc_score(y, chances[:, 1]))
    # Of the classes that are there: a small test part may lack one.
    areas = [roc_auc_score(y == label, chances[:, label]) for label in present]
    weights = [float((y == label).sum()) for label in present] if average == "weighted" else None
    return float(np.average(areas, weights=weights))


def heard(said: npt.NDArray[np.float64], classes: int) -> Any:
    """Something that says what it is told to, for scorers that want a model; its samples are places in `said`.

    Shapes:
        said: (N, classes) probabilities, or (N, 1) values.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Gives the probabilities."""

        classes_ = np.arange(classes)

        def fit(self, x: Any, y: Any) -> Any:
            """Learns nothing."""
            return self

        def predict_proba(self, x: Any) -> Any:
            """Of these places."""
            return said[np.asarray(x).ravel()]

        def predict(self, x: Any) -> Any:
            """The likeliest."""
            return self.predict_proba(x).argmax(axis=1)

    class Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        """Gives the values."""

        def fit(self, x: Any, y: Any) -> Any:
            """Learns nothing."""
            return self

        def predict(self, x: Any) -> Any:
            """Of these places."""
            return said[np.asarray(x).ravel(), 0]

    return Classifier() if classes else Regressor()
