"""scikit-learn's logistic regression, parametrised by a regularization rate as in the Azure ML tutorial."""

from __future__ import annotations

import logging
from typing import Any

from sklearn import linear_model

from labrun.errors import MissingExtraError
from labrun.models.blocks import BlockedLogisticRegression
from labrun.runs import context


def logistic_regression(
    regularization: float = 0.01,
    max_iter: int = 100,
    tol: float = 1e-4,
    solver: str = "auto",
    backend: str = "sklearn",
    seed: int = 42,
) -> Any:
    """Build a logistic regression with `C = 1 / regularization`.

    The rate is logged as the metric `regularization rate`.

    Args:
        regularization: weight of the L2 penalty, above 0.
        max_iter: maximum number of iterations.
        tol: gradient below which the fit has converged.
        solver: one of scikit-learn's; or `auto`: lbfgs, with a blockwise gradient if the data are large enough to
            benefit (`labrun.models.blocks`; `benchmarks/results/logistic_regression.md`).
        backend: `sklearn`, or `intelex` for Intel's extension (an extra).
        seed: seed of randomised solvers.

    Returns:
        An unfitted scikit-learn classifier.

    Raises:
        MissingExtraError: `backend=intelex` and scikit-learn-intelex is not installed.
    """
    context.log("regularization rate", regularization, step=0)
    if backend == "intelex":
        try:
            from sklearnex.linear_model import LogisticRegression

            logging.getLogger("sklearnex").setLevel(logging.WARNING)
        except ImportError as error:
            raise MissingExtraError("scikit-learn-intelex", "intelex", "model.backend=intelex") from error
    else:
        LogisticRegression = BlockedLogisticRegression if solver == "auto" else linear_model.LogisticRegression  # noqa: N806
    kind = "lbfgs" if solver == "auto" else solver
    return LogisticRegression(C=1.0 / regularization, max_iter=max_iter, tol=tol, solver=kind, random_state=seed)


def portable(model: Any) -> Any:
    """Convert a fitted model to scikit-learn's own class, which loads without labrun or an extension."""
    LogisticRegression = linear_model.LogisticRegression  # noqa: N806
    extension = type(model).__module__.startswith(("sklearnex.", "daal4py.")) and hasattr(model, "coef_")
    if not isinstance(model, BlockedLogisticRegression) and not extension:
        return model
    plain = LogisticRegression()
    known = plain.get_params()
    plain.set_params(**{name: value for name, value in model.get_params().items() if name in known})
    for name in ("coef_", "intercept_", "classes_", "n_iter_", "n_features_in_"):
        setattr(plain, name, getattr(model, name))
    return plain
