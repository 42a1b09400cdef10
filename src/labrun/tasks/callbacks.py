"""Callbacks and loggers for training networks: the line per epoch, checkpoints, random states, the run's record.

Lightning has no public way to ask its loops which loaders they run, whether gradients are accumulating, whether
training may stop, or whether a validation follows, so these callbacks read the loops' private attributes.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import Container, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from labrun.data import loaders, random_states
from labrun.errors import ConfigError, RunFailedError
from labrun.runs import context, recording
from labrun.runs.groups import EarlyStop, NotFinite
from labrun.tasks.monitored import VALIDATION
from labrun.tasks.networks.epoch_state import EpochState, gathers
from labrun.tasks.networks.forward_cost import Watch
from labrun.tasks.networks.progress import is_of_an_epochs_end
from labrun.tasks.packages import Package
from labrun.tasks.threads import ForwardCost

log = logging.getLogger(__name__)


class PrintReport(pl.Callback):
    """Prints a line after each epoch, titled as in Chainer's `PrintReport`, or by name if it lacks one of the metrics.

    Args:
        columns: maximum number of metrics to show.
    """

    WIDTH = 14
    TITLES: ClassVar = {
        "train_loss": "main/loss",
        "val_loss": "validation/main/loss",
        "train_accuracy": "main/accuracy",
        "val_accuracy": "validation/main/accuracy",
    }

    def __init__(self, columns: int = 8) -> None:
        self._columns = columns
        self._begun = time.monotonic()
        self._header: list[str] = []
        self._epoch = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()
        if trainer.fit_loop.restarted_mid_epoch:  # on_train_epoch_start is not called for this epoch
            self._epoch = trainer.current_epoch + 1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A module logs its epoch's values after the callbacks have run, so print when the next epoch starts.
        self._print(trainer)
        self._epoch = trainer.current_epoch + 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        if not self._epoch:
            return
        values = trainer.callback_metrics
        row: dict[str, str] = {"epoch": str(self._epoch)}
        names = [*(name for name in self.TITLES if name in values), *(n for n in values if n not in self.TITLES)]
        shown = [name for name in names if not is_fork(name, values)][: self._columns]
        titles = self.TITLES if set(shown) <= set(self.TITLES) else {}
        for name in shown:
            row[titles.get(name, name)] = f"{float(values[name]):.6g}"
        row["elapsed_time"] = f"{time.monotonic() - self._begun:.6g}"
        if list(row) != self._header:
            self._header = list(row)
            log.info("  ".join(f"{title:<{max(self.WIDTH, len(title))}}" for title in row).rstrip())
        log.info("  ".join(f"{value:<{max(self.WIDTH, len(title))}}" for title, value in row.items()).rstrip())


OF_A_LOADER = "/dataloader_idx_"
"""Separates a metric's name from the index of its loader if there are several loaders."""


def is_fork(name: str, logged: Iterable[str]) -> bool:
    """Return whether Lightning derived a metric from another: `loss_step` or `loss_epoch`, if `loss` exists."""
    return unforked(name) != name and unforked(name) in logged


def unforked(name: str, *suffixes: str) -> str:
    """Strip the suffixes that Lightning adds from a metric's name: by default `_step` and `_epoch`."""
    head, mark, loader = name.partition(OF_A_LOADER)
    for suffix in suffixes or ("_step", "_epoch"):
        head = head.removesuffix(suffix)
    return f"{head}{mark}{loader}"


