"""Imports `skops.io` without torch and pytest, and without the lists of trusted types, which only loading needs."""

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
"""Lists the types that skops trusts by default. To do so, it imports all of scikit-learn and looks up the module of
each function of NumPy and SciPy, which takes longer than many fits. Saving a model does not need it."""
SHIMS = {"sklearn.externals.array_api_compat.torch": "torch", "pytest": "pytest"}
"""Modules that it would import although no estimator needs them, and their packages."""


_IS_TRUSTED = ContextVar("_IS_TRUSTED", default=False)


class _Later(UserList[str]):
    """One of the lists, created when it is first read.

    Args:
        name: its name in the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def data(self) -> list[str]:  # type: ignore[override]
        return [] if _IS_TRUSTED.get() else self._whole()

    def _whole(self) -> list[str]:
        return list(getattr(load_lists(), self._name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self._whole()

    def __add__(self, other: Any) -> Any:
        return [*self.data, *other]

    def __radd__(self, other: Any) -> Any:
        return [*other, *self.data]


class _Lists(ModuleType):
    """Stand-in for the module with the lists."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(name)


def load() -> Any:
    """Return the module `skops.io`."""
    if "skops.io" not in sys.modules:
        sys.modules[TRUSTED] = _Lists(TRUSTED)
        with _without_shims():
            importlib.import_module("skops.io")
    return sys.modules["skops.io"]


@contextlib.contextmanager
def trusting() -> Iterator[None]:
    """Treat skops' lists of trusted types as empty in the context, for a file whose types are all trusted anyway."""
    token = _IS_TRUSTED.set(True)
    try:
        yield
    finally:
        _IS_TRUSTED.reset(token)


def load_lists() -> ModuleType:
    """Return the module with the lists of trusted types."""
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
