"""The logger that writes a network's metrics to the run's record, and the position in the training that it needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import Container, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from labrun.runs import context
from labrun.tasks.networks.checkpoints import is_json
from labrun.tasks.networks.metric_names import is_fork, unforked

log = logging.getLogger(__name__)

LONGEST = 200
"""Maximum characters kept of a hyperparameter that is stored as text because it is not a plain value."""


class RecordLogger(pl.loggers.logger.Logger):
    """Logger that writes the metrics of a module and its callbacks to the run's record.

    The step of an epoch's value is the epoch's number, as for labrun's own metrics; the step of a batch's value is the
    number of batches so far. If a metric is logged per step and per epoch, the record has its `loss_epoch` as `loss`.

    Args:
        save_dir: folder for callbacks that write to the logger's folder.
        skipped: metrics that reach the record in another way.
    """

    def __init__(self, save_dir: Path, skipped: Iterable[str] = ()) -> None:
        super().__init__()
        self._save_dir = save_dir
        self._skipped = frozenset(skipped)
        self._units: dict[str, bool] = {}
        self._logged: dict[str, tuple[int, Any]] = {}
        self._refused: set[str] = set()
        self._forked: set[str] = set()
        """Metrics that were logged per batch, whose epoch values Lightning names `NAME_epoch`."""
        self.hyperparameters: dict[str, Any] = {}
        self.position = Position()

    @property
    def name(self) -> str:
        return "labrun"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._save_dir)

    @property
    def experiment(self) -> Experiment:
        """Stand-in for the objects that modules get from other loggers' `experiment`."""
        return Experiment(self)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the hyperparameters of a module and a data module (`save_hyperparameters`) for the record."""
        found = OmegaConf.to_container(params, resolve=True) if isinstance(params, Container) else params
        given = dict(found) if isinstance(found, Mapping) else vars(found)
        self.hyperparameters |= {
            str(name): value if is_json(value) else str(value)[:LONGEST] for name, value in given.items()
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        position, is_lightnings = self.position, "epoch" in metrics
        for name, value in metrics.items():
            if name == "epoch" or name in self._skipped:
                continue
            is_step = unforked(name, "_step") != name
            if is_step and (position.in_batch or position.in_validation):
                self._forked.add(unforked(name, "_step"))
            if is_step and position.by_epoch and (position.in_validation or is_fork(name, position.logged)):
                continue  # the epoch's own value comes as well
            if is_fork(name, position.logged) or unforked(name, "_epoch") in self._forked:
                name = unforked(name, "_epoch")
            by_epoch = position.by_epoch if is_lightnings else not position.in_batch
            by_epoch = self._units.setdefault(name, by_epoch or step is None)
            # Lightning counts batches from 0.
            at = position.epoch if by_epoch else int(step or 0) + is_lightnings
            if not is_lightnings and self._logged.get(name) == (at, value):
                continue  # for example a learning rate, logged at an epoch's start and at its last batch
            self._logged[name] = at, value
            try:
                context.log(name, value, at, position.epoch)
            except (TypeError, ValueError) as error:
                if name not in self._refused:
                    self._refused.add(name)
                    log.warning("Not in the record: %r: %s", name, " ".join(str(error).split()))


class Position:
    """Position in the training, for the logger; `LogPosition` updates it."""

    def __init__(self) -> None:
        self.epoch = 1
        self.by_epoch = True
        """Whether values that Lightning logs now belong to the epoch."""
        self.in_batch = self.in_validation = False
        """Whether values logged now belong to a batch of training, or of a validation or test."""
        self.logged: Mapping[str, Any] = {}
        """The metrics logged so far, under all their names."""


class Experiment:
    """Stand-in for a TensorBoard writer or a W&B run: numbers go to the record, everything else is discarded."""

    _said = False

    def __init__(self, logger: RecordLogger) -> None:
        self._logger = logger

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, *_: Any, **__: Any) -> None:
        """Log a value through TensorBoard's interface."""
        self._logger.log_metrics({tag: scalar_value}, global_step)

    def add_scalars(self, main_tag: str, values: Mapping[str, Any], global_step: int | None = None, *_: Any) -> None:
        """Log several values through TensorBoard's interface."""
        self._logger.log_metrics({f"{main_tag}/{name}": value for name, value in values.items()}, global_step)

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """Log values through W&B's interface."""
        self._logger.log_metrics(values, step)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._nothing

    def _nothing(self, *_: Any, **__: Any) -> None:
        if not Experiment._said:
            Experiment._said = True
            log.warning(
                "self.logger.experiment: a run's record takes only numbers; logger=tensorboard or wandb takes the rest"
            )


def validates_by_epoch(trainer: Any) -> bool:
    """Return whether there is at most one validation per epoch."""
    interval = trainer.val_check_interval  # a whole number counts batches
    is_whole = interval is None or (isinstance(interval, float) and interval == 1.0)
    return is_whole and trainer.check_val_every_n_epoch is not None


class LogPosition(pl.Callback):
    """Updates the logger's position in the training, and makes sure that each epoch's last batch is logged.

    It is the first callback, since the others may log. Otherwise metrics that a module logs only per batch would never
    be logged in epochs with fewer batches than the log interval.

    Args:
        logger: the record's logger.
    """

    def __init__(self, logger: RecordLogger) -> None:
        self._position = logger.position
        self._every = 0
        self._is_logged = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._every = trainer.log_every_n_steps
        self._position.epoch = (
            trainer.current_epoch + 1
        )  # on_train_epoch_start is not called when resuming within an epoch
        self._position.logged = trainer.callback_metrics

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._position.epoch = trainer.current_epoch + 1
        self._is_logged = False
        self._rest(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._position.by_epoch, self._position.in_batch = not self._every, True
        last = trainer.is_last_batch or 0 < trainer.max_steps <= trainer.global_step + 1
        if last and not self._is_logged:
            trainer.log_every_n_steps = 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._every and not self._is_logged:  # the same on every process, since logged values may be reduced
            self._is_logged = (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % self._every == 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)
        self._position.in_validation = True

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._position.in_validation = False  # values logged from here on belong to the epoch

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)
        # If an epoch has several validations, their step is the number of batches.
        self._position.by_epoch, self._position.in_validation = validates_by_epoch(trainer), True

    def _rest(self, trainer: Any) -> None:
        """Mark the position as outside of batches."""
        trainer.log_every_n_steps = self._every
        self._position.by_epoch, self._position.in_batch, self._position.in_validation = True, False, False
        self._position.logged = trainer.callback_metrics
