"""A pipeline of scikit-learn: what makes numbers of a table, a preprocessor, and an estimator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline

from labrun.building import build, locate, parameters
from labrun.errors import ConfigError

OWN_KEYS = ("search_space", "regressor", "dense", "sparse")
"""Keys of a part that say something about it, and are not arguments: its form for regression, whether it wants dense
samples, and what takes its place where samples are sparse."""
MOST_CATEGORIES = 50
"""Maximum number of columns that one column becomes; rare values share one."""


def pipeline(
    preprocessor: Mapping[str, Any],
    estimator: Mapping[str, Any],
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
    """Build one, unfitted.

    Args:
        preprocessor: the node of the preprocessor, `_target_` and arguments; `_target_: null` is none.
        estimator: the node of the classifier, with its `regressor` for quantities.
        preprocess: whether a table's gaps are filled and its text is one-hot encoded.
        folds: of the cross-validation; for the task that carries it out.
        cv_samples: how many samples that takes at most; for the task too.
        metric: the primary one; for that task too.
        refit: whether it is fitted to all training data in the end; likewise.
        seed: of every part that draws at random.
        is_regression: a quantity is predicted.
        is_sparse: the samples are a sparse matrix.
        columns: of a table, the names of the columns of `numbers` and of `categories`.

    Raises:
        ConfigError: a part cannot be built.
    """
    steps: list[tuple[str, Any]] = []
    if columns is not None and preprocess:
        steps.append(("table", _of_table(columns)))
        # One-hot columns are kept dense: most preprocessors want that, and there are few columns.
        is_sparse = False
    middle = _part(preprocessor, "model.preprocessor", seed, is_sparse)
    if middle is not None:
        steps.append(("preprocessor", middle))
    node = dict(estimator)
    if is_regression:
        other = node.get("regressor")
        if not other:
            raise ConfigError(f"model.estimator: {node.get('_target_')} has no form for regression (its key regressor)")
        node = _instead(node, other, "model.estimator")
    if is_sparse and node.get("dense"):
        from sklearn.preprocessing import FunctionTransformer

        steps.append(("dense", FunctionTransformer(dense, accept_sparse=True)))
    last = _part(node, "model.estimator", seed, is_sparse)
    if last is None:
        raise ConfigError("model.estimator._target_ is null: a pipeline ends in an estimator")
    if is_regression:
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.preprocessing import StandardScaler

        # Networks and support vector machines want quantities of about 1.
        last = TransformedTargetRegressor(last, transformer=StandardScaler())
    elif not hasattr(last, "predict_proba") and hasattr(last, "decision_function"):
        last = Calibrated(last, seed)
    return Pipeline([*steps, ("estimator", last)])


def _instead(node: Mapping[str, Any], other: Any, key: str) -> dict[str, Any]:
    """A part's other form: a target, or keys; of the part's own arguments it keeps those that it takes."""
    given = dict(other) if isinstance(other, Mapping) else {"_target_": str(other)}
    if "_target_" not in given:
        return {**node, **given}
    known = parameters(locate(str(given["_target_"]), key))
    return {name: value for name, value in node.items() if name in known or name in OWN_KEYS} | given


def _part(node: Mapping[str, Any], key: str, seed: int, is_sparse: bool) -> Any:
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
    """Values of any kind as text, gaps as a word of their own."""

    GAP = "(none)"

    def fit(self, x: Any, y: Any = None) -> AsText:
        """Learns nothing."""
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> npt.NDArray[Any]:
        """(N, F) objects."""
        import pandas as pd

        values = np.asarray(x, dtype=object)
        return np.where(pd.isna(values), self.GAP, values.astype(str).astype(object))

    def get_feature_names_out(self, names: Any = None) -> Any:
        """The columns keep their names."""
        return names


class Truncated(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The largest singular vectors, as many as a share of the columns.

    Args:
        share: above 0, at most 1; no more than `MOST` vectors are taken.
        random_state: of the random projections.
    """

    MOST = 200

    def __init__(self, share: float = 0.5, random_state: int | None = None) -> None:
        self.share = share
        self.random_state = random_state

    def fit(self, x: Any, y: Any = None) -> Truncated:
        """Find them."""
        from sklearn.decomposition import TruncatedSVD

        count = max(1, min(self.MOST, round(self.share * x.shape[1]), x.shape[1] - 1, x.shape[0] - 1))
        self.svd_ = TruncatedSVD(count, random_state=self.random_state).fit(x)
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> npt.NDArray[Any]:
        """(N, vectors)."""
        return np.asarray(self.svd_.transform(x))


