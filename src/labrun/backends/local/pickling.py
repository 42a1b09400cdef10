"""Functions as bytes, with the files that they stand in: tracebacks elsewhere show their lines.

cloudpickle writes `<dynamic-code>` in the place of a file's name, since 3.1.3. No pickle is loaded that somebody else
could have written (`check_own`).
"""

from __future__ import annotations

import io
import os
import types
from collections import ChainMap
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
from cloudpickle.cloudpickle import _code_reduce

from labrun.backends import machine
from labrun.errors import LabrunError

NAMELESS = "<dynamic-code>"


def _code(code: types.CodeType) -> tuple[Any, ...]:
    kind, arguments = _code_reduce(code)
    return kind, tuple(code.co_filename if argument == NAMELESS else argument for argument in arguments)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: _code}, cloudpickle.Pickler.dispatch_table)


def dumps(value: Any) -> bytes:
    """As `cloudpickle.dumps`.

    Raises:
        pickle.PicklingError, TypeError, AttributeError: it holds what cannot be pickled.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def check_own(path: Path) -> None:
    """Refuse a pickle that somebody else could have written.

    Raises:
        LabrunError: it, or its folder, is not this user's own, or others may write it.
    """
    for place in (path.parent, path):
        if place.exists() and not machine.same_owner(place) and not (place == path and _is_out_of_reach(path)):
            raise LabrunError(f"{place} is not loaded: it is not your own, or others may write it (chmod go-w)")


def _is_out_of_reach(path: Path) -> bool:
    """Whether a file that its group may write, as most systems' umask leaves it, lies where nobody else comes."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o002 and machine.is_private(path.parent)
