"""pandas as notebooks from 2018 call it: removed names, and positional arguments that are keyword-only since 2.0.

Imported only after the script itself has imported pandas.
"""

from __future__ import annotations

import functools
import inspect
import sys
from types import ModuleType
from typing import Any

from labrun.compat.azureml.notice import warn

METHODS = (
    *("all", "any", "max", "mean", "median", "min", "prod", "std", "sum", "var"),
    *("drop", "drop_duplicates", "dropna", "reset_index", "set_index", "sort_index", "sort_values"),
)
"""Methods of data frames and series that took positional arguments. Their order has not changed."""
FILLS = {"ffill": "ffill", "pad": "ffill", "bfill": "bfill", "backfill": "bfill"}


def extend(pandas: ModuleType) -> None:
    """Restore pandas' old calls. Calls that it still has are not changed.

    Args:
        pandas: the package.
    """
    tell = functools.lru_cache(maxsize=None)(warn)
    _extend_options(pandas, tell)
    for kind in (pandas.DataFrame, pandas.Series):
        for name in METHODS:
            _extend_method(kind, name, tell)
        _extend_fillna(kind, tell)
        if not hasattr(kind, "iteritems"):
            kind.iteritems = _renamed(kind.__name__, "iteritems", kind.items, tell)
        if not hasattr(kind, "append"):
            kind.append = _append(pandas, kind.__name__, tell)
    if not hasattr(pandas.DataFrame, "applymap"):
        pandas.DataFrame.applymap = _renamed("DataFrame", "applymap", pandas.DataFrame.map, tell)
    if not hasattr(pandas.DataFrame, "as_matrix"):
        pandas.DataFrame.as_matrix = _renamed("DataFrame", "as_matrix", pandas.DataFrame.to_numpy, tell)
    _extend_method(pandas, "concat", tell)


def _extend_options(pandas: Any, tell: Any) -> None:
    """Accept -1 for an unlimited column width."""
    set_option = pandas.set_option

    @functools.wraps(set_option)
    def old(*args: Any, **kwargs: Any) -> Any:
        try:
            return set_option(*args, **kwargs)
        except ValueError:
            if len(args) != 2 or args[1] != -1 or not str(args[0]).endswith("max_colwidth"):
                raise
            tell(f"pandas.set_option({args[0]!r}, -1) was removed in pandas 2.0; using None instead")
            return set_option(args[0], None)

    pandas.set_option = old
    config = sys.modules.get("pandas._config.config")
    if config is not None:  # for `pandas.options.display.max_colwidth = -1`
        config.__dict__["set_option"] = old


def _extend_method(kind: Any, name: str, tell: Any) -> None:
    """Let a method or function accept positional arguments that are keyword-only today."""
    method = getattr(kind, name, None)
    listed = inspect.signature(method).parameters.values() if method is not None else ()
    count = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in listed)
    named = [one.name for one in listed if one.kind is one.KEYWORD_ONLY]
    if not named:
        return

    @functools.wraps(method)  # type: ignore[arg-type]
    def old(*args: Any, **kwargs: Any) -> Any:
        more = dict(zip(named, args[count:]))  # noqa: B905 (Python 3.6)
        if more and len(more) == len(args) - count and not kwargs.keys() & more.keys():
            args, kwargs = args[:count], {**kwargs, **more}
            keywords = ", ".join(f"{key}={value!r}" for key, value in more.items())
            tell(f"{kind.__name__}.{name}() requires keyword arguments since pandas 2.0; using {keywords}")
        return method(*args, **kwargs)  # type: ignore[misc]

    setattr(kind, name, old)


def _extend_fillna(kind: Any, tell: Any) -> None:
    """Let `fillna` accept `method="ffill"`."""
    fillna = kind.fillna
    if "method" in inspect.signature(fillna).parameters:
        return

    @functools.wraps(fillna)
    def old(self: Any, value: Any = None, *args: Any, **kwargs: Any) -> Any:
        way = FILLS.get(kwargs.pop("method", None))
        if way is None:
            return fillna(self, value, *args, **kwargs)
        tell(f"{kind.__name__}.fillna(method=) was removed in pandas 3.0; using {way}() instead")
        return getattr(self, way)(**kwargs)

    kind.fillna = old


def _renamed(kind: str, name: str, method: Any, tell: Any) -> Any:
    def old(self: Any, *args: Any, **kwargs: Any) -> Any:
        tell(f"{kind}.{name}() was removed in pandas 2.0; using {kind}.{method.__name__}() instead")
        return method(self, *args, **kwargs)

    return old


def _append(pandas: ModuleType, kind: str, tell: Any) -> Any:
    def append(
        self: Any, other: Any, ignore_index: bool = False, verify_integrity: bool = False, sort: bool = False
    ) -> Any:
        tell(f"{kind}.append() was removed in pandas 2.0; using pandas.concat() instead")
        others = list(other) if isinstance(other, (list, tuple)) else [other]
        if kind == "DataFrame":
            others = [one if isinstance(one, pandas.DataFrame) else pandas.DataFrame([one]) for one in others]
        return pandas.concat([self, *others], ignore_index=ignore_index, verify_integrity=verify_integrity, sort=sort)

    return append
