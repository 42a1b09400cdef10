"""`LogisticRegression` as scripts from 2019 call it: `multi_class` and multiclass liblinear, both removed in 1.8.

Imported only after the script itself has imported scikit-learn.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from labrun.compat.azureml.notice import warn


def extend(module: ModuleType) -> None:
    """Restore the class's old argument and its old handling of several classes.

    Args:
        module: `sklearn.linear_model._logistic`; not changed if it still has both.
    """
    kind: Any = module.LogisticRegression
    if "multi_class" in inspect.signature(kind.__init__).parameters:
        return
    begin, fit, predict_proba = kind.__init__, kind.fit, kind.predict_proba
    tell = functools.lru_cache(maxsize=None)(warn)

    # Keep today's signature, from which scikit-learn derives the parameters.
    @functools.wraps(begin)
    def old_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if "multi_class" in kwargs:
            way = kwargs.pop("multi_class")
            self._one_vs_rest = way == "ovr"
            given = "fitting one model per class" if self._one_vs_rest else "ignoring it"
            tell(f"LogisticRegression(multi_class={way!r}) was removed in scikit-learn 1.8; {given}")
        begin(self, *args, **kwargs)

    @functools.wraps(fit)
    def old_fit(self: Any, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803 (scikit-learn's name)
        import numpy

        classes = numpy.unique(numpy.asarray(y))
        if len(classes) <= 2 or not _one_vs_rest(self):
            return fit(self, X, y, sample_weight)
        if self.solver == "liblinear":
            tell(
                "LogisticRegression(solver='liblinear') for several classes was removed in scikit-learn 1.8; fitting "
                "one model per class, as it did"
            )
        return _fit_each(self, fit, X, numpy.asarray(y), classes, sample_weight)

    @functools.wraps(predict_proba)
    def old_predict_proba(self: Any, X: Any) -> Any:  # noqa: N803 (scikit-learn's name)
        return self._predict_proba_lr(X) if _one_vs_rest(self) else predict_proba(self, X)

    kind.__init__, kind.fit, kind.predict_proba = old_init, old_fit, old_predict_proba


def _one_vs_rest(model: Any) -> bool:
    return model.solver == "liblinear" or getattr(model, "_one_vs_rest", False)


def _fit_each(model: Any, fit: Any, x: Any, y: Any, classes: Any, sample_weight: Any) -> Any:
    """Fit one model per class against the rest, and merge them into the script's model."""
    import numpy
    from sklearn.base import clone
    from sklearn.utils.class_weight import compute_class_weight

    # Like liblinear: a class has its own weight in its own model and weight 1 among the rest.
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
