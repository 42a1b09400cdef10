"""What happens beside the training of a network: the line per epoch, the checkpoint of each, the run's own record."""

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
from labrun.tasks.gathered import Gathered, gathers
from labrun.tasks.monitored import VALIDATION
from labrun.tasks.packages import Package
from labrun.tasks.progress import is_of_an_epochs_end
from labrun.tasks.threads import Work
from labrun.tasks.work import Watch

log = logging.getLogger(__name__)


class PrintReport(pl.Callback):
    """After each epoch one line, under the titles of Chainer's `PrintReport`, or under their own names if it has none.

    Args:
        columns: no more metrics than these are shown.
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
        if trainer.fit_loop.restarted_mid_epoch:  # it does not start any more
            self._epoch = trainer.current_epoch + 1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A module logs its epoch's values after the callbacks' own turn, so the line comes as the next epoch begins.
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
"""Where the name of a metric ends, and of which of several loaders it is begins."""


def is_fork(name: str, logged: Iterable[str]) -> bool:
    """Whether Lightning made a metric of another's name: `loss_step` or `loss_epoch`, where there is a `loss`."""
    return unforked(name) != name and unforked(name) in logged


def unforked(name: str, *suffixes: str) -> str:
    """A metric's name without the suffix that Lightning gives it: `_step` and `_epoch`, where no others are named."""
    head, mark, loader = name.partition(OF_A_LOADER)
    for suffix in suffixes or ("_step", "_epoch"):
        head = head.removesuffix(suffix)
    return f"{head}{mark}{loader}"


LIGHTNINGS_OWN = frozenset(
    {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "hyper_parameters"}
    | {"datamodule_hyper_parameters", "epoch", "global_step", "pytorch-lightning_version"}
)
"""Keys of a checkpoint that are not states of anybody's."""
LEFT_OUT = "labrun_left_out"
torch.serialization.add_safe_globals(
    [
        *(np.ndarray, np.dtype),
        *{type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSUVmM"},
        *(found[0] for found in (np.arange(1).__reduce__(), np.float64(1).__reduce__()) if isinstance(found, tuple)),
    ]
)
"""NumPy's arrays and scalars, which run nothing as they are read: `weights_only` takes none of them by itself."""


class PlainCheckpoints:
    """Writes checkpoints that can be read without unpickling anybody's classes, each in one step.

    A mixin: see `plain_checkpoints`.
    What a module's `save_hyperparameters` noted is kept as far as it is plain values: the run's config holds it all.
    """

    home: Path
    """The run's `checkpoints/`."""
    keeps_best = True
    """Whether the best of a run that this one goes on with counts here, too."""
    newest: tuple[Path, int] | None = None
    """The file of the last whole state that was saved at an epoch's end, and its step."""
    _has_told = False
    midway: tuple[Path, int] | None = None
    """The same of a state that was saved in the middle of an epoch; None once it is old."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """As Lightning's own; a kill leaves the file that was there before."""
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
        partial.unlink(missing_ok=True)  # what a kill left may be another name of the best's own file
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
        """Take out the states of callbacks, modules and data modules that could not be read again, and say so once."""
        states = checkpoint.get("callbacks")
        found = []
        for home in (checkpoint, states if isinstance(states, dict) else {}):
            for name in [name for name in home if name not in LIGHTNINGS_OWN and not _is_readable(home[name])]:
                del home[name]
                found.append(str(name))
        if not found:
            return
        checkpoint[LEFT_OUT] = found
        if not self._has_told:
            self._has_told = True
            log.warning(
                "Not in the checkpoints: the state of %s. They hold tensors, arrays and plain values, and this state "
                "holds more: a training that goes on has none of it",
                ", ".join(found),
            )

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Lightning's own; the best checkpoints that it knows of come along, where it was written elsewhere."""
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)  # type: ignore[misc]
        if checkpoint.get(LEFT_OUT):
            log.warning("Going on without the state of %s: the checkpoint has none", ", ".join(checkpoint[LEFT_OUT]))
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
    """`PlainCheckpoints` as a Trainer of this package takes it.

    Args:
        package: the Trainer's.
        home: the run's `checkpoints/`.
        keeps_best: see `PlainCheckpoints`.
    """
    base = package.part("plugins.io").TorchCheckpointIO
    values = {"home": Path(os.path.realpath(home)), "keeps_best": keeps_best}
    return type("PlainCheckpoints", (PlainCheckpoints, base), values)()


