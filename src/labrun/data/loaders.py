"""A DataLoader that can go on in the middle of an epoch, and whose workers draw the same numbers when it does."""

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
    """The indices of a batch. A worker that goes through them seeds its generators first.

    Workers may outlive an epoch, and which of them takes a batch is chance: so each batch brings its seed along.
    In the process of the training itself nothing is seeded: its generators are in the checkpoints.
    """

    seed: int = 0

    def __iter__(self) -> Iterator[int]:
        if get_worker_info() is not None:
            random_states.seed_worker(self.seed)
        return super().__iter__()


class Indices:
    """The batches of indices of a loader, some of them skipped at the beginning.

    Args:
        batches: as its batch sampler gives them.
        seed: of what workers draw; None: as Lightning seeds them.
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
        """Skip now, with the generators as they are now, and not as the first batch is asked for."""
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
    """A DataLoader whose `state_dict` says how many batches were used: Lightning keeps it in its checkpoints.

    A map-style data set goes on by skipping indices; nothing is loaded for that. An iterable one goes on if it has
    `state_dict` and `load_state_dict` itself, and no workers, whose copies of it cannot be asked.

    Args:
        args: as `DataLoader` takes them.
        seed: of what workers draw; None: as Lightning seeds them.
        kwargs: as `DataLoader` takes them.
    """

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed = seed

    @staticmethod
    def adopt(loader: Any) -> Any:
        """Have a plain DataLoader be one that can go on; anything else stays what it is."""
        if type(loader) is DataLoader:
            loader.__class__ = Loader
            loader.seed = None
        return loader

    @property
    def resumes(self) -> bool:
        """Whether it can go on in the middle of an epoch."""
        return not self._streams or (self.num_workers == 0 and is_stateful(self.dataset))

    @property
    def _streams(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    @property
    def _index_sampler(self) -> Any:
        return super()._index_sampler if self._indices is None else self._indices

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is, from 0 on."""
        self._epoch = epoch

    _epoch = 0
    _indices: Indices | None = None
    _began: dict[str, Any] | None = None
    """The random states when the iteration began: samplers draw their order from them."""
    _resumed: dict[str, Any] | None = None
    _has_new_workers = True
    """Whether the iteration began its workers, for whose seeds torch then draws a number, or took over those there."""
    _start: Any = None
    """Where an iterable data set was when the iteration began."""
    _states: deque[tuple[int, Any, Any]] | None = None
    """See `_counted`. Of its last batches, since one may have been fetched ahead."""

    def state_dict(self, used: int = 0) -> dict[str, Any]:
        """Where the iteration is.

        Args:
            used: how many batches of it were trained on.
        """
        state = {"epoch": self._epoch, "batches": used, "began": self._began, "has_new_workers": self._has_new_workers}
        if self._streams and self._states is not None:
            known = [(place, ahead) for number, place, ahead in self._states if number == used]
            state["dataset"], state["ahead"] = known[0] if known else (None, None)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration where it was left, if it is of the same epoch."""
        self._resumed = state
        tell_epoch(self, int(state["epoch"]))

    def rewind(self) -> None:
        """Forget an iteration that was begun, and of which nothing was used."""
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
        """Batches, and for each where the data set then is, and what the next one was drawn from.

        Args:
            iterator: over the batches.
            used: how many there were before.
            ahead: the random states that the first one is drawn from, if it was fetched ahead before the break.
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
    """Inside, a loader that begins its workers draws their seeds from a generator of theirs, where it is to."""
    before = loader.generator
    loader.generator = torch.Generator().manual_seed(0) if is_apart else before
    try:
        yield
    finally:
        loader.generator = before


def take_over(loader: Any) -> None:
    """Have the workers that a loader begins draw nothing from the training: without a break they would be there."""
    is_plain = isinstance(loader, DataLoader) and loader.generator is None
    if is_plain and loader.num_workers and loader.persistent_workers:
        loader.generator = torch.Generator().manual_seed(0)


def count(loader: Any) -> int | None:
    """How many samples a loader gives; None where nothing tells."""
    try:
        return len(loader.sampler)
    except (AttributeError, TypeError, NotImplementedError):
        return None


