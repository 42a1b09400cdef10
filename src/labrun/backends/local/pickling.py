"""Functions as bytes, with the files that they stand in: tracebacks elsewhere show their lines.

cloudpickle writes `<dynamic-code>` in the place of a file's name, since 3.1.3.
"""

from __future__ import annotations

import io
import types
from collections import ChainMap
from typing import Any, ClassVar

import cloudpickle
from cloudpickle.cloudpickle import _code_reduce

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
