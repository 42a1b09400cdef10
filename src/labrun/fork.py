"""A value computed in a fork of this process."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Fork(Generic[Value]):
    """A fork that computes a value and exits without cleaning up. A context manager: on exit, the fork is killed.

    Args:
        work: computes the value, which must be picklable.
    """

    def __init__(self, work: Callable[[], Value]) -> None:
        self._pipe, ours = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(ours)
            return
        try:
            os.close(self._pipe)
            value = work()
            with open(ours, "wb") as pipe:
                pickle.dump((value,), pipe, pickle.HIGHEST_PROTOCOL)
        finally:
            os._exit(0)

    def result(self) -> tuple[Value] | None:
        """Wait for the value, and return it in a tuple; None if the work raised an exception or the fork was killed."""
        with open(self._pipe, "rb", closefd=False) as file:
            try:
                found: tuple[Value] = pickle.load(file)  # noqa: S301 - written by a fork of this process
                return found
            except (EOFError, pickle.UnpicklingError):
                return None

    def __enter__(self) -> Fork[Value]:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
