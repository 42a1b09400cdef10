"""labrun for an interpreter that does not have it installed: what a script calls from inside a run.

This folder's parent is put on that interpreter's path. The modules are those of the real package, found relative to
this file; only the ones that use nothing but the standard library can be imported. Python 3.6 reads this file as it is.
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

ELSEWHERE = True
"""This is not the whole package."""


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"labrun.{name} needs labrun installed in this interpreter; a script's own interpreter is given labrun.log and "
        "labrun.runs.context"
    )
