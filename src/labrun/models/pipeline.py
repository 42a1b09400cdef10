"""scikit-learn pipelines: encoding of tables, a preprocessor, and an estimator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline

from labrun.config.instantiate import Node, build, locate, parameters
from labrun.errors import ConfigError
from labrun.models import MOST_CATEGORIES

OWN_KEYS = ("search_space", "regressor", "dense", "sparse")
"""Keys of a step that are not arguments: its search space, its regression variant, whether it needs dense samples, and
its replacement for sparse samples."""


def pipeline(
    preprocessor: Node,
    estimator: Node,
    preprocess: bool = False,
    folds: int = 5,
    cv_samples: int | None = None,
    metric: str | None = None,
    refit: bool = True,
    seed: int = 42,
    is_regression: bool = False,
    is_sparse: bool = False,
    columns: Mapping[str, list[str]] | None = None,
) -> Pipeline:
    """Build an unfitted pipeline.

    Args:
        preprocessor: config node of the preprocessor, `_target_` and arguments; `_target_: null`: no preprocessor.
        estimator: config node of the classifier, with its `regressor` for regression.
        preprocess: whether to fill a table's missing values and one-hot encode its text.
        folds: number of cross-validation folds; used by the task.
        cv_samples: maximum number of samples for cross-validation; used by the task.
        metric: the primary metric; used by the task.
        refit: whether to refit on all training data after cross-validation; used by the task.
        seed: seed of every randomised step.
        is_regression: whether the target is a quantity.
        is_sparse: whether the samples are a sparse matrix.
        columns: for a table, the names of its `numbers` and `categories` columns.

    Raises:
        ConfigError: a step cannot be built.
    """
    steps: list[tuple[str, Any]] = []
    if columns is not None and preprocess:
        steps.append(("table", _of_table(columns)))
        # One-hot columns are kept dense: most preprocessors need that, and there are few columns.
        is_sparse = False
    middle = _part(preprocessor, "model.preprocessor", seed, is_sparse)
    if middle is not None:
        steps.append(("preprocessor", middle))
    node = dict(estimator)
    if is_regression:
        other = node.get("regressor")
        if not other:
            raise ConfigError(f"model.estimator: {node.get('_target_')} has no regression variant (its key regressor)")
        node = _instead(node, other, "model.estimator")
    if is_sparse and node.get("dense"):
        from sklearn.preprocessing import FunctionTransformer

        steps.append(("dense", FunctionTransformer(dense, accept_sparse=True)))
    last = _part(node, "model.estimator", seed, is_sparse)
    if last is None:
        raise ConfigError("model.estimator._target_ is null: a pipeline must end in an estimator")
    if is_regression:
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.preprocessing import StandardScaler

        # Neural networks and support vector machines need targets of unit scale.
        last = TransformedTargetRegressor(last, transformer=StandardScaler())
    elif not hasattr(last, "predict_proba") and hasattr(last, "decision_function"):
        last = Calibrated(last, seed)
    return Pipeline([*steps, ("estimator", last)])


def _instead(node: Node, other: Any, key: str) -> dict[str, Any]:
    """Return a step's variant, given as a target or as keys; a new target keeps the arguments that it accepts."""
    given = dict(other) if isinstance(other, Mapping) else {"_target_": str(other)}
    if "_target_" not in given:
        return {**node, **given}
    known = parameters(locate(str(given["_target_"]), key))
    return {name: value for name, value in node.items() if name in known or name in OWN_KEYS} | given


def _part(node: Node, key: str, seed: int, is_sparse: bool) -> Any:
    if node.get("_target_") is None:
        return None
    if is_sparse and node.get("sparse"):
        node = _instead(node, node["sparse"], key)
    return build({name: value for name, value in node.items() if name not in OWN_KEYS}, key, random_state=seed)


def _of_table(columns: Mapping[str, list[str]]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    numbers = SimpleImputer(strategy="median", keep_empty_features=True)
    encode = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False, dtype=np.float64
    )
    words = Pipeline([("text", AsText()), ("encode", encode)])
    return ColumnTransformer(
        [("numbers", numbers, list(columns["numbers"])), ("categories", words, list(columns["categories"]))],
        verbose_feature_names_out=False,
    )


