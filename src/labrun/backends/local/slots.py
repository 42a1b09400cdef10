"""Slots: the cores and GPUs that the runs of one machine share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """The cores and GPUs that one run holds while it is active."""

    cores: int = 0
    """Number of cores; 0 if cores are not counted."""
    gpus: tuple[str, ...] | None = None
    """Its GPUs, in the form of CUDA_VISIBLE_DEVICES; None: none are assigned, and it sees those of the caller."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that assign the GPUs to the run."""
        return {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


class Slots:
    """Assigns slots to runs, in the order of their requests.

    Args:
        parallel: maximum number of runs at once.
        cores: number of cores that runs without a GPU share; None: cores are not counted.
        gpus: the GPUs to assign; None: runs are assigned none.
        share: number of runs that share a GPU, if each needs one.
    """

    def __init__(
        self, parallel: int, cores: int | None = None, gpus: Sequence[str] | None = None, share: int = 1
    ) -> None:
        self._share = share
        self.limit(parallel, cores)
        self._users: dict[str, int] | None = None if gpus is None else dict.fromkeys(gpus, 0)
        self._taken: list[Slot] = []

    def limit(self, parallel: int, cores: int | None) -> None:
        """Set new limits from now on; see `Slots`."""
        self._parallel, self._cores = parallel, cores

    def carries(self, cpus: int, gpus: int) -> int:
        """Return how many runs with these needs can be active at once."""
        if gpus and self._users is not None:
            return min(self._parallel, len(self._users) // gpus * (self._share if gpus == 1 else 1))
        return self._parallel if self._cores is None else min(self._parallel, max(1, self._cores // cpus))

    def take(self, cpus: int, gpus: int, among: Sequence[str] | None = None) -> Slot | None:
        """Return a slot for a run; None if it must wait until another run has left.

        Args:
            cpus: number of cores that it needs.
            gpus: number of GPUs that it needs.
            among: the GPUs that it may use; None: any.
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
            slot = Slot(gpus=tuple(sorted(chosen, key=list(self._users).index)))
        else:
            used = sum(slot.cores for slot in self._taken)
            if self._cores is not None and used and used + cpus > self._cores:
                return None
            slot = Slot(cores=0 if self._cores is None else cpus)
        self._taken.append(slot)
        return slot

    def leave(self, slot: Slot) -> None:
        """Release a slot."""
        self._taken.remove(slot)
        for name in slot.gpus or ():
            assert self._users is not None
            self._users[name] -= 1 if len(slot.gpus or ()) == 1 else self._share
