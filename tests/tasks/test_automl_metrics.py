"""The metrics of Azure ML's AutoML, compared with their definitions, and messages for unknown names."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from conftest import Refused
from labrun.errors import ConfigError
from labrun.runs import direction
from labrun.tasks import automl_metrics, scoring

Y = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
CHANCES = np.random.default_rng(0).dirichlet((1, 1, 1), len(Y))
LABELS = CHANCES.argmax(axis=1)
REAL = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
GUESS = np.array([0.5, 1.0, 1.5, 5.0, 7.0])


def of_classes(name: str) -> float:
    return automl_metrics.one(name, Y, LABELS, CHANCES, 3)


def of_quantities(name: str) -> float:
    return automl_metrics.one(name, REAL, GUESS, None, 0, span=10.0)


def test_metrics_of_classifiers_have_the_expected_values() -> None:
    each = np.eye(3)[Y]
    recall = metrics.recall_score(Y, LABELS, average="macro")
    wanted = {
        "AUC_micro": metrics.roc_auc_score(each, CHANCES, average="micro"),
        "average_precision_score_macro": metrics.average_precision_score(each, CHANCES, average="macro"),
        "average_precision_score_micro": metrics.average_precision_score(each, CHANCES, average="micro"),
        "average_precision_score_weighted": metrics.average_precision_score(each, CHANCES, average="weighted"),
        "f1_score_micro": metrics.f1_score(Y, LABELS, average="micro"),
        "matthews_correlation": metrics.matthews_corrcoef(Y, LABELS),
        "norm_macro_recall": (recall - 1 / 3) / (1 - 1 / 3),
        "precision_score_micro": metrics.precision_score(Y, LABELS, average="micro"),
        "recall_score_micro": metrics.recall_score(Y, LABELS, average="micro"),
        "weighted_accuracy": np.average(Y == LABELS, weights=np.bincount(Y)[Y]),
    }
    assert set(wanted) == set(automl_metrics.CLASSES)
    assert {name: of_classes(name) for name in wanted} == pytest.approx(wanted)


def test_metrics_of_regressors_have_the_expected_values() -> None:
    squared, absolute = np.sqrt(np.mean((REAL - GUESS) ** 2)), np.abs(REAL - GUESS)
    logs = np.sqrt(metrics.mean_squared_log_error(REAL, GUESS))
    wanted = {
        "explained_variance": metrics.explained_variance_score(REAL, GUESS),
        "mean_absolute_error": absolute.mean(),
        "mean_absolute_percentage_error": 100 * np.mean(absolute[1:] / REAL[1:]),
        "median_absolute_error": np.median(absolute),
        "normalized_mean_absolute_error": absolute.mean() / 10,
        "normalized_median_absolute_error": np.median(absolute) / 10,
        "normalized_root_mean_squared_error": squared / 10,
        "normalized_root_mean_squared_log_error": logs / 10,
        "r2_score": metrics.r2_score(REAL, GUESS),
        "root_mean_squared_error": squared,
        "root_mean_squared_log_error": logs,
        "spearman_correlation": 1.0,
    }
    assert set(wanted) == set(automl_metrics.QUANTITIES)
    assert {name: of_quantities(name) for name in wanted} == pytest.approx(wanted)


def test_undefined_metrics_are_nan_or_zero() -> None:
    constant = automl_metrics.one("spearman_correlation", REAL, np.ones(5), None, 0)
    assert constant == 0.0
    assert np.isnan(automl_metrics.one("root_mean_squared_log_error", -REAL, GUESS, None, 0))
    assert np.isnan(automl_metrics.one("normalized_mean_absolute_error", REAL, GUESS, None, 0, span=0.0))
    lacking = automl_metrics.one("average_precision_score_weighted", Y[:5], LABELS[:5], CHANCES[:5], 3)
    assert 0 <= lacking <= 1, "a fold may lack a class"
    with pytest.raises(ValueError, match="needs probabilities"):
        automl_metrics.one("AUC_micro", Y, LABELS, None, 3)


def test_names_of_automl_metrics_give_their_direction() -> None:
    for name in [*automl_metrics.CLASSES, *automl_metrics.QUANTITIES]:
        assert direction.of(name) == (direction.MIN if name.endswith("_error") else direction.MAX), name


def test_an_unknown_metric_is_refused_with_the_closest_name() -> None:
    scoring.check(["r2_score", "rmse", "neg_mean_squared_error"], has_classes=False)
    scoring.check(["norm_macro_recall", "accuracy", "top_k_accuracy"], has_classes=True)
    with pytest.raises(ConfigError, match="Did you mean 'r2_score'"):
        scoring.check(["r2score"], has_classes=False)
    with pytest.raises(ConfigError, match=r"'r2_score' is for regression: set dataset\.regression=true"):
        scoring.check(["r2_score"], has_classes=True)
    with pytest.raises(ConfigError, match="'accuracy' is for classification"):
        scoring.check(["accuracy"], has_classes=False)


def test_a_search_with_an_unknown_metric_is_refused_before_it_starts(refused_here: Refused) -> None:
    message = refused_here("-m", "model=pipeline", "sweep=automl", "sweep.metric=norm_makro_recall")
    assert "Did you mean 'norm_macro_recall'" in message