class AsText(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Converts values of any kind to text, missing values to a special word."""

    GAP = "(none)"

    def fit(self, x: Any, y: Any = None) -> AsText:
        """Only record the number of features."""
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> npt.NDArray[Any]:
        """Return (N, F) objects."""
        import pandas as pd

        values = np.asarray(x, dtype=object)
        return np.where(pd.isna(values), self.GAP, values.astype(str).astype(object))

    def get_feature_names_out(self, names: Any = None) -> Any:
        """Return the names unchanged."""
        return names


class Truncated(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Truncated SVD whose number of components is a share of the number of columns.

    Args:
        share: above 0, at most 1; at most `MOST` components are kept.
        random_state: seed of the random projections.
    """

    MOST = 200

    def __init__(self, share: float = 0.5, random_state: int | None = None) -> None:
        self.share = share
        self.random_state = random_state

    def fit(self, x: Any, y: Any = None) -> Truncated:
        """Compute the components."""
        from sklearn.decomposition import TruncatedSVD

        count = max(1, min(self.MOST, round(self.share * x.shape[1]), x.shape[1] - 1, x.shape[0] - 1))
        self.svd_ = TruncatedSVD(count, random_state=self.random_state).fit(x)
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> npt.NDArray[Any]:
        """Return (N, components)."""
        return np.asarray(self.svd_.transform(x))


def columns_of(table: Any) -> dict[str, list[str]]:
    """Return the columns of a pandas.DataFrame: those that hold numbers, and all others."""
    numbers = [str(name) for name in table.columns if table[name].dtype.kind in "iuf"]
    return {"numbers": numbers, "categories": [str(name) for name in table.columns if str(name) not in numbers]}


def dense(x: Any) -> Any:
    """Convert a sparse matrix to an array."""
    return x.toarray() if hasattr(x, "toarray") else x


def ridge(C: float = 1.0, max_iter: int | None = None) -> Ridge:  # noqa: N803 - as scikit-learn calls it
    """Build a ridge regression parametrised, like the classifiers, by the inverse penalty `C`."""
    return Ridge(alpha=1.0 / C, max_iter=max_iter)


class Calibrated(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Adds probabilities to a classifier that has only a decision function: the softmax of its scaled decisions.

    The scale is fitted on a held-out fifth of the data; then the classifier is fitted to all of them. That takes two
    fits, where `CalibratedClassifierCV` takes six. Predictions are the classifier's own.

    Source of the one-parameter scale: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        estimator: the classifier.
        seed: seed of the held-out split.
    """

    def __init__(self, estimator: Any, seed: int = 0) -> None:
        self.estimator = estimator
        self.seed = seed

    def fit(self, x: Any, y: npt.NDArray[Any]) -> Calibrated:
        """Fit the classifier and its scale."""
        self.classes_ = np.unique(y)
        self.scale_ = self._scale(x, y)
        self.estimator_ = clone(self.estimator).fit(x, y)
        self.n_features_in_ = x.shape[1]
        return self

    def _scale(self, x: Any, y: npt.NDArray[Any]) -> float:
        from scipy.optimize import minimize_scalar
        from sklearn.model_selection import StratifiedShuffleSplit

        codes = np.searchsorted(self.classes_, y)
        counts = np.bincount(codes)
        if counts.min() < 2 or len(y) < 10:
            return 1.0
        held_out = max(len(counts), round(0.2 * len(y)))
        if held_out > len(y) - len(counts):
            return 1.0
        split = StratifiedShuffleSplit(1, test_size=held_out, random_state=self.seed)
        kept, held = next(split.split(codes, codes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = clone(self.estimator).fit(_rows(x, kept), y[kept])
        scores, own = _decisions(trial, _rows(x, held)), codes[held]
        # Smoothed labels, after Platt: with hard ones, perfectly separated samples would make the scale infinite.
        wanted = np.full(scores.shape, 1 / (len(own) + scores.shape[1]))
        wanted[np.arange(len(own)), own] += 1 - wanted.sum(axis=1)

        def loss(log_scale: float) -> float:
            logits = scores * np.exp(log_scale)
            return float(np.mean(np.logaddexp.reduce(logits, axis=1) - (wanted * logits).sum(axis=1)))

        return float(np.exp(minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x))

    def decision_function(self, x: Any) -> npt.NDArray[Any]:
        """Return the classifier's own decisions."""
        return np.asarray(self.estimator_.decision_function(x))

    def predict(self, x: Any) -> npt.NDArray[Any]:
        """Return the classifier's own predictions."""
        return np.asarray(self.estimator_.predict(x))

    def predict_proba(self, x: Any) -> npt.NDArray[np.float64]:
        """Return (N, classes) probabilities."""
        logits = _decisions(self.estimator_, x) * self.scale_
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def _rows(x: Any, index: npt.NDArray[Any]) -> Any:
    return x.iloc[index] if hasattr(x, "iloc") else x[index]


def _decisions(model: Any, x: Any) -> npt.NDArray[np.float64]:
    """Return (N, classes) decisions, also for models with one column for two classes or one per pair of classes."""
    found = np.asarray(model.decision_function(x), dtype=np.float64)
    if found.ndim == 1:
        return np.stack([-found, found], axis=1) / 2
    classes = len(model.classes_)
    if getattr(model, "decision_function_shape", None) != "ovo" or classes < 3:
        return found
    summed = np.zeros((len(found), classes))
    first, second = np.triu_indices(classes, 1)
    for column, (i, j) in enumerate(zip(first, second, strict=True)):
        summed[:, i] += found[:, column]
        summed[:, j] -= found[:, column]
    return summed / (classes - 1)


def ensemble(
    members: list[Node],
    weights: list[float],
    preprocess: bool = False,
    folds: int = 5,
    cv_samples: int | None = None,
    metric: str | None = None,
    refit: bool = True,
    seed: int = 42,
    is_regression: bool = False,
    is_sparse: bool = False,
    columns: Mapping[str, list[str]] | None = None,
) -> Any:
    """Build an ensemble that averages the probabilities, or values, of several pipelines.

    Args:
        members: `preprocessor` and `estimator` of each pipeline, see `pipeline`.
        weights: weight of each pipeline.
        preprocess: whether to fill a table's missing values and one-hot encode its text.
        folds: used by the task.
        cv_samples: used by the task.
        metric: used by the task.
        refit: used by the task.
        seed: seed of every randomised step.
        is_regression: whether the target is a quantity.
        is_sparse: whether the samples are a sparse matrix.
        columns: for a table, see `pipeline`.
    """
    from sklearn.ensemble import VotingClassifier, VotingRegressor

    if not members or len(members) != len(weights):
        raise ConfigError(f"model.members has {len(members)} pipelines, but model.weights {len(weights)} numbers")
    named = [
        (
            f"member{place}",
            pipeline(
                node["preprocessor"],
                node["estimator"],
                preprocess=preprocess,
                seed=seed,
                is_regression=is_regression,
                is_sparse=is_sparse,
                columns=columns,
            ),
        )
        for place, node in enumerate(members)
    ]
    if is_regression:
        return VotingRegressor(named, weights=list(weights))
    return VotingClassifier(named, voting="soft", weights=list(weights))
