"""What runs are: their records, how they are read, and how they are shown. Called, it lists them: `labrun.runs()`."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _Runs(types.ModuleType):
    """`labrun.runs(...)` from Python, although `labrun.runs` is a package."""

    def __call__(self, *arguments: Any, **filters: Any) -> Any:
        """See `labrun.api.runs`."""
        return importlib.import_module("labrun.api").runs(*arguments, **filters)


sys.modules[__name__].__class__ = _Runs
