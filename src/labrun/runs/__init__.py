"""Runs: their records, how to write, read, list and remove them. A callable package: `labrun.runs()` lists them."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _Runs(types.ModuleType):
    """Module class that makes the package `labrun.runs` callable."""

    def __call__(self, *arguments: Any, **filters: Any) -> Any:
        """See `labrun.api.functions.runs`."""
        return importlib.import_module("labrun.api.functions").runs(*arguments, **filters)


sys.modules[__name__].__class__ = _Runs
