"""Defers the import of `scipy.signal` by torchmetrics, which takes a fifth of Lightning's import.

torchmetrics needs it only to restore `scipy.signal.hamming` for a metric of speech that uses SRMRpy. While torchmetrics
is imported, a stand-in that imports the module when it is first used takes its place.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

DEFERRED = "scipy.signal"
IMPORTER = "torchmetrics"
USERS = ("srmrpy", "gammatone")
"""Packages of the metric, `SpeechReverberationModulationEnergyRatio`."""


def install() -> None:
    """Defer `scipy.signal` when torchmetrics is imported, unless something needs it."""
    if not {DEFERRED, IMPORTER} & sys.modules.keys() and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds torchmetrics, once, as the other finders do, and has its import take place with the module deferred."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of torchmetrics; None for other modules."""
        if name != IMPORTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None and not any(map(importlib.util.find_spec, USERS)):
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(_with_deferred, execute)  # type: ignore[method-assign]
        return spec


def _with_deferred(execute: Any, module: ModuleType) -> None:
    """Execute a module while `scipy.signal` is deferred."""
    package, _, name = DEFERRED.rpartition(".")
    if DEFERRED in sys.modules or importlib.util.find_spec(package) is None:
        execute(module)
        return
    deferred = sys.modules[DEFERRED] = _Deferred(DEFERRED)
    setattr(importlib.import_module(package), name, deferred)
    try:
        execute(module)
    finally:
        deferred.is_patched = False
        deferred.leave()


class _Deferred(ModuleType):
    """A module that is imported when an attribute other than `hamming` is used."""

    is_patched = True
    """Whether to answer that `hamming` exists, so that torchmetrics does not add it."""

    def __getattr__(self, name: str) -> Any:
        if name == "hamming" and self.is_patched:
            return None
        if name == "__file__" and sys.modules.get(DEFERRED) is self:  # `inspect` asks each module for it
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(DEFERRED), name)

    def leave(self) -> None:
        """Leave its place to the module itself, unless it has."""
        if sys.modules.get(DEFERRED) is self:
            package, _, name = DEFERRED.rpartition(".")
            del sys.modules[DEFERRED]
            delattr(sys.modules[package], name)