LIGHTNINGS_OWN = frozenset(
    {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "hyper_parameters"}
    | {"datamodule_hyper_parameters", "epoch", "global_step", "pytorch-lightning_version"}
)
"""Keys of a checkpoint that belong to Lightning, and are not states of callbacks, modules or data modules."""
LEFT_OUT = "labrun_left_out"
# NumPy's arrays and scalars execute no code when loaded, but `weights_only` rejects them by default.
torch.serialization.add_safe_globals(
    [
        *(np.ndarray, np.dtype),
        *{type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSUVmM"},
        *(found[0] for found in (np.arange(1).__reduce__(), np.float64(1).__reduce__()) if isinstance(found, tuple)),
    ]
)


class PlainCheckpoints:
    """Writes checkpoints atomically, and only with content that can be loaded without unpickling custom classes.

    A mixin: see `plain_checkpoints`. Of a module's hyperparameters (`save_hyperparameters`), only plain values are
    kept; the run's config has all of them.
    """

    home: Path
    """The run's `checkpoints/`."""
    keeps_best = True
    """Whether the best checkpoint of a resumed run still counts in this one."""
    newest: tuple[Path, int] | None = None
    """File and step of the last complete state saved at the end of an epoch."""
    _has_warned = False
    midway: tuple[Path, int] | None = None
    """File and step of the last state saved within an epoch; None once it is outdated."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint like Lightning, but atomically: a kill leaves the previous file intact."""
        for part in ("hyper_parameters", "datamodule_hyper_parameters"):
            values = checkpoint.get(part)
            if isinstance(values, Container):
                checkpoint.pop("hparams_type", None)
                values = OmegaConf.to_container(values, resolve=True)
            if isinstance(values, Mapping):
                checkpoint[part] = {key: value for key, value in values.items() if _is_plain(value)}
        self._leave_out(checkpoint)
        self.newest = self.midway = None
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)  # type: ignore[misc]
            return
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.partial")
        partial.unlink(missing_ok=True)  # a leftover of a kill may be a hard link to the best checkpoint
        try:
            torch.save(checkpoint, partial)
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)  # on a full disk the record needs the space
            raise
        if is_of_an_epochs_end(checkpoint):
            self.newest = file, int(checkpoint["global_step"])
        elif checkpoint.get("optimizer_states") is not None:
            self.midway = file, int(checkpoint["global_step"])

    def _leave_out(self, checkpoint: dict[str, Any]) -> None:
        """Remove states of callbacks, modules and data modules that could not be loaded again, and warn once."""
        states = checkpoint.get("callbacks")
        found = []
        for home in (checkpoint, states if isinstance(states, dict) else {}):
            for name in [name for name in home if name not in LIGHTNINGS_OWN and not _is_readable(home[name])]:
                del home[name]
                found.append(str(name))
        if not found:
            return
        checkpoint[LEFT_OUT] = found
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "Not in the checkpoints: the state of %s. They hold only tensors, arrays and plain values, so a "
                "resumed training starts without this state",
                ", ".join(found),
            )

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint like Lightning, and copy the best checkpoints if another run wrote it."""
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)  # type: ignore[misc]
        if checkpoint.get(LEFT_OUT):
            log.warning("Resuming without the state of %s: the checkpoint has none", ", ".join(checkpoint[LEFT_OUT]))
        for state in (checkpoint.get("callbacks") or {}).values():
            if not isinstance(state, dict):
                continue
            if {"dirpath", "best_model_path", "best_k_models"} <= set(state):
                if self.keeps_best:
                    _bring(state, Path(path).parent, self.home)
                elif str(state["dirpath"]) != str(self.home):
                    state["best_model_path"] = ""
        return checkpoint


def plain_checkpoints(package: Package, home: Path, keeps_best: bool = True) -> Any:
    """Create `PlainCheckpoints` for a Trainer of a package.

    Args:
        package: the Trainer's package.
        home: the run's `checkpoints/`.
        keeps_best: see `PlainCheckpoints`.
    """
    base = package.part("plugins.io").TorchCheckpointIO
    values = {"home": Path(os.path.realpath(home)), "keeps_best": keeps_best}
    return type("PlainCheckpoints", (PlainCheckpoints, base), values)()


def _bring(state: dict[str, Any], source: Path, home: Path) -> None:
    """Move the state of another run's `ModelCheckpoint` to this run: a resumed training may already have its best.

    Args:
        state: the callback's state in the checkpoint; changed if its files exist.
        source: the checkpoint's folder.
        home: the folder of this run's checkpoints.
    """
    before = str(state["dirpath"])
    if before == str(home):
        return
    moved: dict[str, str] = {"": ""}
    for name in map(str, [*state["best_k_models"], state["best_model_path"]]):
        if name in moved:
            continue
        file = source / os.path.relpath(name, before)
        if file.parent != source or not file.is_file():
            continue
        target = home / file.name
        moved[name] = str(target)
        if not target.exists():
            home.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial := target.with_name(f"{target.name}.partial"))
            os.replace(partial, target)
    if state["best_model_path"] not in moved or not set(state["best_k_models"]) <= set(moved):
        return  # Lightning then starts without a best checkpoint
    state["dirpath"] = str(home)
    state["best_k_models"] = {moved[name]: value for name, value in state["best_k_models"].items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved.get(str(state.get(key, "")), "")


def _is_readable(value: Any) -> bool:
    """Return whether a state can be loaded without unpickling custom classes."""
    if _is_plain(value):
        return True
    kept = io.BytesIO()
    torch.save(value, kept)
    kept.seek(0)
    try:
        torch.load(kept, weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(map(_is_plain, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool, torch.Tensor)


LONGEST = 200
"""Maximum characters kept of a hyperparameter that is stored as text because it is not a plain value."""


def _is_json(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) and _is_plain(value)


class CheckpointKeeper:
    """Saves a checkpoint at the end of each epoch, detects NaN and infinity, and handles preemption.

    A mixin: see `checkpoint_keeper`. It is the last callback, so that the checkpoint includes the others' state.

    Args:
        path: the checkpoint that the next attempt resumes from.
        files: writes the checkpoints; None if Lightning's own plugin must.
        on_nan: `warn`, or `fail` to end the training at once.
    """

    keeps = True
    """Whether to save each epoch's state."""
    keeps_count = True
    """Whether early stopping continues the count of a resumed run."""
    EVERY = 10
    """Batches between synchronizations of several processes on whether they are preempted."""

    def __init__(self, path: Path, files: PlainCheckpoints | None, on_nan: str) -> None:
        self._path, self._files, self._fails = path, files, on_nan == "fail"
        self._loss: Any = None
        self.stopped: EarlyStop | None = None
        self.epochs = 0
        """Number of completed epochs."""
        self.not_finite: NotFinite | None = None
        """None if all values are finite (again)."""
        self._ended_midway = self._is_preempted = self._validated = False

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Let early stopping continue the count of a resumed run, with the settings of the current config."""
        if trainer.ckpt_path is None or Path(trainer.ckpt_path).parent == self._path.parent:
            return
        for callback in trainer.early_stopping_callbacks:
            state = (checkpoint.get("callbacks") or {}).get(callback.state_key)
            if not isinstance(state, dict):
                continue
            state.update(patience=callback.patience, stopped_epoch=0)
            if "stopping_reason_message" in state:
                state.update(stopping_reason_message=None, stopping_reason=0)
            if not self.keeps_count:
                state.update(best_score=callback.best_score, wait_count=0)
            elif state["wait_count"] >= callback.patience:
                state["wait_count"] = 0
                log.info(
                    "Early stopping by %s restarts its count, which had already ended the training", callback.monitor
                )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        count = len(trainer.num_val_batches)
        watched = {str(getattr(one, "monitor", None)) for one in trainer.callbacks}
        if count > 1 and (ambiguous := sorted(watched & set(VALIDATION))) and _names_each_loader(pl_module):
            raise ConfigError(
                f"there are {count} validation loaders, each with its {ambiguous[0]}. Say which one picks the best "
                f"epoch: trainer.monitor={ambiguous[0]}{OF_A_LOADER}0 takes the first"
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._warn_if_unvalidated(trainer)
        # `stopped_epoch` is 0 for a stop after the first epoch, but also without a stop; older versions give no reason.
        ended = [
            callback
            for callback in trainer.early_stopping_callbacks
            if callback.stopped_epoch or getattr(callback, "stopping_reason_message", None)
        ]
        for callback in ended if self.epochs < (trainer.max_epochs or 0) else []:
            self.stopped = EarlyStop(self.epochs, callback.monitor, callback.patience)
            why = str(callback.stopping_reason_message or f"{callback.monitor} was watched").partition(" Signaling")[0]
            log.info("Stopped early, after epoch %d of %d: %s", self.epochs, trainer.max_epochs, why)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self._fails and trainer.world_size == 1 and (what := unusual("the loss", self._loss)):
            self._end(f"{what} in epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}")
        preempted, steps = self._agreed_to_preempt(trainer, batch_idx), not trainer.fit_loop._should_accumulate()
        if preempted and steps and not _validates_next(trainer):
            self._preempt(trainer)  # only after an optimizer step, since checkpoints contain no gradients
        if self.keeps and not trainer.is_last_batch:
            self._keep_midway(trainer)

    def _agreed_to_preempt(self, trainer: Any, batch_idx: int) -> bool:
        requested = recording.preemption_requested()
        if trainer.world_size == 1:
            return requested
        if batch_idx % self.EVERY and not self._is_preempted:
            return False
        self._is_preempted = self._is_preempted or trainer.strategy.reduce_boolean_decision(requested, all=False)
        return self._is_preempted

    def _preempt(self, trainer: Any) -> None:
        if can_go_on_midway(trainer):
            trainer.save_checkpoint(self._path)
            log.info("Preempted: saved after step %d", trainer.global_step)
        else:
            log.warning("Preempted: %s", self._restart_notice(trainer))
        raise recording.Preempted("preempted")

    def _keep_midway(self, trainer: Any) -> None:
        """Use another callback's new checkpoint as the last one, too; save one if training ends within the epoch."""
        # Lightning shows nowhere public whether gradients are being accumulated, and whether it may stop early
        found = None if self._files is None else self._files.midway
        if (
            found is not None
            and found[1] == trainer.global_step
            and found[0] != self._path
            and not trainer.fit_loop._should_accumulate()
            and can_go_on_midway(trainer)
            and not _validates_next(trainer)
        ):
            self._link(found[0])
        is_asked = trainer.should_stop and trainer.fit_loop._can_stop_early
        if is_asked or 0 < trainer.max_steps <= trainer.global_step:
            self._ended_midway = can_go_on_midway(trainer) or self._path.is_file()
            if can_go_on_midway(trainer):
                trainer.save_checkpoint(self._path)
            else:
                log.warning("The training ends here: %s", self._restart_notice(trainer))

    def _restart_notice(self, trainer: Any) -> str:
        why = (
            "it has several loaders, which take turns"
            if _go_on(trainer)
            else "its loader has no state_dict and load_state_dict to resume within an epoch"
        )
        return f"a resumed training begins epoch {trainer.current_epoch + 1} again, since {why}"

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not self._validated:
            _warn_about_padding(trainer, "validation", trainer.fit_loop.epoch_loop.val_loop)
        self._validated = True

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        _warn_about_padding(trainer, "test", trainer.test_loop)

    def _warn_if_unvalidated(self, trainer: Any) -> None:
        """Warn if validation was enabled but never ran."""
        every, batches = trainer.check_val_every_n_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if self._validated or not trainer.enable_validation or every is None or self.epochs < every:
            return
        asked = {"trainer.options.val_check_interval": trainer.val_check_interval}
        asked |= {"trainer.limit_train_batches": trainer.limit_train_batches}
        longer = [f"{key}={value}" for key, value in asked.items() if isinstance(value, int) and value > batches]
        log.warning(
            "The validation part was never used%s",
            f": an epoch had {batches} batches, and {' and '.join(longer)} requires more. Use at most that number"
            if longer
            else "",
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs = trainer.current_epoch + 1
        self._check_losses(trainer)
        self._is_preempted = self._agreed_to_preempt(trainer, 0)
        if (self.keeps or self._is_preempted) and not self._ended_midway:
            self._keep(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self._is_preempted:  # not earlier, since Lightning logs an epoch's averages at its very end
            log.info("Preempted: saved after epoch %d", self.epochs)
            raise recording.Preempted("preempted")

    def _keep(self, trainer: Any) -> None:
        newest = None if self._files is None or trainer.world_size > 1 else self._files.newest
        is_new = newest is not None and newest[1] == trainer.global_step and newest[0] != self._path
        # If the best checkpoint is also the last, the state need not be written twice.
        if newest is None or not is_new or not self._link(newest[0]):
            trainer.save_checkpoint(self._path)

    def _link(self, file: Path) -> bool:
        """Hard-link a checkpoint as the last one. Return whether that worked."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(file, partial)
            os.replace(partial, self._path)
            return True
        except OSError:
            log.debug("hard links are not supported")
            return False

    def _check_losses(self, trainer: Any) -> None:
        logged = {name: value for name, value in trainer.callback_metrics.items() if "loss" in name.lower()}
        found = unusual("the loss", self._loss) or next(filter(None, map(unusual, logged, logged.values())), None)
        self._loss = None
        if found is None:
            self.not_finite = None
        elif self._fails:
            self._end(f"{found} in epoch {self.epochs}")
        elif self.not_finite is None:
            self.not_finite = NotFinite(self.epochs, found)
            log.warning(
                "%s", recording.red(f"Epoch {self.epochs}: {found}. trainer.on_nan=fail would end the training")
            )

    def _end(self, what: str) -> None:
        raise RunFailedError(
            f"training: {what}, and trainer.on_nan=fail ends it there. A smaller model.lr or "
            "trainer.gradient_clip_val=1 may help; trainer.on_nan=warn continues"
        )


def checkpoint_keeper(
    package: Package, keeps: bool, path: Path, files: PlainCheckpoints | None, on_nan: str, keeps_count: bool
) -> Any:
    """Create a `CheckpointKeeper` for a Trainer of a package.

    Args:
        package: the Trainer's package.
        keeps: whether to save each epoch's state.
        path: see `CheckpointKeeper`.
        files: see `CheckpointKeeper`.
        on_nan: see `CheckpointKeeper`.
        keeps_count: see `CheckpointKeeper`.
    """
    callbacks = package.part("callbacks")
    base = callbacks.Checkpoint if keeps else callbacks.Callback
    made = type("CheckpointKeeper", (CheckpointKeeper, base), {"keeps": keeps, "keeps_count": keeps_count})
    return made(path, files, on_nan)


@rank_zero_only
def _warn_about_padding(trainer: Any, part: str, loop: Any) -> None:
    """Warn if samplers repeated samples because a split could not be divided evenly among the processes."""
    combined = loop._combined_loader  # see `train_loaders`
    twice = sum(map(loaders.seen_twice, [] if combined is None else combined.flattened))
    if twice and trainer.world_size > 1:
        log.warning(
            "%d processes share the %s part, and %d of its samples count twice, so each process has the same number."
            " labrun task=evaluate from=RUN, in one process, counts each test sample once",
            trainer.world_size,
            part,
            twice,
        )


def _names_each_loader(module: Any) -> bool:
    """Return whether a module's validation metrics have the loader's index in their names, judging by its source."""
    try:
        source = inspect.getsource(type(module))
    except (OSError, TypeError):
        return False
    return gathers(module) or not ("add_dataloader_idx" in source or "on_validation_epoch_end" in source)


def _validates_next(trainer: Any) -> bool:
    """Return whether this is the epoch's last batch or a validation follows, which Lightning would skip on resuming."""
    loop = trainer.fit_loop  # whose private methods alone know the rules for both
    ends = (trainer.should_stop and loop._can_stop_early) or 0 < trainer.max_steps <= trainer.global_step
    return trainer.is_last_batch or (not ends and loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def can_go_on_midway(trainer: Any) -> bool:
    """Return whether a training's loaders can resume within an epoch."""
    return _go_on(trainer) and not _take_turns(trainer)


def _go_on(trainer: Any) -> bool:
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


def finite_alone(checkpoint: Any) -> None:
    """Keep a `ModelCheckpoint` from choosing an epoch with a NaN or infinite metric as the best, even the first."""
    if checkpoint.save_top_k > 0:
        check = checkpoint.check_monitor_top_k
        checkpoint.check_monitor_top_k = lambda trainer, current=None: (
            unusual("", current) is None and check(trainer, current)
        )


def unusual(name: str, value: Any) -> str | None:
    """Return `NAME is NaN` or `NAME is infinite`, or None for finite and for non-numeric values."""
    if value is None:
        return None
    try:
        found = torch.as_tensor(value).detach()
        if bool(torch.isfinite(found).all()):
            return None
        return f"{name} is {'NaN' if bool(torch.isnan(found).any()) else 'infinite'}"
    except (TypeError, ValueError, RuntimeError):
        return None


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
            str(name): value if _is_json(value) else str(value)[:LONGEST] for name, value in given.items()
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


class FirstBatch(pl.Callback):
    """Counts the work of a network's first batch, and reports it before the second.

    Args:
        on_work: called once with the work of the whole batch, or None if it cannot be counted.
    """

    def __init__(self, on_work: Callable[[ForwardCost | None], None]) -> None:
        self._on_work: Callable[[ForwardCost | None], None] | None = on_work
        self._watch: Watch | None = None

    def _begin(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._on_work is not None and self._watch is None:
            self._watch = Watch(pl_module)

    def _end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._on_work is not None and self._watch is not None:
            on_work, self._on_work = self._on_work, None
            on_work(self._watch.end())

    on_train_batch_start = on_test_batch_start = on_predict_batch_start = _begin  # type: ignore[assignment]
    # Before the backward pass, so that it already uses the new number of threads. Manual optimization may skip it.
    on_before_backward = on_train_batch_end = _end  # type: ignore[assignment]
    on_test_batch_end = on_predict_batch_end = _end  # type: ignore[assignment]


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
