"""The application's main module, `__main__`, for a process in which it is another one.

A target such as `__main__.Net` is looked up there, whatever wraps the application's function (hydra-zen's `zen`, say).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from functools import partial, reduce
from types import ModuleType
from typing import Any

LARGEST = 2**20
"""Bytes of the largest value that goes along without being a function or class of the module."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, partial)


@dataclass
class MainModule:
    """What goes to the other process.

    Attributes:
        own: what the module defines, and small plain values.
        elsewhere: what it has imported: the module that each name comes from, and the name there (None: a module).
    """

    own: dict[str, Any] = field(default_factory=dict)
    elsewhere: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def restore(self) -> None:
        """Make it this process's `__main__`. What it had imported is imported when it is asked for."""
        module = ModuleType("__main__")
        elsewhere = self.elsewhere

        def find(name: str) -> Any:
            if name not in elsewhere:
                raise AttributeError(f"module '__main__' has no attribute {name!r}")
            source, inner = elsewhere[name]
            found = importlib.import_module(source)
            return found if inner is None else reduce(getattr, inner.split("."), found)

        vars(module).update(self.own, __getattr__=find)
        sys.modules["__main__"] = module


def capture() -> MainModule | None:
    """What this process's main module holds; None where it defines nothing (pytest, an installed command)."""
    import cloudpickle

    main = sys.modules["__main__"]
    found = MainModule({"__file__": getattr(main, "__file__", None)})
    for name, value in list(vars(main).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, ModuleType):
            found.elsewhere[name] = (value.__name__, None)
            continue
        source, inner = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        is_own = source == "__main__"  # an instance says its class's
        if not is_own and isinstance(inner, str) and isinstance(source, str) and "<locals>" not in inner:
            found.elsewhere[name] = (source, inner)
        elif is_own or isinstance(value, PLAIN):
            try:
                size = len(cloudpickle.dumps(value))
            except Exception:  # noqa: BLE001 - what cannot be sent may not be needed
                continue
            if isinstance(inner, str) or size <= LARGEST:
                found.own[name] = value
    return found if any(getattr(value, "__module__", None) == "__main__" for value in found.own.values()) else None
