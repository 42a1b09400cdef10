"""Restores library calls that scripts from 2018 make and that have since been removed, with one warning each.

Nothing is imported for this: a removed module is found when the script imports it and no other finder has it, and a
library is extended right after the script has imported it.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from labrun.compat.azureml.notice import warn

MODULES = {
    "sklearn.externals.joblib": ("joblib", "scikit-learn 0.23", "the package joblib"),
    "sklearn.externals.six": ("six", "scikit-learn 0.23", "the package six"),
    "sklearn.cross_validation": ("sklearn.model_selection", "scikit-learn 0.20", "sklearn.model_selection"),
    "sklearn.grid_search": ("sklearn.model_selection", "scikit-learn 0.20", "sklearn.model_selection"),
    "pkg_resources": ("labrun.compat.azureml.distributions", "setuptools 82", "importlib.metadata for parts of it"),
    "sklearn.learning_curve": ("sklearn.model_selection", "scikit-learn 0.20", "sklearn.model_selection"),
}
"""Removed modules: the replacement, the release that removed them, and the replacement's description."""

BUILTINS = {
    "bool": "bool",
    "complex": "complex",
    "float": "float",
    "int": "int",
    "object": "object",
    "str": "str",
    "long": "int",
    "unicode": "str",
}
"""NumPy's names for Python's builtin types, removed in 1.24."""

RENAMED = {
    "float_": "float64",
    "complex_": "complex128",
    "unicode_": "str_",
    "string_": "bytes_",
    "Inf": "inf",
    "Infinity": "inf",
    "infty": "inf",
    "NaN": "nan",
    "product": "prod",
    "cumproduct": "cumprod",
    "sometrue": "any",
    "alltrue": "all",
}
"""NumPy's aliases for its own functions and types, removed in 2.0."""


def install() -> None:
    """Restore the calls in this process."""
    if any(isinstance(finder, _RemovedModules) for finder in sys.meta_path):
        return
    # Last, so that it is used only if the installed library has no such module.
    sys.meta_path.append(_RemovedModules())
    sys.meta_path.insert(0, _Extending())
    for name, extend in EXTENDED.items():
        if name in sys.modules:
            extend(sys.modules[name])


class _RemovedModules:
    """Finds removed modules and substitutes their replacements.

    Neither it nor `_Extending` has a base of `importlib.abc`, whose import would take as long as all others here.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        loader: Any = self
        return ModuleSpec(fullname, loader) if fullname in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name, since, given = MODULES[module.__name__]
        # Replace it here: returning it from create_module would overwrite the replacement's own __spec__.
        sys.modules[module.__name__] = importlib.import_module(name)
        warn(f"{module.__name__} was removed in {since}; using {given} instead")


class _Extending:
    """Lets the other finders load a module and extends it right afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        extend = EXTENDED.get(fullname)
        if extend is None:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((one for one in found if one is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            # Keep the original loader: others read resources and sources through it.
            del loader.exec_module
            load(module)
            extend(module)

        loader.exec_module = exec_module
        return spec


def _extend_numpy(numpy: ModuleType) -> None:
    """Restore the names that the installed NumPy no longer has."""
    known = getattr(numpy, "__getattr__", None)

    def look_up(name: str) -> Any:
        if name not in BUILTINS and name not in RENAMED:
            if known is not None:
                return known(name)
            raise AttributeError(f"module 'numpy' has no attribute {name!r}")
        try:
            with warnings.catch_warnings():
                # NumPy's own warning would point at this file and repeat the one below.
                warnings.simplefilter("ignore")
                if known is not None:
                    return known(name)
        except AttributeError:
            pass
        if name in BUILTINS:
            value, advice = getattr(builtins, BUILTINS[name]), f"1.24; using the builtin {BUILTINS[name]}"
        else:
            value, advice = getattr(numpy, RENAMED[name]), f"2.0; using np.{RENAMED[name]}"
        # Stored, so that the next access does not come here and the warning is printed only once.
        setattr(numpy, name, value)
        warn(f"np.{name} was removed in NumPy {advice} instead")
        return value

    numpy.__dict__["__getattr__"] = look_up


def _extend_logistic_regression(module: ModuleType) -> None:
    from labrun.compat.azureml import logistic

    logistic.extend(module)


def _extend_encoders(module: ModuleType) -> None:
    """Let `OneHotEncoder` accept `sparse`, now called `sparse_output`."""
    import inspect

    kind: Any = module.__dict__["OneHotEncoder"]
    begin = kind.__init__
    if "sparse" in inspect.signature(begin).parameters:
        return
    tell = functools.lru_cache(maxsize=None)(warn)

    # Keep today's signature, from which scikit-learn derives the parameters.
    @functools.wraps(begin)
    def old_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if "sparse" in kwargs:
            kwargs["sparse_output"] = kwargs.pop("sparse")
            tell("OneHotEncoder(sparse=) was removed in scikit-learn 1.4; using sparse_output= instead")
        begin(self, *args, **kwargs)

    kind.__init__ = old_init


def _extend_errors(module: ModuleType) -> None:
    """Let error metrics accept `squared=False`, for which there are separate functions now."""
    import inspect

    for name in ("mean_squared_error", "mean_squared_log_error"):
        plain, root = (module.__dict__.get(one) for one in (name, f"root_{name}"))
        if plain is not None and root is not None and "squared" not in inspect.signature(plain).parameters:
            setattr(module, name, _with_squared(name, plain, root))


def _with_squared(name: str, plain: Any, root: Any) -> Any:
    tell = functools.lru_cache(maxsize=None)(warn)

    @functools.wraps(plain)
    def old(*args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("squared", True):
            return plain(*args, **kwargs)
        tell(f"{name}(squared=False) was removed in scikit-learn 1.6; using {root.__name__}() instead")
        return root(*args, **kwargs)

    return old


def _extend_pandas(module: ModuleType) -> None:
    from labrun.compat.azureml import legacy_pandas

    legacy_pandas.extend(module)


EXTENDED: dict[str, Callable[[ModuleType], None]] = {
    "numpy": _extend_numpy,
    "pandas": _extend_pandas,
    "sklearn.linear_model._logistic": _extend_logistic_regression,
    "sklearn.metrics._regression": _extend_errors,
    "sklearn.preprocessing._encoders": _extend_encoders,
}
"""The extension to apply to a module right after it is loaded."""