def _bring(state: dict[str, Any], source: Path, home: Path) -> None:
    """Have a `ModelCheckpoint` that another run left go on here: a training that goes on has had its best before.

    Args:
        state: the callback's, of the checkpoint; changed where its files are there.
        source: the folder that the checkpoint lies in.
        home: where the files of this run lie.
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
        return  # Lightning then begins anew
    state["dirpath"] = str(home)
    state["best_k_models"] = {moved[name]: value for name, value in state["best_k_models"].items()}
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved.get(str(state.get(key, "")), "")


def _is_readable(value: Any) -> bool:
    """Whether a state can be read without unpickling anybody's classes."""
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
"""So much of a hyperparameter that is not a plain value is kept, as text."""


def _is_json(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) and _is_plain(value)


class Keeper:
    """Keeps the state of each epoch that ended, looks whether it is still made of numbers, and leaves when asked to.

    A mixin: see `keeper`. It is the last of all callbacks, so that what the others note goes into the checkpoint.

    Args:
        path: the checkpoint that the next attempt goes on from.
        files: writes the checkpoints; None where Lightning's own has to.
        on_nan: `warn`, or `fail`: end the training at once.
    """

    keeps = True
    """Whether each epoch's state is saved."""
    keeps_count = True
    """Whether early stopping goes on from what it counted in the run that this one goes on with."""
    EVERY = 10
    """Batches between two agreements of several processes on whether to leave."""

    def __init__(self, path: Path, files: PlainCheckpoints | None, on_nan: str) -> None:
        self._path, self._files, self._fails = path, files, on_nan == "fail"
        self._loss: Any = None
        self.stopped: dict[str, Any] | None = None
        """Where early stopping ended the training, by which metric, after how many epochs without a better one."""
        self.epochs = 0
        """How many have ended."""
        self.not_finite: dict[str, Any] | None = None
        """Since which epoch, and what, is NaN or infinite; None where all is well again."""
        self._ended_midway = self._leaves = self._validated = False

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Early stopping counts on from the run that this one goes on with, by the settings that the config has now."""
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
                log.info("Early stopping by %s counts anew: it had ended the training before", callback.monitor)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        count = len(trainer.num_val_batches)
        watched = {str(getattr(one, "monitor", None)) for one in trainer.callbacks}
        if count > 1 and (ambiguous := sorted(watched & set(VALIDATION))) and _names_each_loader(pl_module):
            raise ConfigError(
                f"there are {count} validation loaders, each with its {ambiguous[0]}. Say which one picks the best "
                f"epoch: trainer.monitor={ambiguous[0]}{OF_A_LOADER}0 takes the first"
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._tell_unvalidated(trainer)
        # `stopped_epoch` is 0 after the first epoch, and also where nothing was stopped; older versions give no reason.
        ended = [
            callback
            for callback in trainer.early_stopping_callbacks
            if callback.stopped_epoch or getattr(callback, "stopping_reason_message", None)
        ]
        for callback in ended if self.epochs < (trainer.max_epochs or 0) else []:
            self.stopped = {"epoch": self.epochs, "monitor": callback.monitor, "patience": callback.patience}
            why = str(callback.stopping_reason_message or f"{callback.monitor} was watched").partition(" Signaling")[0]
            log.info("Stopped early, after epoch %d of %d: %s", self.epochs, trainer.max_epochs, why)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if self._fails and trainer.world_size == 1 and (what := unusual("the loss", self._loss)):
            self._end(f"{what} in epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}")
        leaves, steps = self._agreed_to_leave(trainer, batch_idx), not trainer.fit_loop._should_accumulate()
        if leaves and steps and not _validates_next(trainer):
            self._make_room(trainer)  # after a step of the optimizer, since gradients are in no checkpoint
        if self.keeps and not trainer.is_last_batch:
            self._keep_midway(trainer)

    def _agreed_to_leave(self, trainer: Any, batch_idx: int) -> bool:
        asked = recording.asked_to_leave()
        if trainer.world_size == 1:
            return asked
        if batch_idx % self.EVERY and not self._leaves:
            return False
        self._leaves = self._leaves or trainer.strategy.reduce_boolean_decision(asked, all=False)
        return self._leaves

    def _make_room(self, trainer: Any) -> None:
        if can_go_on_midway(trainer):
            trainer.save_checkpoint(self._path)
            log.info("Asked to make room: saved after step %d", trainer.global_step)
        else:
            log.warning("Asked to make room: %s", self._begins_again(trainer))
        raise recording.Preempted("asked to make room")

    def _keep_midway(self, trainer: Any) -> None:
        """Have another callback's checkpoint be the last, too, and keep where the time or the steps are up."""
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
                log.warning("The training ends here: %s", self._begins_again(trainer))

    def _begins_again(self, trainer: Any) -> str:
        why = (
            "it has several loaders, which take turns"
            if _go_on(trainer)
            else "its loader has no state_dict and load_state_dict to go on in the middle"
        )
        return f"whatever goes on from it begins epoch {trainer.current_epoch + 1} again, since {why}"

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not self._validated:
            _tell_padding(trainer, "validation", trainer.fit_loop.epoch_loop.val_loop)
        self._validated = True

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        _tell_padding(trainer, "test", trainer.test_loop)

    def _tell_unvalidated(self, trainer: Any) -> None:
        """Say that the validation part was never looked at, where it was meant to be."""
        every, batches = trainer.check_val_every_n_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if self._validated or not trainer.enable_validation or every is None or self.epochs < every:
            return
        asked = {"trainer.options.val_check_interval": trainer.val_check_interval}
        asked |= {"trainer.limit_train_batches": trainer.limit_train_batches}
        longer = [f"{key}={value}" for key, value in asked.items() if isinstance(value, int) and value > batches]
        log.warning(
            "The validation part was never used%s",
            f": an epoch had {batches} batches, and {' and '.join(longer)} waits for more. Say no more than there are"
            if longer
            else "",
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs = trainer.current_epoch + 1
        self._look(trainer)
        self._leaves = self._agreed_to_leave(trainer, 0)
        if (self.keeps or self._leaves) and not self._ended_midway:
            self._keep(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self._leaves:  # not before, since Lightning logs an epoch's averages last of all
            log.info("Asked to make room: saved after epoch %d", self.epochs)
            raise recording.Preempted("asked to make room")

    def _keep(self, trainer: Any) -> None:
        newest = None if self._files is None or trainer.world_size > 1 else self._files.newest
        is_new = newest is not None and newest[1] == trainer.global_step and newest[0] != self._path
        # The best is the last, too: the same state need not be written twice.
        if newest is None or not is_new or not self._link(newest[0]):
            trainer.save_checkpoint(self._path)

    def _link(self, file: Path) -> bool:
        """Give a checkpoint the name of the last one, too; whether that worked."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(file, partial)
            os.replace(partial, self._path)
            return True
        except OSError:
            log.debug("no hard links here")
            return False

    def _look(self, trainer: Any) -> None:
        logged = {name: value for name, value in trainer.callback_metrics.items() if "loss" in name.lower()}
        found = unusual("the loss", self._loss) or next(filter(None, map(unusual, logged, logged.values())), None)
        self._loss = None
        if found is None:
            self.not_finite = None
        elif self._fails:
            self._end(f"{found} in epoch {self.epochs}")
        elif self.not_finite is None:
            self.not_finite = {"since": self.epochs, "what": found}
            log.warning("%s", recording.red(f"Epoch {self.epochs}: {found}. trainer.on_nan=fail ends such a training"))

    def _end(self, what: str) -> None:
        raise RunFailedError(
            f"training: {what}, and trainer.on_nan=fail ends it there. A smaller model.lr or "
            "trainer.gradient_clip_val=1 may help; trainer.on_nan=warn goes on"
        )


def keeper(
    package: Package, keeps: bool, path: Path, files: PlainCheckpoints | None, on_nan: str, keeps_count: bool
) -> Any:
    """A `Keeper` as a Trainer of this package takes it.

    Args:
        package: the Trainer's.
        keeps: whether each epoch's state is saved.
        path: see `Keeper`.
        files: see there.
        on_nan: see there.
        keeps_count: see there.
    """
    callbacks = package.part("callbacks")
    base = callbacks.Checkpoint if keeps else callbacks.Callback
    made = type("Keeper", (Keeper, base), {"keeps": keeps, "keeps_count": keeps_count})
    return made(path, files, on_nan)


@rank_zero_only
def _tell_padding(trainer: Any, part: str, loop: Any) -> None:
    """Say that a part was not divisible among the processes, whose samplers fill it up."""
    combined = loop._combined_loader
    twice = sum(map(loaders.seen_twice, [] if combined is None else combined.flattened))
    if twice and trainer.world_size > 1:
        log.warning(
            "%d processes share the %s part, and %d of its samples count twice, so that each process has equally many."
            " labrun task=evaluate from=RUN, in one process, counts each test sample once",
            trainer.world_size,
            part,
            twice,
        )


def _names_each_loader(module: Any) -> bool:
    """Whether what a module logs in validation has the loader's number in its name, as far as its source tells."""
    try:
        source = inspect.getsource(type(module))
    except (OSError, TypeError):
        return False
    return gathers(module) or not ("add_dataloader_idx" in source or "on_validation_epoch_end" in source)


def _validates_next(trainer: Any) -> bool:
    """Whether this batch is the epoch's last, or a validation comes next: Lightning, going on from here, forgets it."""
    loop = trainer.fit_loop
    ends = (trainer.should_stop and loop._can_stop_early) or 0 < trainer.max_steps <= trainer.global_step
    return trainer.is_last_batch or (not ends and loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def can_go_on_midway(trainer: Any) -> bool:
    """Whether the loaders of a training can go on in the middle of an epoch."""
    return _go_on(trainer) and not _take_turns(trainer)


def _go_on(trainer: Any) -> bool:
    return all(loaders.resumes(one, trainer.world_size) for one in train_loaders(trainer))


def _take_turns(trainer: Any) -> bool:
    """Whether several loaders draw their orders in turns, and the shorter ones begin again: none can skip alone."""
    found = train_loaders(trainer)
    return len(found) > 1 and any(isinstance(one, loaders.Loader) for one in found)


def train_loaders(trainer: Any) -> list[Any]:
    """Those of the training, whatever structure they came in."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


class RandomStates(pl.Callback):
    """Keeps what Lightning leaves out in the checkpoints: random states, and what the epoch has gathered.

    A training that goes on then draws what it would have drawn without the break: dropout, augmentation, orders. It is
    the first of all callbacks, so that the others draw and read averages after it. It tells loaders and data sets the
    epoch, too.

    Args:
        seed: the run's; a training that goes on with another one draws by that.
        counts: see `Gathered`.
    """

    KEY = "labrun"

    def __init__(self, seed: int, counts: bool) -> None:
        self._seed = seed
        self._gathered = Gathered(counts)
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        own, used = random_states.capture(self._generators(trainer)), trainer.fit_loop.epoch_loop.batch_progress
        states = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint[self.KEY] = {"seed": self._seed, "random_states": states}
        self._gathered.save(trainer, pl_module, checkpoint)
        kept = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader") or []
        stateful = [one for one in train_loaders(trainer) if loaders.is_stateful(one)]
        for place, loader in enumerate(stateful):
            if isinstance(loader, loaders.Loader):
                kept[place] = loader.state_dict(used.current.ready)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        found = checkpoint.get(self.KEY)
        if isinstance(found, dict) and found["seed"] == self._seed:
            self._loaded = found
        self._gathered.load(trainer, pl_module, checkpoint)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._gathered.go_on(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._gathered.go_on(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._gathered.end(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if any(map(loaders.keeps_old_copies, train_loaders(trainer))):
            log.warning(
                "The data set's set_epoch(): its loader has persistent_workers=True, whose copies of the data set do "
                "not hear of the epoch"
            )
        for loader in train_loaders(trainer):
            self._tell_of_readers(loader, trainer.world_size)
        loop = trainer.fit_loop
        if self._loaded is None:
            return
        in_use = train_loaders(trainer)
        # Lightning counts the batches of validation anew in each epoch.
        has_validated = loop.epoch_loop.val_loop.batch_progress.total.ready
        if has_validated or trainer.current_epoch >= (trainer.check_val_every_n_epoch or 1):
            for one in self._loaders(trainer)[len(in_use) :]:
                loaders.take_over(one)
        if any(loaders.draws_anew(one, loop.restarted_mid_epoch and one in in_use) for one in self._loaders(trainer)):
            log.warning(
                "The loader's workers had drawn random numbers before the break: those that they draw %s are not the "
                "ones of a training without it",
                "in the rest of this epoch" if loop.restarted_mid_epoch else "from here on (persistent_workers)",
            )
        if loop.restarted_mid_epoch:
            self._restore(trainer)
        else:
            # Lightning has made the iterator already, before the epoch was known: let it make the epoch's own.
            loop._resuming_from_checkpoint = False
            for loader in in_use:
                if isinstance(loader, loaders.Loader):
                    loader.rewind()

    @staticmethod
    def _tell_of_readers(loader: Any, ranks: int) -> None:
        """Say where each sample of a stream is likely to be seen several times an epoch."""
        for who in loaders.read_more_than_once(loader, ranks):
            ways = {"workers": "torch.utils.data.get_worker_info()", "processes": "torch.distributed.get_rank()"}
            count = loader.num_workers if who == "workers" else ranks
            log.warning(
                "%s is iterable, and %d %s read it: each gives all of its samples, unless it asks %s for its share, "
                "which its source does not",
                type(loader.dataset).__name__,
                count,
                who,
                ways[who],
            )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._restore(trainer)
        for loader in train_loaders(trainer):
            loaders.tell_epoch(loader, trainer.current_epoch)

    def _restore(self, trainer: Any) -> None:
        found, self._loaded = self._loaded, None
        if found is None:
            return
        states = found["random_states"]
        if len(states) != trainer.world_size:
            log.warning(
                "The checkpoint is of %d processes, and this training has %d: they draw other random numbers",
                len(states),
                trainer.world_size,
            )
            return
        random_states.restore(states[trainer.global_rank], self._generators(trainer))

    def _loaders(self, trainer: Any) -> list[Any]:
        validation = trainer.fit_loop.epoch_loop.val_loop._combined_loader
        return [*train_loaders(trainer), *([] if validation is None else validation.flattened)]

    def _generators(self, trainer: Any) -> list[Any]:
        return [one for loader in self._loaders(trainer) for one in random_states.generators_of(loader)]


def finite_alone(checkpoint: Any) -> None:
    """Have a `ModelCheckpoint` take no epoch for the best whose metric is NaN or infinite, be it the first."""
    if checkpoint.save_top_k > 0:
        check = checkpoint.check_monitor_top_k
        checkpoint.check_monitor_top_k = lambda trainer, current=None: (
            unusual("", current) is None and check(trainer, current)
        )


def unusual(name: str, value: Any) -> str | None:
    """`NAME is NaN` or `NAME is infinite`; None for a number, and for what is none."""
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
    """Passes what a module and its callbacks log to the run's record.

    A value of an epoch stands at the epoch's number, as labrun's own do; a value of a batch at the number of batches so
    far. Of the two names that Lightning gives a metric that is logged both ways, `loss_epoch` is `loss` here.

    Args:
        save_dir: for callbacks that ask a logger where to write.
        skipped: metrics that are in the record by another way.
    """

    def __init__(self, save_dir: Path, skipped: Iterable[str] = ()) -> None:
        super().__init__()
        self._save_dir = save_dir
        self._skipped = frozenset(skipped)
        self._units: dict[str, bool] = {}
        self._logged: dict[str, tuple[int, Any]] = {}
        self._refused: set[str] = set()
        self._forked: set[str] = set()
        """What came as a batch's value: Lightning calls the epoch's `NAME_epoch` then."""
        self.hyperparameters: dict[str, Any] = {}
        self.place = Place()

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
        """For modules that write to their logger's own object."""
        return Experiment(self)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """What a module and a data module have noted of themselves (`save_hyperparameters`), for the record."""
        found = OmegaConf.to_container(params, resolve=True) if isinstance(params, Container) else params
        given = dict(found) if isinstance(found, Mapping) else vars(found)
        self.hyperparameters |= {
            str(name): value if _is_json(value) else str(value)[:LONGEST] for name, value in given.items()
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        place, is_lightnings = self.place, "epoch" in metrics
        for name, value in metrics.items():
            if name == "epoch" or name in self._skipped:
                continue
            is_step = unforked(name, "_step") != name
            if is_step and (place.in_batch or place.in_validation):
                self._forked.add(unforked(name, "_step"))
            if is_step and place.by_epoch and (place.in_validation or is_fork(name, place.logged)):
                continue  # the epoch's own value comes as well
            if is_fork(name, place.logged) or unforked(name, "_epoch") in self._forked:
                name = unforked(name, "_epoch")
            by_epoch = place.by_epoch if is_lightnings else not place.in_batch
            by_epoch = self._units.setdefault(name, by_epoch or step is None)
            # Lightning counts its batches from 0 on.
            at = place.epoch if by_epoch else int(step or 0) + is_lightnings
            if not is_lightnings and self._logged.get(name) == (at, value):
                continue  # a learning rate, at an epoch's start and at its last batch
            self._logged[name] = at, value
            try:
                context.log(name, value, at, place.epoch)
            except (TypeError, ValueError) as error:
                if name not in self._refused:
                    self._refused.add(name)
                    log.warning("Not in the record: %r: %s", name, " ".join(str(error).split()))


class Place:
    """Where a training is, for the logger: kept by `Pulse`."""

    def __init__(self) -> None:
        self.epoch = 1
        self.by_epoch = True
        """Whether what Lightning logs now is the epoch's."""
        self.in_batch = self.in_validation = False
        """Whether what is logged now is of a batch: of the training; of a validation or a test."""
        self.logged: Mapping[str, Any] = {}
        """What was logged so far, under all its names."""


class Experiment:
    """What a TensorBoard writer or a run of W&B is in other loggers: numbers go to the record, the rest nowhere."""

    _said = False

    def __init__(self, logger: RecordLogger) -> None:
        self._logger = logger

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, *_: Any, **__: Any) -> None:
        """As TensorBoard has it."""
        self._logger.log_metrics({tag: scalar_value}, global_step)

    def add_scalars(self, main_tag: str, values: Mapping[str, Any], global_step: int | None = None, *_: Any) -> None:
        """As TensorBoard has it."""
        self._logger.log_metrics({f"{main_tag}/{name}": value for name, value in values.items()}, global_step)

    def log(self, values: Mapping[str, Any], step: int | None = None, **_: Any) -> None:
        """As W&B has it."""
        self._logger.log_metrics(values, step)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._nothing

    def _nothing(self, *_: Any, **__: Any) -> None:
        if not Experiment._said:
            Experiment._said = True
            log.warning(
                "self.logger.experiment: a run's record takes numbers; logger=tensorboard or wandb takes the rest"
            )


def validates_by_epoch(trainer: Any) -> bool:
    """Whether there is no more than one validation in an epoch."""
    interval = trainer.val_check_interval  # a whole number counts batches
    is_whole = interval is None or (isinstance(interval, float) and interval == 1.0)
    return is_whole and trainer.check_val_every_n_epoch is not None


class FirstBatch(pl.Callback):
    """Watches the first batch that a network computes, and tells its work before the next.

    Args:
        told: called once with the work of that whole batch, None where it cannot be counted.
    """

    def __init__(self, told: Callable[[Work | None], None]) -> None:
        self._told: Callable[[Work | None], None] | None = told
        self._watch: Watch | None = None

    def _begin(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._told is not None and self._watch is None:
            self._watch = Watch(pl_module)

    def _end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._told is not None and self._watch is not None:
            told, self._told = self._told, None
            told(self._watch.end())

    on_train_batch_start = on_test_batch_start = on_predict_batch_start = _begin  # type: ignore[assignment]
    # Before the backward pass, so that it has its threads too; a module that optimizes by hand may have none there.
    on_before_backward = on_train_batch_end = _end  # type: ignore[assignment]
    on_test_batch_end = on_predict_batch_end = _end  # type: ignore[assignment]


class Pulse(pl.Callback):
    """Tells the logger where the training is, and lets each epoch's last batch be logged.

    It is the first of all callbacks, since the others may log. What a module logs per batch alone would else never
    arrive where an epoch has fewer batches than are between two logs.

    Args:
        logger: the record's.
    """

    def __init__(self, logger: RecordLogger) -> None:
        self._place = logger.place
        self._every = 0
        self._is_logged = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._every = trainer.log_every_n_steps
        self._place.epoch = trainer.current_epoch + 1  # one that is gone on with in its middle does not start
        self._place.logged = trainer.callback_metrics

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._place.epoch = trainer.current_epoch + 1
        self._is_logged = False
        self._rest(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._place.by_epoch, self._place.in_batch = not self._every, True
        last = trainer.is_last_batch or 0 < trainer.max_steps <= trainer.global_step + 1
        if last and not self._is_logged:
            trainer.log_every_n_steps = 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._every and not self._is_logged:  # the same on every process: what is logged may be reduced over them
            self._is_logged = (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % self._every == 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)
        self._place.in_validation = True

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._place.in_validation = False  # what comes now is the epoch's

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._rest(trainer)
        # Several validations in an epoch are told apart by their batches.
        self._place.by_epoch, self._place.in_validation = validates_by_epoch(trainer), True

    def _rest(self, trainer: Any) -> None:
        """Outside of the batches."""
        trainer.log_every_n_steps = self._every
        self._place.by_epoch, self._place.in_batch, self._place.in_validation = True, False, False
        self._place.logged = trainer.callback_metrics
