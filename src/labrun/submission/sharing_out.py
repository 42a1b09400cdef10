"""Work on many items, shared out to forks of this process: what they compute comes back, and nothing else of them."""

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
"""Items that are worth a fork."""


def shared_out(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Result], state: Callable[[], Any], least: int = LEAST
) -> list[Result]:
    """What `work` gives for parts of the items, in their order; the last part is done by this process itself.

    What a fork cannot do alone is done again here: where it says something to the user, where what others build on
    changes in it, and where it fails.

    Args:
        items: cut into as many parts as there are cores, at most.
        work: takes some of them one after the other; what it gives can be pickled.
        state: what work on one item leaves for those after it; where that changes in a fork, it is lost.
        least: items of a part.
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
    """A fork that works on a part: its pid, and the pipe that its answer comes through."""
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
            found: tuple[Any] = pickle.load(file)  # noqa: S301 - of a fork of this process
            return found
        except (EOFError, pickle.UnpicklingError):
            return None
