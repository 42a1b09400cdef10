"""What the runs of one machine share: places, cores, GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """What one run has while it goes on."""

    cores: int = 0
    """Of those that are counted."""
    gpus: tuple[str, ...] | None = None
    """Its GPUs, as CUDA_VISIBLE_DEVICES takes them; None: it is not told any, and sees those that the caller sees."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that tell it."""
        return {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


class Slots:
    """Hands out what is there, in the order of asking.

    Args:
        parallel: runs at once, at most.
        cores: those that runs without a GPU share; None: they are not counted.
        gpus: those that may be used; None: runs are assigned none.
        share: runs that share a GPU, where each needs one.
    """

    def __init__(
        self, parallel: int, cores: int | None = None, gpus: Sequence[str] | None = None, share: int = 1
    ) -> None:
        self._share = share
        self.limit(parallel, cores)
        self._users: dict[str, int] | None = None if gpus is None else dict.fromkeys(gpus, 0)
        self._taken: list[Slot] = []

    def limit(self, parallel: int, cores: int | None) -> None:
        """From now on; see `Slots`."""
        self._parallel, self._cores = parallel, cores

    def carries(self, cpus: int, gpus: int) -> int:
        """How many runs with the same needs there can be at once."""
        if gpus and self._users is not None:
            return min(self._parallel, len(self._users) // gpus * (self._share if gpus == 1 else 1))
        return self._parallel if self._cores is None else min(self._parallel, max(1, self._cores // cpus))

    def take(self, cpus: int, gpus: int, among: Sequence[str] | None = None) -> Slot | None:
        """A place for a run; None: it must wait until another has left.

        Args:
            cpus: its cores.
            gpus: how many GPUs it needs.
            among: the GPUs that it may have; None: any.
        """
        if len(self._taken) >= self._parallel:
            return None
        if gpus and self._users is not None:
            room = self._share if gpus == 1 else 1
            free = sorted(
                (users, index, name)
                for index, (name, users) in enumerate(self._users.items())
                if among is None or name in among
            )
            chosen = [name for users, _, name in free if users == 0 or (gpus == 1 and users < room)][:gpus]
            if len(chosen) < gpus:
                return None
            for name in chosen:
                self._users[name] += 1 if gpus == 1 else self._share
            place = Slot(gpus=tuple(sorted(chosen, key=list(self._users).index)))
        else:
            used = sum(place.cores for place in self._taken)
            if self._cores is not None and used and used + cpus > self._cores:
                return None
            place = Slot(cores=0 if self._cores is None else cpus)
        self._taken.append(place)
        return place

    def leave(self, place: Slot) -> None:
        """Give it back."""
        self._taken.remove(place)
        for name in place.gpus or ():
            assert self._users is not None
            self._users[name] -= 1 if len(place.gpus or ()) == 1 else self._share
