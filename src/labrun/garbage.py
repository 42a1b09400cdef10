"""Control of Python's garbage collector."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

MANY = 50
"""Modules that an import must add before their objects are worth exempting from later collections."""
_exempts = False


def exempt_libraries() -> None:
    """Exempt what `loading` imports from later collections: for a process that runs one command and exits."""
    global _exempts
    _exempts = True


@contextlib.contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection in the context. It takes a third of the time when many objects are created at once."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Disable garbage collection while libraries are imported; see `exempt_libraries`."""
    before = len(sys.modules)
    with gc_disabled():
        yield
        if _exempts and len(sys.modules) - before >= MANY:
            gc.freeze()  # before the next collection, which would visit every object
