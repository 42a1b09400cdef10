"""Saving and restoring random number generators: Python's, NumPy's, torch's, and the loaders' own.

The states are plain values and tensors, so that a checkpoint with them can be read without unpickling any class.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch


def capture(generators: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """Return the current states.

    Args:
        generators: generators to capture in addition to the global ones.
    """
    found: dict[str, Any] = {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "generators": [one.get_state() for one in generators],
    }
    numpy: Any = np.random.get_state()
    if isinstance(numpy, tuple):  # otherwise the legacy bit generator was replaced
        name, keys, *rest = numpy
        found["numpy"] = (str(name), torch.from_numpy(keys.astype(np.int64)), *rest)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def restore(state: dict[str, Any], generators: Sequence[torch.Generator] = ()) -> None:
    """Restore the states that `capture` returned.

    Args:
        state: from `capture`.
        generators: the same ones as for `capture`; left alone if their number differs.
    """
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        name, words, *rest = state["numpy"]
        np.random.set_state((name, words.cpu().numpy().astype(np.uint32), *rest))
    if len(state.get("cuda") or ()) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    if len(state["generators"]) == len(generators):
        for generator, one in zip(generators, state["generators"], strict=True):
            generator.set_state(one.cpu())


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether nothing was drawn from the global CPU generators between two states."""
    numpy = [state.get("numpy", ("", torch.empty(0))) for state in (one, other)]
    return (
        one["python"] == other["python"]
        and torch.equal(one["torch"], other["torch"])
        and torch.equal(numpy[0][1], numpy[1][1])
        and numpy[0][2:] == numpy[1][2:]
    )


@contextlib.contextmanager
def isolated(state: dict[str, Any] | None, generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Run the context with the given generator states, then restore the previous ones.

    Args:
        state: from `capture`; None: leave the generators alone, so draws in the context persist.
        generators: see `restore`.
    """
    if state is None:
        yield
        return
    before = capture(generators)
    restore(state, generators)
    try:
        yield
    finally:
        restore(before, generators)


def generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators that a loader and its samplers use instead of the global one."""
    sampler, batches = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    found: dict[int, torch.Generator] = {}
    for one in (loader, sampler, batches, getattr(batches, "sampler", None)):
        generator = getattr(one, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())


def seed_worker(seed: int) -> None:
    """Seed the global generators of a worker process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
