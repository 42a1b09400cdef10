"""Defers imports of libraries that runs do not use: a fifth of Lightning's import, and an eighth of scikit-learn's.

torchmetrics imports `scipy.signal` to restore its function `hamming` for a metric of speech that uses SRMRpy, and
scikit-learn imports pandas, and thus PyArrow, for two functions on tables. While either library is imported, a stand-in
takes the place of that module. It imports the module when it is first used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Deferred:
    """A module that is not imported with a library.

    Args:
        library: the library that imports it.
        name: the module's name.
        restored: name of an attribute that the library would add to the module.
        users: packages that use what the library does with the module; with one of them, nothing is deferred.
    """

    library: str
    name: str
    restored: str | None = None
    users: tuple[str, ...] = ()


DEFERRED = (
    Deferred("torchmetrics", "scipy.signal", restored="hamming", users=("srmrpy", "gammatone")),
    Deferred("sklearn", "pandas"),
)


def install() -> None:
    """Defer the modules of libraries that this process imports from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Has the other finders find a library, and the library imported while its module is deferred."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of such a library; None for other modules."""
        deferred = next((one for one in DEFERRED if one.library == name), None)
        if deferred is None:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = functools.partial(_execute, deferred, spec.loader.exec_module)
            spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _execute(deferred: Deferred, execute: Callable[[ModuleType], None], library: ModuleType) -> None:
    """Execute a library's module while the other module is deferred."""
    is_there = importlib.util.find_spec(deferred.name.partition(".")[0]) is not None
    if deferred.name in sys.modules or not is_there or any(map(importlib.util.find_spec, deferred.users)):
        execute(library)
        return
    stand_in = _StandIn(deferred)
    stand_in.enter()
    try:
        execute(library)
    finally:
        stand_in.is_restored = False
        stand_in.leave()


class _StandIn(ModuleType):
    """Takes a module's place, and imports it when an attribute is used.

    Args:
        deferred: the module.
    """

    def __init__(self, deferred: Deferred) -> None:
        super().__init__(deferred.name)
        self._deferred = deferred
        self.is_restored = True
        """Whether to answer that the module has the attribute `restored`, so that the library does not add it."""

    def __getattr__(self, name: str) -> Any:
        if name == self._deferred.restored and self.is_restored:
            return None
        if name == "__file__" and self._is_in_place:  # `inspect` asks each module for it
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(self._deferred.name), name)

    @property
    def _is_in_place(self) -> bool:
        return sys.modules.get(self._deferred.name) is self

    def enter(self) -> None:
        """Take the module's place."""
        package, _, name = self._deferred.name.rpartition(".")
        if package:
            setattr(importlib.import_module(package), name, self)
        sys.modules[self._deferred.name] = self

    def leave(self) -> None:
        """Leave its place to the module, unless it has."""
        if self._is_in_place:
            package, _, name = self._deferred.name.rpartition(".")
            del sys.modules[self._deferred.name]
            if package:
                delattr(sys.modules[package], name)
