"""skops' reader and writer of models, imported without what only a reader needs, and without torch and pytest."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import UserList
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

TRUSTED = "skops.io._trusted_types"
"""Lists the types that may be loaded unasked. For that it imports all of scikit-learn and looks for the module of each
of NumPy's and SciPy's functions, which takes longer than many a fit; whoever saves a model needs none of it."""
SHIMS = {"sklearn.externals.array_api_compat.torch": "torch", "pytest": "pytest"}
"""What that would import for the sake of no estimator, and the package that it is a part of."""


_IS_TRUSTED = ContextVar("_IS_TRUSTED", default=False)


class _Later(UserList[str]):
    """One of the lists, made when somebody reads it.

    Args:
        name: its name in the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def data(self) -> list[str]:  # type: ignore[override]
        return [] if _IS_TRUSTED.get() else self._whole()

    def _whole(self) -> list[str]:
        return list(getattr(_trusted(), self._name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self._whole()

    def __add__(self, other: Any) -> Any:
        return [*self.data, *other]

    def __radd__(self, other: Any) -> Any:
        return [*other, *self.data]


class _Lists(ModuleType):
    """In the place of the module of lists."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(name)


def load() -> Any:
    """The module `skops.io`."""
    if "skops.io" not in sys.modules:
        sys.modules[TRUSTED] = _Lists(TRUSTED)
        with _without_shims():
            importlib.import_module("skops.io")
    return sys.modules["skops.io"]


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """Inside, no type is one that may be loaded unasked: for a file whose every type is trusted as it is."""
    token = _IS_TRUSTED.set(True)
    try:
        yield
    finally:
        _IS_TRUSTED.reset(token)


def _trusted() -> ModuleType:
    if isinstance(sys.modules.get(TRUSTED), _Lists):
        del sys.modules[TRUSTED]
        with _without_shims():
            importlib.import_module(TRUSTED)
    return sys.modules[TRUSTED]


@contextlib.contextmanager
def _without_shims() -> Iterator[None]:
    blocked = [name for name, package in SHIMS.items() if name not in sys.modules and package not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in blocked:
            sys.modules.pop(name, None)
