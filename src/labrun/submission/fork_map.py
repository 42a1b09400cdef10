"""Work on many items, distributed to forks of this process, from which only the results are used."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAST = 12
"""Minimum number of items per fork."""


def fork_map(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Result], state: Callable[[], Any], least: int = LEAST
) -> list[Result]:
    """Return the results of `work` for parts of the items, in order. This process does the last part itself.

    It also repeats a fork's part if the fork prints anything, changes the state that later items depend on, or fails.

    Args:
        items: the items, split into at most as many parts as there are cores.
        work: processes some of the items in order; its result must be picklable.
        state: returns the state that one item leaves for the next ones; changes in a fork are lost.
        least: minimum number of items per part.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" and threading.active_count() == 1 else 1
    count = max(1, min(cores, len(items) // least))
    bounds = [len(items) * place // count for place in range(count + 1)]
    parts = [items[start:end] for start, end in itertools.pairwise(bounds)]
    forks: list[tuple[int, int]] = []
    try:
        for part in parts[:-1]:
            forks.append(_forked(part, work, state))
        last = work(parts[-1])
        answers = [_answer(pipe) for _, pipe in forks]
    finally:
        for pid, pipe in forks:
            os.close(pipe)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [*(work(part) if answer is None else answer[0] for part, answer in zip(parts, answers, strict=False)), last]


def _forked(
    part: Sequence[Item], work: Callable[[Sequence[Item]], Result], state: Callable[[], Any]
) -> tuple[int, int]:
    """Fork a process that works on a part. Return its pid and the pipe for its result."""
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ours)
        return pid, theirs
    try:
        os.close(theirs)
        said, before = io.StringIO(), pickle.dumps(state())
        sys.stdout = sys.stderr = said
        logging.getLogger().handlers[:] = [logging.StreamHandler(said)]
        result = work(part)
        if not said.getvalue() and pickle.dumps(state()) == before:
            with open(ours, "wb") as pipe:
                pickle.dump((result,), pipe)
    finally:
        os._exit(0)


def _answer(pipe: int) -> tuple[Any] | None:
    with open(pipe, "rb", closefd=False) as file:
        try:
            found: tuple[Any] = pickle.load(file)  # noqa: S301 - written by a fork of this process
            return found
        except (EOFError, pickle.UnpicklingError):
            return None