def columns_of(table: Any) -> dict[str, list[str]]:
    """The columns of a pandas.DataFrame: those that hold numbers, and those that hold anything else."""
    numbers = [str(name) for name in table.columns if table[name].dtype.kind in "iuf"]
    return {"numbers": numbers, "categories": [str(name) for name in table.columns if str(name) not in numbers]}


def dense(x: Any) -> Any:
    """A sparse matrix as an array."""
    return x.toarray() if hasattr(x, "toarray") else x


def ridge(C: float = 1.0, max_iter: int | None = None) -> Ridge:  # noqa: N803 - as scikit-learn calls it
    """Ridge regression, by the inverse of its penalty as the classifiers have it."""
    return Ridge(alpha=1.0 / C, max_iter=max_iter)


class Calibrated(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier with a decision function, made to give probabilities: the softmax of its scaled decisions.

    The scale is found on a held-out fifth; then the classifier is fitted to everything. Two fits, where
    `CalibratedClassifierCV` takes six. Predictions are the classifier's own.

    Source of the one-parameter scale: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        estimator: the classifier.
        seed: of what is held out.
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
        # Not quite sure of any label, as Platt has it: else samples that are told apart would make the scale infinite.
        wanted = np.full(scores.shape, 1 / (len(own) + scores.shape[1]))
        wanted[np.arange(len(own)), own] += 1 - wanted.sum(axis=1)

        def loss(log_scale: float) -> float:
            logits = scores * np.exp(log_scale)
            return float(np.mean(np.logaddexp.reduce(logits, axis=1) - (wanted * logits).sum(axis=1)))

        return float(np.exp(minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x))

    def decision_function(self, x: Any) -> npt.NDArray[Any]:
        """The classifier's own."""
        return np.asarray(self.estimator_.decision_function(x))

    def predict(self, x: Any) -> npt.NDArray[Any]:
        """The classifier's own."""
        return np.asarray(self.estimator_.predict(x))

    def predict_proba(self, x: Any) -> npt.NDArray[np.float64]:
        """(N, classes) probabilities."""
        logits = _decisions(self.estimator_, x) * self.scale_
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(chances / chances.sum(axis=1, keepdims=True))


def _rows(x: Any, index: npt.NDArray[Any]) -> Any:
    return x.iloc[index] if hasattr(x, "iloc") else x[index]


def _decisions(model: Any, x: Any) -> npt.NDArray[np.float64]:
    """(N, classes) decisions, from one column for two classes, or from one for each pair of classes."""
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
    members: list[Mapping[str, Any]],
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
    """Several pipelines whose probabilities, or values, are averaged.

    Args:
        members: `preprocessor` and `estimator` of each, as `pipeline` takes them.
        weights: of each.
        preprocess: whether a table's gaps are filled and its text is one-hot encoded.
        folds: for the task.
        cv_samples: for the task.
        metric: for the task.
        refit: for the task.
        seed: of every part that draws at random.
        is_regression: a quantity is predicted.
        is_sparse: the samples are a sparse matrix.
        columns: of a table, see `pipeline`.
    """
    from sklearn.ensemble import VotingClassifier, VotingRegressor

    if not members or len(members) != len(weights):
        raise ConfigError(f"model.members has {len(members)} pipelines and model.weights {len(weights)} numbers")
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
