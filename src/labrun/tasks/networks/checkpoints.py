"""Checkpoints of a training: writing and loading them safely, and keeping one at the end of each epoch.

Lightning has no public way to ask its loops whether gradients are accumulating, whether training may stop, or whether a
validation follows, so this module reads the loops' private attributes.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import Container, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from labrun.data import loaders
from labrun.errors import ConfigError, RunFailedError
from labrun.runs import recording
from labrun.runs.groups import EarlyStop, NotFinite
from labrun.tasks.monitored import VALIDATION
from labrun.tasks.networks.epoch_state import gathers
from labrun.tasks.networks.metric_names import OF_A_LOADER
from labrun.tasks.networks.progress import is_of_an_epochs_end
from labrun.tasks.networks.resumption import can_go_on_midway, loaders_resume
from labrun.tasks.packages import Package

log = logging.getLogger(__name__)

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


def is_json(value: Any) -> bool:
    """Return whether a value can be kept in JSON as it is."""
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
        for callback in trainer.early_stopping_callbacks if self.epochs < (trainer.max_epochs or 0) else ():
            # `stopped_epoch` is 0 for a stop after the first epoch, but also without a stop.
            said = getattr(callback, "stopping_reason_message", None)  # older versions do not have it
            if callback.stopped_epoch or said:
                self.stopped = EarlyStop(self.epochs, callback.monitor, callback.patience)
                # the values that decided are only in this text, which ends in what Lightning does next
                why = (said or f"{callback.monitor} was watched").removesuffix(" Signaling Trainer to stop.")
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
            if loaders_resume(trainer)
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
            "The validation split was never used%s",
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
