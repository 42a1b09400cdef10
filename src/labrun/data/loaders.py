"""A DataLoader that can resume in mid-epoch, with workers that then draw the same random numbers as before."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, get_worker_info

from labrun.data import random_states


class SeededBatch(list[int]):
    """The indices of a batch. Iterating over them in a worker seeds the worker's generators first.

    Workers may outlive an epoch, and which one gets a batch is a matter of chance, so each batch carries its own seed.
    Nothing is seeded in the training process: the checkpoints hold the state of its generators.
    """

    seed: int = 0

    def __iter__(self) -> Iterator[int]:
        if get_worker_info() is not None:
            random_states.seed_worker(self.seed)
        return super().__iter__()


class Indices:
    """Iterator over a loader's index batches that can skip the first ones.

    Args:
        batches: the index batches of the loader's batch sampler.
        seed: seed of the workers' generators; None: Lightning seeds them.
    """

    def __init__(self, batches: Iterable[Any], seed: int | None) -> None:
        self._batches, self._seed = batches, seed
        self.skip = self.epoch = 0
        self._left: Iterator[Any] = iter(())
        self._held: list[Any] = []

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Indices:
        self._left, self._held = self._numbered(self.skip), []
        return self

    def __next__(self) -> Any:
        return self._held.pop() if self._held else next(self._left)

    def advance(self) -> None:
        """Skip now, with the current generator states, instead of when the first batch is requested."""
        if not self._held:
            self._held = [batch for batch in [next(self._left, None)] if batch is not None]

    def _numbered(self, skip: int) -> Iterator[Any]:
        for number, batch in enumerate(self._batches):
            if number < skip:
                continue
            if self._seed is not None and isinstance(batch, list):
                batch = SeededBatch(batch)
                batch.seed = hash((self._seed, self.epoch, number)) % 2**63
            yield batch


class Loader(DataLoader[Any]):
    """A DataLoader whose `state_dict`, stored in Lightning's checkpoints, counts the batches used.

    A map-style data set resumes by skipping indices, without loading the samples. An iterable one resumes if it has
    `state_dict` and `load_state_dict` and there are no workers, since the state of their copies is out of reach.

    Args:
        args: see `DataLoader`.
        seed: seed of the workers' generators; None: Lightning seeds them.
        kwargs: see `DataLoader`.
    """

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed = seed

    @staticmethod
    def adopt(loader: Any) -> Any:
        """Turn a plain DataLoader into a resumable one; return anything else unchanged."""
        if type(loader) is DataLoader:
            loader.__class__ = Loader
            loader.seed = None
        return loader

    @property
    def resumes(self) -> bool:
        """Whether the loader can resume in mid-epoch."""
        return not self._streams or (self.num_workers == 0 and is_stateful(self.dataset))

    @property
    def _streams(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    @property
    def _index_sampler(self) -> Any:
        return super()._index_sampler if self._indices is None else self._indices

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    _epoch = 0
    _indices: Indices | None = None
    _began: dict[str, Any] | None = None
    """The random states at the start of the iteration: samplers draw their order from them."""
    _resumed: dict[str, Any] | None = None
    _has_new_workers = True
    """Whether the iteration starts new workers (torch then draws a number for their seeds) or reuses existing ones."""
    _start: Any = None
    """State of an iterable data set at the start of the iteration."""
    _states: deque[tuple[int, Any, Any]] | None = None
    """States of the last few batches, since one may have been prefetched; see `_counted`."""

    def state_dict(self, used: int = 0) -> dict[str, Any]:
        """Return the position of the iteration.

        Args:
            used: number of its batches that were trained on.
        """
        state = {"epoch": self._epoch, "batches": used, "began": self._began, "has_new_workers": self._has_new_workers}
        if self._streams and self._states is not None:
            known = [(place, ahead) for number, place, ahead in self._states if number == used]
            state["dataset"], state["ahead"] = known[0] if known else (None, None)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the saved position in the next iteration, if that is of the same epoch."""
        self._resumed = state
        pass_epoch(self, int(state["epoch"]))

    def rewind(self) -> None:
        """Undo an iteration that was started but of which nothing was used."""
        if self._start is not None:
            self.dataset.load_state_dict(self._start)  # type: ignore[attr-defined]

    def __iter__(self) -> Any:
        resumed, self._resumed = self._resumed, None
        goes_on = resumed is not None and resumed["epoch"] == self._epoch and self.resumes
        used = resumed["batches"] if resumed is not None and goes_on else 0
        own = random_states.generators_of(self)
        began = resumed["began"] if resumed is not None and used else None
        self._began = began or random_states.capture(own)
        if self.batch_sampler is not None:
            if self._indices is None:
                self._indices = Indices(super()._index_sampler, self.seed)
            self._indices.epoch = self._epoch
            self._indices.skip = 0 if self._streams else used
        if self._streams and used and resumed is not None and resumed.get("dataset") is not None:
            self.dataset.load_state_dict(resumed["dataset"])  # type: ignore[attr-defined]
        self._has_new_workers = (resumed or {}).get("has_new_workers", True) if used else self._iterator is None
        with random_states.isolated(began, own), _apart(self, not self._has_new_workers and self._iterator is None):
            iterator = super().__iter__()
            if used and not self._streams and self._indices is not None:
                self._indices.advance()
        if not self._streams or not self.resumes:
            return iterator
        self._start = copy.deepcopy(self.dataset.state_dict())  # type: ignore[attr-defined]
        return self._counted(iterator, used, resumed.get("ahead") if resumed is not None and used else None)

    def _counted(self, iterator: Iterator[Any], used: int, ahead: dict[str, Any] | None) -> Iterator[Any]:
        """Yield the batches; record the data set's state after each, and the random states the next is drawn from.

        Args:
            iterator: over the batches.
            used: number of batches before these.
            ahead: random states to draw the first batch from, if it had been prefetched before the interruption.
        """
        self._states = deque([(used, None, None)], maxlen=4)
        while True:
            number, place, _ = self._states.pop()
            before = ahead or random_states.capture()
            self._states.append((number, place, before))
            with random_states.isolated(ahead):
                batch = next(iterator, None)
            if batch is None:
                return
            ahead = None
            self._states.append((number + 1, copy.deepcopy(self.dataset.state_dict()), None))  # type: ignore[attr-defined]
            yield batch


