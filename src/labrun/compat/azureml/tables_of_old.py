"""pandas as notebooks of 2018 call it: names that are gone, and arguments that have to be named since 2.0.

Imported only once the script itself has imported pandas.
"""

from __future__ import annotations

import functools
import inspect
import sys
from types import ModuleType
from typing import Any

from labrun.compat.azureml.notice import warn

ARGUMENTS = {
    "drop": ("labels", "axis", "index", "columns", "level", "inplace", "errors"),
    "sort_index": ("axis", "level", "ascending", "inplace", "kind", "na_position"),
}
"""Methods of tables that took their arguments by place, and the order that these had."""


def extend(pandas: ModuleType) -> None:
    """Give pandas its old calls back; what it still has is left alone.

    Args:
        pandas: the package.
    """
    tell = functools.lru_cache(maxsize=None)(warn)
    _extend_options(pandas, tell)
    for kind in (pandas.DataFrame, pandas.Series):
        for name, order in ARGUMENTS.items():
            _extend_method(kind, name, order, tell)
        if not hasattr(kind, "iteritems"):
            kind.iteritems = _renamed(kind.__name__, "iteritems", kind.items, tell)
        if not hasattr(kind, "append"):
            kind.append = _append(pandas, kind.__name__, tell)


def _extend_options(pandas: Any, tell: Any) -> None:
    """Take -1 for the width of a column that has no bound."""
    set_option = pandas.set_option

    @functools.wraps(set_option)
    def old(*args: Any, **kwargs: Any) -> Any:
        try:
            return set_option(*args, **kwargs)
        except ValueError:
            if len(args) != 2 or args[1] != -1 or not str(args[0]).endswith("max_colwidth"):
                raise
            tell(f"pandas.set_option({args[0]!r}, -1) is gone since pandas 2.0; None is set instead")
            return set_option(args[0], None)

    pandas.set_option = old
    config = sys.modules.get("pandas._config.config")
    if config is not None:  # for `pandas.options.display.max_colwidth = -1`
        config.__dict__["set_option"] = old


def _extend_method(kind: Any, name: str, order: tuple[str, ...], tell: Any) -> None:
    """Let a method take by place what has to be named today."""
    method = getattr(kind, name)
    listed = list(inspect.signature(method).parameters.values())[1:]
    by_place = [one for one in listed if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    names = {one.name for one in listed}
    if len(by_place) == len(listed):
        return

    @functools.wraps(method)
    def old(self: Any, *args: Any, **kwargs: Any) -> Any:
        more = dict(zip(order[len(by_place) :], args[len(by_place) :]))  # noqa: B905 (Python 3.6)
        if more and names.issuperset(more) and not kwargs.keys() & more.keys():
            args, kwargs = args[: len(by_place)], {**kwargs, **more}
            told = ", ".join(f"{key}={value!r}" for key, value in more.items())
            tell(f"{kind.__name__}.{name}() takes its arguments by their names since pandas 2.0; {told} is given")
        return method(self, *args, **kwargs)

    setattr(kind, name, old)


def _renamed(kind: str, name: str, method: Any, tell: Any) -> Any:
    def old(self: Any) -> Any:
        tell(f"{kind}.{name}() is gone since pandas 2.0; {kind}.{method.__name__}() is given instead")
        return method(self)

    return old


def _append(pandas: ModuleType, kind: str, tell: Any) -> Any:
    def append(
        self: Any, other: Any, ignore_index: bool = False, verify_integrity: bool = False, sort: bool = False
    ) -> Any:
        tell(f"{kind}.append() is gone since pandas 2.0; pandas.concat() is given instead")
        others = list(other) if isinstance(other, (list, tuple)) else [other]
        if kind == "DataFrame":
            others = [one if isinstance(one, pandas.DataFrame) else pandas.DataFrame([one]) for one in others]
        return pandas.concat([self, *others], ignore_index=ignore_index, verify_integrity=verify_integrity, sort=sort)

    return append
