"""The part of labrun that scripts call inside a run, for an interpreter without labrun.

This folder's parent is put on that interpreter's path. The modules are those of the real package, found relative to
this file; only those that need nothing beyond the standard library can be imported. This file must be valid Python 3.6.
"""

import os
import sys
from typing import Any

if sys.version_info < (3, 7):  # noqa: UP036 (another interpreter than labrun's own)
    from labrun import _python36

    _python36.install()

__path__ = [os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))]

from labrun.runs.context import log

__all__ = ["log"]

STANDALONE = True
"""Marks this package as incomplete."""


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"labrun.{name} needs labrun installed in this interpreter; without it, a script has labrun.log and "
        "labrun.runs.context"
    )
