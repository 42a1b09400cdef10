"""Block-wise logistic regression, compared with scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from labrun.models import blocks
from labrun.models.blocks import BlockedLogisticRegression


def pictures(rows: int = 7000, features: int = 600, classes: int = 5) -> tuple[Any, Any]:
    """Rows of which each class leaves other columns at zero, as pictures do."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, classes, rows)
    x = rng.random((rows, features), dtype=np.float32)
    x *= rng.random((classes, features))[y] > 0.4
    x[:, :50] = 0
    return x + 0.0, y * 2 + 1


@pytest.mark.parametrize("regularization", [1.0, 30.0])
def test_coefficients_are_close_to_scikit_learns(regularization: float) -> None:
    x, y = pictures()
    settings = {"C": 1 / regularization, "max_iter": 300, "tol": 1e-5}
    ours, theirs = BlockedLogisticRegression(**settings).fit(x, y), LogisticRegression(**settings).fit(x, y)
    assert np.abs(ours.coef_ - theirs.coef_).max() < 0.02 * np.abs(theirs.coef_).max()
    assert np.abs(ours.predict_proba(x) - theirs.predict_proba(x)).max() < 0.01
    assert (ours.classes_ == theirs.classes_).all()
    assert (ours.coef_.shape, ours.intercept_.shape) == (theirs.coef_.shape, theirs.intercept_.shape)
    assert ours.coef_.dtype == theirs.coef_.dtype


def test_the_gradient_matches_finite_differences() -> None:
    x, y = pictures(rows=1200, features=30, classes=3)
    with blocks._one_blas_thread_each() as each:
        objective = blocks._Objective(x, y // 2, 3, 5.0, each)
        rng = np.random.default_rng(0)
        at, along = rng.normal(size=objective.size) * 0.1, rng.normal(size=objective.size)
        ahead, behind = objective(at + 1e-2 * along)[0], objective(at - 1e-2 * along)[0]
        assert objective(at)[1] @ along == pytest.approx((ahead - behind) / 2e-2, rel=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    x, y = pictures()
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, "blas"):
            found.append(BlockedLogisticRegression(max_iter=15).fit(x, y).coef_)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def test_too_few_iterations_are_reported() -> None:
    with pytest.warns(ConvergenceWarning, match="max_iter=3"):
        assert BlockedLogisticRegression(max_iter=3).fit(*pictures()).n_iter_ == [3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    x, y = pictures()
    x[5, 100] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        BlockedLogisticRegression().fit(x, y)


def test_problems_without_a_speedup_are_left_to_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the blocks were used")

    monkeypatch.setattr(blocks, "_Objective", never)
    x, y = pictures(rows=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for rows, labels, kind in ((x, y, "few"), (x, y > 1, "binary"), (x.astype(float), y, "float64")):
            fitted = BlockedLogisticRegression(max_iter=5).fit(rows, labels)
            assert fitted.coef_.shape[1] == x.shape[1], kind
    with pytest.raises(AssertionError, match="blocks were used"):
        BlockedLogisticRegression().fit(*pictures())
