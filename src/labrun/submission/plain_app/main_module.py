"""Transfer of the application's `__main__` module to another process.

A target such as `__main__.Net` is looked up in it, even if the application's function is wrapped (as by hydra-zen's
`zen`).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from functools import partial, reduce
from types import ModuleType
from typing import Any

LARGEST = 2**20
"""Maximum size of a transferred value that is not a function or class of the module, in bytes."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, partial)


@dataclass
class MainModule:
    """The content of `__main__` for another process.

    Attributes:
        own: functions and classes that the module defines, and small plain values.
        imported: imported names, each with its source module and its name in that module (None: the module itself).
    """

    own: dict[str, Any] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def restore(self) -> None:
        """Make this the `__main__` module of this process. Imported names are imported on first use."""
        module = ModuleType("__main__")
        imported = self.imported

        def find(name: str) -> Any:
            if name not in imported:
                raise AttributeError(f"module '__main__' has no attribute {name!r}")
            source, inner = imported[name]
            found = importlib.import_module(source)
            return found if inner is None else reduce(getattr, inner.split("."), found)

        vars(module).update(self.own, __getattr__=find)
        sys.modules["__main__"] = module


def capture() -> MainModule | None:
    """Capture the main module of this process; None if it defines nothing (pytest, an installed command)."""
    import cloudpickle

    main = sys.modules["__main__"]
    found = MainModule({"__file__": getattr(main, "__file__", None)})
    for name, value in list(vars(main).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, ModuleType):
            found.imported[name] = (value.__name__, None)
            continue
        source, inner = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        is_own = source == "__main__"  # for an instance, the module of its class
        if not is_own and isinstance(inner, str) and isinstance(source, str) and "<locals>" not in inner:
            found.imported[name] = (source, inner)
        elif is_own or isinstance(value, PLAIN):
            try:
                size = len(cloudpickle.dumps(value))
            except Exception:  # noqa: BLE001 - a value that cannot be sent may not be needed
                continue
            if isinstance(inner, str) or size <= LARGEST:
                found.own[name] = value
    return found if any(getattr(value, "__module__", None) == "__main__" for value in found.own.values()) else None