@contextlib.contextmanager
def _apart(loader: Any, is_apart: bool) -> Iterator[None]:
    """Within the context, draw the workers' seeds from a separate generator if `is_apart`."""
    before = loader.generator
    loader.generator = torch.Generator().manual_seed(0) if is_apart else before
    try:
        yield
    finally:
        loader.generator = before


def isolate_worker_seeds(loader: Any) -> None:
    """Keep newly started workers from drawing on the training's generator: uninterrupted, they would already exist."""
    is_plain = isinstance(loader, DataLoader) and loader.generator is None
    if is_plain and loader.num_workers and loader.persistent_workers:
        loader.generator = torch.Generator().manual_seed(0)


def count(loader: Any) -> int | None:
    """Return the number of samples of a loader; None if unknown."""
    try:
        return len(loader.sampler)
    except (AttributeError, TypeError, NotImplementedError):
        return None


def is_stateful(found: object) -> bool:
    """Return whether an object can save and restore its position."""
    return callable(getattr(found, "state_dict", None)) and callable(getattr(found, "load_state_dict", None))


def pass_epoch(loader: Any, epoch: int) -> None:
    """Pass the next epoch to a loader, its samplers and its data set, as far as they have `set_epoch`."""
    batches = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    for one in {id(one): one for one in (*parts, getattr(loader, "dataset", None))}.values():
        if callable(listen := getattr(one, "set_epoch", None)):
            listen(epoch)


