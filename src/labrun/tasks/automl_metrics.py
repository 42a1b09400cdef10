"""Further metrics of Azure ML's AutoML under its names, computed on request.

Source: "Evaluate automated machine learning experiment results", Azure Machine Learning v1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CLASSES = (
    "AUC_micro",
    "average_precision_score_macro",
    "average_precision_score_micro",
    "average_precision_score_weighted",
    "f1_score_micro",
    "matthews_correlation",
    "norm_macro_recall",
    "precision_score_micro",
    "recall_score_micro",
    "weighted_accuracy",
)
"""Metrics of classifiers."""
QUANTITIES = (
    "explained_variance",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "median_absolute_error",
    "normalized_mean_absolute_error",
    "normalized_median_absolute_error",
    "normalized_root_mean_squared_error",
    "normalized_root_mean_squared_log_error",
    "r2_score",
    "root_mean_squared_error",
    "root_mean_squared_log_error",
    "spearman_correlation",
)
"""Metrics of regressors; `normalized_` divides by the range of the targets in the training split."""
NEED_CHANCES = ("AUC_micro", *(name for name in CLASSES if name.startswith("average_precision")))


def one(
    name: str,
    y: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float64] | None,
    classes: int,
    span: float = float("nan"),
) -> float:
    """Compute one of the metrics; NaN where it is undefined, such as the logarithm of negative values.

    Args:
        name: one of `CLASSES` or `QUANTITIES`.
        y: (N,) true class indices or quantities.
        predicted: (N,) predicted class indices or quantities.
        probabilities: (N, classes), or None.
        classes: the number of classes; 0 for regression.
        span: the range of all quantities, for normalized metrics.

    Raises:
        ValueError: the metric needs probabilities, and there are none.
    """
    if not classes:
        return _of_quantities(name, y.astype(np.float64), predicted.astype(np.float64), span)
    if name in NEED_CHANCES:
        if probabilities is None:
            raise ValueError(f"{name} needs probabilities, but the model gives none")
        return _of_probabilities(name, y, np.asarray(probabilities, np.float64), classes)
    return _of_labels(name, y, predicted, classes)


def _of_quantities(name: str, y: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64], span: float) -> float:
    from sklearn import metrics

    if name.startswith("normalized_"):
        own = _of_quantities(name.removeprefix("normalized_"), y, predicted, span)
        return own / span if span > 0 else float("nan")
    if name == "spearman_correlation":
        from scipy.stats import spearmanr

        if np.ptp(y) == 0 or np.ptp(predicted) == 0:  # constant values have no ranks
            return 0.0
        return float(spearmanr(y, predicted).statistic)
    if name == "root_mean_squared_error":
        return float(np.sqrt(np.mean((y - predicted) ** 2)))
    if name == "root_mean_squared_log_error":
        if (y < 0).any():
            return float("nan")
        return float(np.sqrt(np.mean((np.log1p(y) - np.log1p(np.clip(predicted, 0, None))) ** 2)))
    if name == "mean_absolute_percentage_error":  # in percent; undefined for targets of 0
        known = y != 0
        return float(100 * np.mean(np.abs((y - predicted)[known] / y[known]))) if known.any() else float("nan")
    if name in ("r2_score", "explained_variance") and len(y) < 2:
        return float("nan")
    return float(
        {
            "r2_score": metrics.r2_score,
            "explained_variance": metrics.explained_variance_score,
            "mean_absolute_error": metrics.mean_absolute_error,
            "median_absolute_error": metrics.median_absolute_error,
        }[name](y, predicted)
    )


def _of_probabilities(name: str, y: npt.NDArray[Any], probabilities: npt.NDArray[np.float64], classes: int) -> float:
    from sklearn.metrics import average_precision_score, roc_auc_score

    each = np.arange(classes) == np.asarray(y)[:, None]
    average = name.rpartition("_")[2]
    if average == "micro":
        measure = roc_auc_score if name.startswith("AUC") else average_precision_score
        return float(measure(each.ravel(), probabilities.ravel()))
    present = np.flatnonzero(each.any(axis=0))  # a small fold may lack a class
    weights = each.sum(axis=0)[present] if average == "weighted" else np.ones(len(present))
    found = [average_precision_score(each[:, label], probabilities[:, label]) for label in present]
    return float(np.average(found, weights=weights))


def _of_labels(name: str, y: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: int) -> float:
    from sklearn import metrics

    if name == "norm_macro_recall":
        recall = metrics.recall_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0)
        by_chance = 1 / classes
        return float((recall - by_chance) / (1 - by_chance))
    if name == "matthews_correlation":
        return float(metrics.matthews_corrcoef(y, predicted))
    if name == "weighted_accuracy":
        counts = np.bincount(y, minlength=classes)
        return float(metrics.accuracy_score(y, predicted, sample_weight=counts[y]))
    kind = name.removesuffix("_micro")
    score = {
        "precision_score": metrics.precision_score,
        "recall_score": metrics.recall_score,
        "f1_score": metrics.f1_score,
    }[kind]
    return float(score(y, predicted, labels=range(classes), average="micro", zero_division=0))