def is_stateful(found: object) -> bool:
    """Whether something tells where it is, and goes on from there."""
    return callable(getattr(found, "state_dict", None)) and callable(getattr(found, "load_state_dict", None))


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader, its samplers and its data set which epoch comes next, as far as they listen (`set_epoch`)."""
    batches = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    for one in {id(one): one for one in (*parts, getattr(loader, "dataset", None))}.values():
        if callable(listen := getattr(one, "set_epoch", None)):
            listen(epoch)


def seen_twice(loader: Any) -> int:
    """How many samples a sampler for several processes gives twice, so that each process has equally many."""
    for one in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if isinstance(one, DistributedSampler):
            return max(0, one.total_size - len(one.dataset))  # type: ignore[arg-type]
    return 0


def resumes(loader: Any, ranks: int = 1) -> bool:
    """Whether a loader can go on in the middle of an epoch.

    Args:
        loader: of the training.
        ranks: processes that train together: a checkpoint holds the first one's loader, and what streams has been
            elsewhere in each.
    """
    streams = isinstance(getattr(loader, "dataset", None), IterableDataset)
    return is_stateful(loader) and getattr(loader, "resumes", True) and not (streams and ranks > 1)


def draws_anew(loader: Any, in_mid_epoch: bool) -> bool:
    """Whether the workers of a loader draw other numbers after a break than they would have without one."""
    if not getattr(loader, "num_workers", 0) or getattr(loader, "seed", None) is not None:
        return False
    return in_mid_epoch or bool(getattr(loader, "persistent_workers", False))


def keeps_old_copies(loader: Any) -> bool:
    """Whether workers go on with copies of a data set that do not hear which epoch it is."""
    told = getattr(loader, "dataset", None)
    shares = type(told).__module__.partition(".")[0] == "datasets"  # Hugging Face's keep it in shared memory
    is_asked = bool(getattr(loader, "num_workers", 0) and getattr(loader, "persistent_workers", False))
    return is_asked and callable(getattr(told, "set_epoch", None)) and not shares


def read_more_than_once(loader: Any, ranks: int) -> list[str]:
    """Who reads all of an iterable data set, each for itself, as far as its source tells: `workers`, `processes`.

    Args:
        loader: of the training.
        ranks: processes that train together.
    """
    data = getattr(loader, "dataset", None)
    if not isinstance(data, IterableDataset):
        return []
    text = _source(type(data))
    if text is None:
        return []
    begin = getattr(loader, "worker_init_fn", None)  # Lightning's own seeds them, another one may share them out
    shares = begin is not None and getattr(begin, "func", begin).__name__ != "pl_worker_init_function"
    is_whole = getattr(loader, "num_workers", 0) > 1 and "worker_info" not in text and not shares
    found = ["workers"] if is_whole else []
    return found + (["processes"] if ranks > 1 and not re.search("rank|world_size|distributed", text, re.I) else [])


def _source(kind: type) -> str | None:
    """The source of a class, of those above it, and of the functions beside them; None where there is none to read."""
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
    """Plain DataLoaders, alone or in lists and dicts, as ones that can go on (`Loader.adopt`)."""
    if isinstance(loaders, dict):
        return {name: adopted(one, adopt) for name, one in loaders.items()}
    if isinstance(loaders, list | tuple) and type(loaders) in (list, tuple):
        return type(loaders)(adopted(one, adopt) for one in loaders)
    return adopt(loaders)


def copyable(loaders: Any) -> Any:
    """DataLoaders that Lightning can make anew to predict with.

    It would repeat the arguments that they were made with, and stumbles over a batch size that has no name,
    `DataLoader(data, 100)`. Without that memory it takes their attributes.
    """

    def forget(loader: Any) -> Any:
        if type(loader) in (DataLoader, Loader):
            for name in ("__pl_saved_args", "__pl_saved_kwargs", "__pl_saved_arg_names"):
                vars(loader).pop(name, None)
        return loader

    return adopted(loaders, forget)