def seen_twice(loader: Any) -> int:
    """Return how many samples a distributed sampler repeats so that every process gets the same number."""
    for one in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if isinstance(one, DistributedSampler):
            return max(0, one.total_size - len(one.dataset))  # type: ignore[arg-type]
    return 0


def resumes(loader: Any, ranks: int = 1) -> bool:
    """Return whether a training loader can resume in mid-epoch.

    Args:
        loader: the training loader.
        ranks: number of training processes. A checkpoint holds only the first one's loader, and an iterable data set
            is at a different position in each.
    """
    streams = isinstance(getattr(loader, "dataset", None), IterableDataset)
    return is_stateful(loader) and getattr(loader, "resumes", True) and not (streams and ranks > 1)


def redraws_after_resume(loader: Any, in_mid_epoch: bool) -> bool:
    """Return whether the loader's workers draw different random numbers after an interruption than without one."""
    if not getattr(loader, "num_workers", 0) or getattr(loader, "seed", None) is not None:
        return False
    return in_mid_epoch or bool(getattr(loader, "persistent_workers", False))


def has_stale_copies(loader: Any) -> bool:
    """Return whether persistent workers keep copies of the data set that never learn the epoch."""
    data = getattr(loader, "dataset", None)
    shares = type(data).__module__.partition(".")[0] == "datasets"  # Hugging Face: the epoch is in shared memory
    is_kept = bool(getattr(loader, "num_workers", 0) and getattr(loader, "persistent_workers", False))
    return is_kept and callable(getattr(data, "set_epoch", None)) and not shares


def read_more_than_once(loader: Any, ranks: int) -> list[str]:
    """Return who reads the whole of an iterable data set redundantly, judging by its source: `workers`, `processes`.

    Args:
        loader: the training loader.
        ranks: number of training processes.
    """
    data = getattr(loader, "dataset", None)
    if not isinstance(data, IterableDataset):
        return []
    text = _source(type(data))
    if text is None:
        return []
    begin = getattr(loader, "worker_init_fn", None)  # Lightning's only seeds, others may shard
    shares = begin is not None and getattr(begin, "func", begin).__name__ != "pl_worker_init_function"
    is_whole = getattr(loader, "num_workers", 0) > 1 and "worker_info" not in text and not shares
    found = ["workers"] if is_whole else []
    return found + (["processes"] if ranks > 1 and not re.search("rank|world_size|distributed", text, re.I) else [])


def _source(kind: type) -> str | None:
    """Return the source of a class, its bases and their modules' functions; None if some source is unavailable."""
    found = []
    for one in kind.__mro__:
        if one.__module__.partition(".")[0] in ("builtins", "collections", "torch", "typing"):
            continue
        module = sys.modules.get(one.__module__)
        parts: list[Any] = [one]
        parts += [value for value in vars(module).values() if inspect.isfunction(value)] if module else []
        try:
            found += [inspect.getsource(part) for part in parts if part.__module__ == one.__module__]
        except (OSError, TypeError):
            return None
    return "\n".join(found)


def adopted(loaders: Any, adopt: Callable[[Any], Any] = Loader.adopt) -> Any:
    """Make plain DataLoaders resumable (`Loader.adopt`), alone or in lists and dicts."""
    if isinstance(loaders, dict):
        return {name: adopted(one, adopt) for name, one in loaders.items()}
    if isinstance(loaders, list | tuple) and type(loaders) in (list, tuple):
        return type(loaders)(adopted(one, adopt) for one in loaders)
    return adopt(loaders)


def copyable(loaders: Any) -> Any:
    """Make DataLoaders that Lightning can re-create for prediction.

    Lightning repeats the recorded constructor arguments, and fails on a positional batch size, `DataLoader(data, 100)`.
    Without the recorded arguments it uses the attributes instead.
    """

    def forget(loader: Any) -> Any:
        if type(loader) in (DataLoader, Loader):
            for name in ("__pl_saved_args", "__pl_saved_kwargs", "__pl_saved_arg_names"):
                vars(loader).pop(name, None)
        return loader

    return adopted(loaders, forget)
