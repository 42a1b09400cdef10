"""Pickles of functions that keep the names of their source files, so that tracebacks in other processes show the lines.

Since version 3.1.3, cloudpickle replaces a file's name with `<dynamic-code>`. A pickle that another user could have
written is never loaded (`check_own`).
"""

from __future__ import annotations

import io
import types
from collections import ChainMap
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
from cloudpickle.cloudpickle import _code_reduce

from labrun.errors import LabrunError
from labrun.runs import ownership

NAMELESS = "<dynamic-code>"


def _code(code: types.CodeType) -> tuple[Any, ...]:
    kind, arguments = _code_reduce(code)
    return kind, tuple(code.co_filename if argument == NAMELESS else argument for argument in arguments)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _code}, cloudpickle.Pickler.dispatch_table)


def dumps(value: Any) -> bytes:
    """Pickle a value, like `cloudpickle.dumps`, but with file names.

    Raises:
        pickle.PicklingError, TypeError, AttributeError: it holds an object that cannot be pickled.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def check_own(path: Path) -> None:
    """Refuse a pickle that another user could have written.

    Raises:
        LabrunError: the file or its folder belongs to another user, or others may write it.
    """
    for checked in (path.parent, path):
        is_safe = not checked.exists() or ownership.is_own(checked.stat())
        if not is_safe and not (checked == path and ownership.is_out_of_reach(path)):
            raise LabrunError(f"{checked} is not loaded: it is not yours, or others may write it (chmod go-w)")
