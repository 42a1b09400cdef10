"""What a training needs to resume within an epoch, beside Lightning's own checkpoint: loaders and random states.

Lightning has no public way to ask its loops which loaders they run, so this module reads the loops' private attributes.
"""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch

from labrun.data import loaders, random_states
from labrun.tasks.networks.epoch_state import EpochState

log = logging.getLogger(__name__)


def can_go_on_midway(trainer: Any) -> bool:
    """Return whether a training's loaders can resume within an epoch."""
    return loaders_resume(trainer) and not _take_turns(trainer)


def loaders_resume(trainer: Any) -> bool:
    """Return whether each training loader can resume within an epoch."""
    return all(loaders.resumes(one, trainer.world_size) for one in train_loaders(trainer))


def _take_turns(trainer: Any) -> bool:
    """Return whether several loaders take turns, and the shorter ones restart, so that none can skip by itself."""
    found = train_loaders(trainer)
    return len(found) > 1 and any(isinstance(one, loaders.Loader) for one in found)


def train_loaders(trainer: Any) -> list[Any]:
    """Return the training loaders as a flat list, whatever structure they came in.

    A trainer's public attributes of its loaders keep that structure.
    """
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


class RandomStates(pl.Callback):
    """Adds to checkpoints what Lightning leaves out: random states, and values gathered within the epoch.

    A resumed training then draws the same random numbers as without the interruption: dropout, augmentation, order of
    samples. It is the first callback, so that the others draw random numbers and read averages after it. It also passes
    the epoch to loaders and data sets.

    Args:
        seed: the run's seed; a training resumed with a different one does not restore the random states.
        counts: see `EpochState`.
    """

    KEY = "labrun"

    def __init__(self, seed: int, counts: bool) -> None:
        self._seed = seed
        self._epoch_state = EpochState(counts)
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        own, used = random_states.capture(self._generators(trainer)), trainer.fit_loop.epoch_loop.batch_progress
        states = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint[self.KEY] = {"seed": self._seed, "random_states": states}
        self._epoch_state.save(trainer, pl_module, checkpoint)
        kept = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader") or []
        stateful = [one for one in train_loaders(trainer) if loaders.is_stateful(one)]
        for index, loader in enumerate(stateful):
            if isinstance(loader, loaders.Loader):
                kept[index] = loader.state_dict(used.current.ready)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        found = checkpoint.get(self.KEY)
        if isinstance(found, dict) and found["seed"] == self._seed:
            self._loaded = found
        self._epoch_state.load(trainer, pl_module, checkpoint)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._epoch_state.restore(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._epoch_state.restore(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._epoch_state.end(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if any(map(loaders.has_stale_copies, train_loaders(trainer))):
            log.warning(
                "The data set's set_epoch(): its loader has persistent_workers=True, so the workers' copies of the "
                "data set keep their old epoch"
            )
        for loader in train_loaders(trainer):
            self._warn_about_workers(loader, trainer.world_size)
        loop = trainer.fit_loop
        if self._loaded is None:
            return
        in_use = train_loaders(trainer)
        # Lightning restarts the count of validation batches in each epoch.
        has_validated = loop.epoch_loop.val_loop.batch_progress.total.ready
        if has_validated or trainer.current_epoch >= (trainer.check_val_every_n_epoch or 1):
            for one in self._loaders(trainer)[len(in_use) :]:
                loaders.isolate_worker_seeds(one)
        if any(
            loaders.redraws_after_resume(one, loop.restarted_mid_epoch and one in in_use)
            for one in self._loaders(trainer)
        ):
            log.warning(
                "The loader's workers had drawn random numbers before the interruption: those that they draw %s differ "
                "from those of an uninterrupted training",
                "in the rest of this epoch" if loop.restarted_mid_epoch else "from here on (persistent_workers)",
            )
        if loop.restarted_mid_epoch:
            self._restore(trainer)
        else:
            # Lightning has already created the iterator, before the epoch was known: let it create a new one.
            loop._resuming_from_checkpoint = False
            for loader in in_use:
                if isinstance(loader, loaders.Loader):
                    loader.rewind()

    @staticmethod
    def _warn_about_workers(loader: Any, ranks: int) -> None:
        """Warn if each sample of an iterable data set is likely to be seen several times per epoch."""
        for who in loaders.read_more_than_once(loader, ranks):
            ways = {"workers": "torch.utils.data.get_worker_info()", "processes": "torch.distributed.get_rank()"}
            count = loader.num_workers if who == "workers" else ranks
            log.warning(
                "%s is iterable, and %d %s read it: each yields all of its samples, since its source does not call %s "
                "to select a share",
                type(loader.dataset).__name__,
                count,
                who,
                ways[who],
            )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._restore(trainer)
        for loader in train_loaders(trainer):
            loaders.pass_epoch(loader, trainer.current_epoch)

    def _restore(self, trainer: Any) -> None:
        found, self._loaded = self._loaded, None
        if found is None:
            return
        states = found["random_states"]
        if len(states) != trainer.world_size:
            log.warning(
                "The checkpoint is of %d processes, but this training has %d, so they draw different random numbers",
                len(states),
                trainer.world_size,
            )
            return
        random_states.restore(states[trainer.global_rank], self._generators(trainer))

    def _loaders(self, trainer: Any) -> list[Any]:
        validation = trainer.fit_loop.epoch_loop.val_loop._combined_loader  # see `train_loaders`
        return [*train_loaders(trainer), *([] if validation is None else validation.flattened)]

    def _generators(self, trainer: Any) -> list[Any]:
        return [one for loader in self._loaders(trainer) for one in random_states.generators_of(loader)]
