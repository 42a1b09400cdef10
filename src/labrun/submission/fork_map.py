"""Work on many items, distributed to forks of this process, from which only the results are used."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from labrun.fork import Fork
from labrun.runs import machine

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
    cores = machine.cores() if sys.platform == "linux" and threading.active_count() == 1 else 1
    count = max(1, min(cores, len(items) // least))
    bounds = [len(items) * place // count for place in range(count + 1)]
    parts = [items[start:end] for start, end in itertools.pairwise(bounds)]
    with contextlib.ExitStack() as running:
        forks = [running.enter_context(Fork(functools.partial(_quiet, part, work, state))) for part in parts[:-1]]
        last = work(parts[-1])
        answers = [fork.result() for fork in forks]
    return [*(work(part) if answer is None else answer[0] for part, answer in zip(parts, answers, strict=False)), last]


def _quiet(part: Sequence[Item], work: Callable[[Sequence[Item]], Result], state: Callable[[], Any]) -> Result:
    """Return the result for a part, in a fork.

    Raises:
        RuntimeError: the work printed something or changed the state, which would be lost with the fork.
    """
    output, before = io.StringIO(), pickle.dumps(state())
    sys.stdout = sys.stderr = output
    logging.getLogger().handlers[:] = [logging.StreamHandler(output)]
    result = work(part)
    if output.getvalue() or pickle.dumps(state()) != before:
        raise RuntimeError("output or changes of state would be lost")
    return result
