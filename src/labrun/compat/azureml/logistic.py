"""`LogisticRegression` as scripts of 2019 call it: `multi_class`, and liblinear for several classes, gone since 1.8.

Imported only once the script itself has imported scikit-learn.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from labrun.compat.azureml.notice import warn


def extend(module: ModuleType) -> None:
    """Give the class its old argument and its old way with several classes back.

    Args:
        module: `sklearn.linear_model._logistic`; one that still has both is left alone.
    """
    kind: Any = module.LogisticRegression
    if "multi_class" in inspect.signature(kind.__init__).parameters:
        return
    begin, fit, predict_proba = kind.__init__, kind.fit, kind.predict_proba
    tell = functools.lru_cache(maxsize=None)(warn)

    # The signature stays that of today, by which scikit-learn knows the parameters.
    @functools.wraps(begin)
    def old_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if "multi_class" in kwargs:
            way = kwargs.pop("multi_class")
            self._one_vs_rest = way == "ovr"
            given = "one model per class is fitted" if self._one_vs_rest else "it is left out"
            tell(f"LogisticRegression(multi_class={way!r}) is gone since scikit-learn 1.8; {given}")
        begin(self, *args, **kwargs)

    @functools.wraps(fit)
    def old_fit(self: Any, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803 (scikit-learn's name)
        import numpy

        classes = numpy.unique(numpy.asarray(y))
        if len(classes) <= 2 or not _one_vs_rest(self):
            return fit(self, X, y, sample_weight)
        if self.solver == "liblinear":
            tell(
                "LogisticRegression(solver='liblinear') for several classes is gone since scikit-learn 1.8; one model "
                "per class is fitted, as then"
            )
        return _fit_each(self, fit, X, numpy.asarray(y), classes, sample_weight)

    @functools.wraps(predict_proba)
    def old_predict_proba(self: Any, X: Any) -> Any:  # noqa: N803 (scikit-learn's name)
        return self._predict_proba_lr(X) if _one_vs_rest(self) else predict_proba(self, X)

    kind.__init__, kind.fit, kind.predict_proba = old_init, old_fit, old_predict_proba


def _one_vs_rest(model: Any) -> bool:
    return model.solver == "liblinear" or getattr(model, "_one_vs_rest", False)


def _fit_each(model: Any, fit: Any, x: Any, y: Any, classes: Any, sample_weight: Any) -> Any:
    """One model per class against the rest, put together into the one that the script has."""
    import numpy
    from sklearn.base import clone
    from sklearn.utils.class_weight import compute_class_weight

    # As liblinear does it: a class counts with its weight where it is the one, with 1 among the rest.
    weights = compute_class_weight(model.class_weight, classes=classes, y=y)
    parts = []
    for label, weight in zip(classes, weights):  # noqa: B905 (`strict` is not in Python 3.8)
        part = clone(model).set_params(class_weight={True: weight, False: 1.0})
        parts.append(fit(part, x, y == label, sample_weight))
    model.classes_ = classes
    model.coef_ = numpy.vstack([part.coef_ for part in parts])
    model.intercept_ = numpy.concatenate([numpy.atleast_1d(part.intercept_) for part in parts])
    model.n_iter_ = numpy.concatenate([part.n_iter_ for part in parts])
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(parts[0], name):
            setattr(model, name, getattr(parts[0], name))
    return model
