"""Trains and scores networks with Lightning.

To keep Lightning's overhead per step low, batches come from memory, there is no progress bar, `self.log` is not called
per step, and running sums stay tensors until an epoch or a log interval ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator
from torch import Tensor, nn

from labrun import messages
from labrun._io import environ_overlay
from labrun.config import validation
from labrun.config.instantiate import Node, build, locate, parameters
from labrun.config.schema import Compute, Config, LearningSettings, Trainer
from labrun.data.arrays import Arrays, Part
from labrun.data.loaders import count
from labrun.errors import ConfigError, DataError, UnfitError
from labrun.models.network import Network
from labrun.runs import cards, context, direction, recording
from labrun.runs.cards import Card, CardKind, TargetKind
from labrun.runs.groups import NotFinite, ThreadUse, Training
from labrun.runs.record import RunPaths
from labrun.tasks import base, monitored, packages
from labrun.tasks.networks import progress
from labrun.tasks.networks.batch_sources import ArrayBatches, BatchSource, overrides
from labrun.tasks.networks.checkpoints import (
    CheckpointKeeper,
    PlainCheckpoints,
    checkpoint_keeper,
    finite_alone,
    plain_checkpoints,
    unusual,
)
from labrun.tasks.networks.classifier import OWN, Classifier
from labrun.tasks.networks.forward_cost import FirstBatch, try_out
from labrun.tasks.networks.learner import Learner, LossAndMetrics
from labrun.tasks.networks.record_logger import LogPosition, RecordLogger
from labrun.tasks.networks.resumption import RandomStates
from labrun.tasks.networks.weights import read_tensors
from labrun.tasks.packages import Package
from labrun.tasks.task import ModelTask, Scores, confusion, is_named, quantities
from labrun.tasks.threads import ForwardCost, Threads, choose, from_environment

log = logging.getLogger(__name__)


class NetworkTask(ModelTask):
    """A torch module, trained by Lightning.

    Args:
        network: a plain network, or a LightningModule of either package.
        config: the run's config.
        batches: the source of its batches.
        name: its name in messages.

    Raises:
        UnfitError: the network does not fit the data.
        ConfigError: the config sets keys that only plain networks have, but the network is a LightningModule.
    """

    is_shared = logs_threads = True

    def __init__(self, network: nn.Module, config: Config, batches: BatchSource, name: str) -> None:
        own = packages.of(network, name)
        self.network = network
        self._package, self._is_own = own or Package(), own is not None
        self._config, self._batches, self._name = config, batches, name
        self._settings, self._compute = config.trainer, config.compute
        self._resumed = config.resumed
        self._task = base.of(config)
        arguments = parameters(locate(str(config.model["_target_"]), "model"))
        self._learning = LearningSettings.of(config.model, arguments)
        if self._is_own and (given := self._learning.given):
            raise ConfigError(
                f"{', '.join(f'model.{key}' for key in given)}: {name} is a LightningModule, whose own steps "
                "define its loss and its metrics; these keys are for plain networks"
            )
        if mistakes := list(validation.learning_mistakes(config.model, arguments)):
            raise ConfigError(mistakes)
        self._training_done: Training | None = None
        self._trainer_made: tuple[Any, RecordLogger] | None = None
        self._allowed = min(self._compute.cpus_per_run, torch.get_num_threads())
        work, self._reports = self._try_out(batches.arrays) if isinstance(batches, ArrayBatches) else (None, None)
        is_classifier = self._reports is TargetKind.CLASSES and not self._learning.given
        self._module = self._made_module(is_classifier)
        self._training = self._threads(work, self._settings.batch_size)
        self._scoring = self._threads(work, self._settings.eval_batch_size)
        if not trains_on_processor(self._settings):
            self._training = Threads(self._allowed, "it trains on an accelerator")

    def _made_module(self, is_classifier: bool) -> Any:
        if self._is_own:
            return self.network
        if is_classifier:
            return Classifier(self.network, self._config)
        classes = self._batches.arrays.num_classes if isinstance(self._batches, ArrayBatches) else None
        loss_and_metrics = LossAndMetrics(self._learning, classes or None, self._class_weights())
        if (card := self._card) is not None:
            loss_and_metrics.known_last = card.classes_last
        return Learner(self.network, self._config, loss_and_metrics)

    @property
    def _card(self) -> Card | None:
        """The card of the run whose model is scored; None when training."""
        source = self._config.source
        return cards.read(RunPaths(source.run_dir).outputs, f"run {source.id}") if source else None

    def _class_weights(self) -> Tensor | None:
        wanted = self._learning.class_weight
        if wanted is None:
            return None
        card = self._card
        known = card.class_weights if card is not None else ()  # the weights from training apply to any data
        if known or not self._task.needs_targets:
            return torch.tensor(known, dtype=torch.float32) if known else None
        counts = self._batches.class_counts()
        if isinstance(wanted, list):
            if counts is not None and len(wanted) != len(counts):
                raise ConfigError(f"model.class_weight has {len(wanted)} weights, but there are {len(counts)} classes")
            return torch.tensor(wanted, dtype=torch.float32)
        if counts is None or not all(counts):
            raise UnfitError(
                "model.class_weight=balanced: the number of samples of each class is unknown (a data set's `targets` "
                "or `labels` would tell): give a weight for each class, model.class_weight=[1.0,2.5]"
            )
        return torch.tensor([sum(counts) / (len(counts) * count) for count in counts], dtype=torch.float32)

    def _threads(self, work: ForwardCost | None, size: int) -> Threads:
        environment = from_environment(self._compute.environment, self._allowed)
        return choose(self._settings.threads, environment, self._allowed, work, size)

    def _weighed(self, work: ForwardCost | None) -> None:
        """Set the number of threads by the work that was counted in a data module's first batch."""
        environment = from_environment(self._compute.environment, self._allowed)
        found = choose(self._settings.threads, environment, self._allowed, work, 1)
        found = replace(found, why=found.why.replace("at batch size 1", "in the first batch"))
        self._training = self._scoring = found
        torch.set_num_threads(self._training.count)

    @property
    def threads(self) -> ThreadUse:
        training = self._training.recorded() if self._task.trains else None
        return ThreadUse(self._allowed, training, self._scoring.recorded())

    @property
    def training(self) -> Training | None:
        return self._training_done

    def fit(self, arrays: Arrays, paths: RunPaths, resume_from: Path | None) -> None:
        self.train(paths, resume_from)

    def train(self, paths: RunPaths, resume_from: Path | None) -> None:
        """Train on its batches; see `ModelTask.fit`."""
        with limited(self._training.count):
            self._train(paths, resume_from)

    def _train(self, paths: RunPaths, resume_from: Path | None) -> None:
        module = self._module
        has_validation = self._validates()
        trainer = self._trainer(paths, has_validation)
        unused = [name for name in UNUSED if self._is_own and overrides(module, name, "LightningModule")]
        if unused:
            log.warning(
                "%s has its own %s, which labrun does not call: batches come from the config's data set",
                self._name,
                " and ".join(unused),
            )
        log.info(
            "Training %s (%s parameters) on %s, on %s",
            self._name,
            f"{sum(p.numel() for p in module.parameters() if not nn.parameter.is_lazy(p)):,}",
            self._batches.description,
            type(trainer.accelerator).__name__.removesuffix("Accelerator"),
        )
        wanted = self._compute.gpus_per_run
        if wanted and isinstance(trainer.accelerator, self._package.part("accelerators").CPUAccelerator):
            log.warning("compute.gpus_per_run=%d, but torch finds no GPU here: training on the CPU", wanted)
        if resume_from is not None:
            self._check_resume(resume_from, resume_from.parent == paths.checkpoints, int(trainer.max_steps))
        self._run(trainer, module, has_validation, resume_from)
        self._refuse_none(trainer)
        self._choose(trainer, module, has_validation)

    def _refuse_none(self, trainer: Any) -> None:
        """Check that there was a batch to train on: without one, Lightning silently ends the training.

        Raises:
            DataError: there was none.
        """
        loop = trainer.fit_loop
        own = next(callback for callback in trainer.callbacks if isinstance(callback, CheckpointKeeper))
        ended = own.epochs or (trainer.num_training_batches == 0 and trainer.limit_train_batches != 0)
        if ended and not loop.epoch_loop.batch_progress.total.ready:
            raise DataError(
                f"{self._batches.description}: the training split has no batch, so {self._name} has learned nothing. "
                "Either its data set is empty (check its folder and arguments), or drop_last drops its only batch"
            )

    def _validates(self) -> bool:
        if self._settings.limit_val_batches == 0 or not self._batches.has("validation"):
            return False
        return not self._is_own or overrides(self._module, "validation_step", "LightningModule")

    def _choose(self, trainer: Any, module: Any, has_validation: bool) -> None:
        """Choose the epoch whose weights are tested, load them, and set the record's `training`."""
        own = next(callback for callback in trainer.callbacks if isinstance(callback, CheckpointKeeper))
        last = own.epochs or _add_metrics_of_others(trainer) or trainer.current_epoch
        self._training_done = done = Training(last, last, "the last")
        if own.not_finite is None:
            weights = (unusual("a weight", p) for p in module.parameters() if p.is_floating_point())
            if (what := next(filter(None, weights), None)) is not None:
                own.not_finite = NotFinite(last, what)
        done.not_finite, done.stopped_early = own.not_finite, own.stopped
        if self._trainer_made is not None and self._trainer_made[1].hyperparameters:
            done.hyperparameters = self._trainer_made[1].hyperparameters
        wanted = self._settings.evaluate
        if wanted == "auto" and any(packages.derived(one, AVERAGING) for one in trainer.callbacks):
            done.why = f"averaged by {AVERAGING}"
            return
        best = self._best_of(trainer)
        if wanted == "last" or (wanted == "auto" and not has_validation):
            return
        if best is None:
            if wanted == "best":
                log.warning(
                    "trainer.evaluate=best: no callback kept a best epoch's weights, so the last epoch's are tested"
                )
            return
        content = read_tensors(Path(best.best_model_path))
        module.load_state_dict(content["state_dict"])
        done.tested = epoch = int(content["epoch"]) + 1
        done.why = f"the best by {best.monitor} ({direction.words(best.mode)})"
        log.info("Scoring the best epoch's weights: epoch %d, %s", epoch, done.why)
        run = context.current()
        if run is not None and trainer.is_global_zero:
            self._summarize(run, epoch, content["global_step"])

    def _summarize(self, run: context.RunContext, epoch: int, step: int) -> None:
        """Put the metrics of an epoch, up to a checkpoint's step, into the run's summary."""
        resumed = [] if self._resumed is None else [self._resumed.run_dir]  # the epoch may be from that run
        for folder in [run.run_dir, *resumed]:
            lines = [line for line in context.read_metrics(folder) if line.get("epoch") == epoch]
            # If the epoch had several validations, those after the checkpoint measured other weights.
            lines = [line for line in lines if line["step"] <= max(step, epoch)]
            if lines:
                run.summary.update({line["name"]: line["value"] for line in lines})
                return

    def _best_of(self, trainer: Any) -> Any:
        """Return the callback that kept the best epoch's weights, or None."""
        kind = self._package.part("callbacks").ModelCheckpoint
        found = [c for c in trainer.checkpoint_callbacks if isinstance(c, kind) and c.monitor and c.best_model_path]
        found = [c for c in found if Path(c.best_model_path).is_file()]
        found.sort(key=lambda c: c.monitor != self._settings.monitor)
        return next(iter(found), None)

    def _run(self, trainer: Any, module: Any, has_validation: bool, resume_from: Path | None) -> None:
        before = signal.getsignal(signal.SIGINT)
        try:
            with self._looping(*([] if self._names_monitor else [NO_LOSS])):
                trainer.fit(
                    module,
                    **self._batches.given("train", has_validation),
                    ckpt_path=None if resume_from is None else str(resume_from),
                    weights_only=True if resume_from is not None else None,
                )
        except Exception as error:
            edited = [] if self._resumed is None else self._resumed.edited
            if edited and "state_dict" in str(error):  # torch raises a plain RuntimeError
                raise ConfigError(
                    "trainer.resume_code=new: the old weights do not fit the changed network "
                    f"({', '.join(edited)} changed): start a new run"
                ) from error
            watched = UNLOGGED.search(str(error))
            if watched is None:
                raise
            logged = ", ".join(sorted(map(str, trainer.callback_metrics))) or "nothing"
            more = "" if has_validation else "; what is logged in validation needs dataset.validation_size"
            raise ConfigError(
                f"trainer.monitor={self._settings.monitor}: a callback or scheduler watches "
                f"{watched[1] or watched[2]!r}, which the model does not log. It logs {logged}: name one of these "
                f"(trainer.monitor=NAME, or where the callback is made), or set callbacks=none{more}"
            ) from error
        except SystemExit as end:
            # Lightning turns Ctrl-C into an exit and leaves the signal ignored.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise end.__context__ from None
            if isinstance(end.__context__, self._package.part("utilities.exceptions").SIGTERMException):
                raise recording.Terminated("signal SIGTERM") from None
            raise
        finally:
            signal.signal(signal.SIGINT, before)
            _end_wandb(trainer.loggers)
        module.eval()

    @contextlib.contextmanager
    def _looping(self, *quiet: str) -> Iterator[None]:
        """Context for Lightning's loops: silences advice that does not apply, and sets seeds as `seed_everything` does.

        Lightning reads the seed for the shards of several processes, and whether to seed workers, from the environment.
        """
        seeds = {"PL_GLOBAL_SEED": str(self._config.seed), "PL_SEED_WORKERS": "1"}
        with environ_overlay(seeds), warnings.catch_warnings(), recording.deferring_preemption():
            for pattern in (*QUIET, *quiet):
                warnings.filterwarnings("ignore", message=pattern)
            yield

    def _check_resume(self, checkpoint: Path, own: bool, max_steps: int) -> None:
        content = read_tensors(checkpoint)
        done = progress.epochs_in(content)
        where = f"after epoch {done}" if progress.is_of_an_epochs_end(content) else progress.in_words(content)
        if own:
            log.info("Resuming from the last attempt's checkpoint, %s, step %d", where, content["global_step"])
            return
        if done >= self._settings.max_epochs:
            raise ConfigError(
                f"nothing is left to train: the checkpoint {checkpoint} has {done} epochs, and trainer.max_epochs="
                f"{self._settings.max_epochs} counts from the very beginning. Set a higher trainer.max_epochs"
            )
        if 0 < max_steps <= int(content["global_step"]):
            raise ConfigError(
                f"nothing is left to train: the checkpoint {checkpoint} has {content['global_step']} steps, and this "
                f"training has {max_steps} at most, counted from the very beginning. Raise trainer.options.max_steps"
            )
        log.info("Resuming from %s, %s", checkpoint, where)

    @property
    def _names_monitor(self) -> bool:
        return self._settings.monitor != monitored.AUTO

    def _callbacks(self, paths: RunPaths, has_validation: bool) -> list[Any]:
        """Build the config's callbacks from the package that trains, each with the metric to monitor."""
        made, watched = [], dict[str, str]()
        for name, node in self._config.callbacks.items():
            if not is_named(node):
                continue
            key, node = f"callbacks.{name}", {**node, "_target_": self._package.target(str(node["_target_"]))}
            known = parameters(locate(node["_target_"], key))
            offered = {"dirpath": str(paths.checkpoints)}
            if "monitor" in known and not monitored.keeps_newest(node):
                monitor, mode = node.get("monitor") or self._settings.monitor, None
                if "mode" in known:
                    _, mode = monitored.watched(node, name, self._settings)
                if monitor == monitored.AUTO:
                    monitor = self._auto_monitor(has_validation)
                elif mode is not None:
                    watched[monitor] = direction.words(mode)
                offered |= {"monitor": monitor, **({} if mode is None else {"mode": mode})}
                node = {key: value for key, value in node.items() if (key, value) != ("monitor", monitored.AUTO)}
            made.append(self._of_the_package(build(node, key, **offered), key))
        for monitor, words in watched.items() if self._task.trains else ():
            log.info("Watching %s: %s", monitor, words)
        return made

    def _auto_monitor(self, has_validation: bool) -> str:
        if not self._is_own:
            return "val_loss" if has_validation else "train_loss"
        found = monitored.loss_of(str(self._config.model["_target_"]), has_validation)
        if self._task.trains:
            log.info("Watching %s (trainer.monitor=auto)", found)
        return found

    def _of_the_package(self, callback: Any, key: str) -> Any:
        """Return a callback after checking that the package's Trainer recognizes its type.

        Raises:
            ConfigError: it is a checkpoint or early stopping callback of the other package.
        """
        own = self._package.part("callbacks")
        kind = next((one for one in ("Checkpoint", "EarlyStopping") if packages.derived(callback, one)), None)
        if kind is not None and not isinstance(callback, getattr(own, kind)):
            raise ConfigError(
                f"{key}: {type(callback).__name__} is derived from the {kind} of a different package than the "
                f"Trainer, which would not recognize it. Derive it from {self._package.name}.callbacks"
            )
        return callback

    def _loggers(self, paths: RunPaths) -> tuple[list[Any], RecordLogger]:
        """Return the user's loggers followed by the record's, and the latter alone."""
        own = RecordLogger(paths.logs, OWN if isinstance(self._module, Classifier) else ())
        named = {name: node for name, node in self._config.logger.items() if is_named(node)}
        nodes = {
            name: {**node, "_target_": self._package.target(str(node["_target_"]))} for name, node in named.items()
        }
        return [*(make_logger(node, name, paths) for name, node in nodes.items()), own], own

    def _trainer(self, paths: RunPaths, has_validation: bool) -> Any:
        settings, lightning = self._settings, self._package.part()
        packages.spare_clouds(self._package)
        packages.spare_searches(self._package)
        packages.spare_moves(self._package)
        loggers, record = self._loggers(paths)
        callbacks = self._callbacks(paths, has_validation)
        checkpoints = [c for c in callbacks if isinstance(c, lightning.callbacks.Checkpoint)]
        # On a TPU, Lightning accepts only its own checkpoint plugin.
        same = self._resumed is None or not self._resumed.edited
        files = None if XLAAccelerator.is_available() else plain_checkpoints(self._package, paths.checkpoints, same)
        keeps = bool(checkpoints) and not any(getattr(c, "save_last", None) is False for c in checkpoints)
        for checkpoint in checkpoints:
            if isinstance(checkpoint, lightning.callbacks.ModelCheckpoint):
                finite_alone(checkpoint)
            if keeps:
                _leave_last(checkpoint, paths)
        if not isinstance(self._module, Classifier) or any(not _is_quiet(callback) for callback in callbacks):
            callbacks.insert(0, LogPosition(record))
        if not isinstance(self._batches, ArrayBatches) and trains_on_processor(settings):
            callbacks.insert(0, FirstBatch(self._weighed))
        callbacks.insert(0, RandomStates(self._config.seed, same))
        last = paths.checkpoints / "last.ckpt"
        callbacks.append(checkpoint_keeper(self._package, keeps, last, files, settings.on_nan, same))
        limits = {key: limit for key in LIMITS if (limit := getattr(settings, key)) is not None}
        arguments = {
            "max_epochs": settings.max_epochs,
            "accelerator": settings.accelerator,
            "precision": settings.precision,
            "gradient_clip_val": settings.gradient_clip_val,
            "accumulate_grad_batches": settings.accumulate_grad_batches,
            "deterministic": settings.deterministic,
            "profiler": _profiler(settings.profiler, paths, self._package),
            "callbacks": callbacks,
            "logger": loggers,
            "log_every_n_steps": settings.log_every_n_batches,
            "enable_checkpointing": bool(checkpoints),
            "default_root_dir": str(paths.root),
            "enable_progress_bar": any(isinstance(c, lightning.callbacks.ProgressBar) for c in callbacks),
            "enable_model_summary": any(isinstance(c, lightning.callbacks.ModelSummary) for c in callbacks),
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": self._batches.uses_samplers,
        }
        made = self._built({**arguments, **limits}, files)
        self._trainer_made = made, record
        return made

    def _built(self, arguments: Mapping[str, Any], files: PlainCheckpoints | None) -> Any:
        """Build the Trainer, with the user's `trainer.options` on top of the arguments.

        Raises:
            ConfigError: Lightning refuses them.
        """
        settings = self._settings
        for name in packages.NAMES:
            logging.getLogger(name).setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for pattern in QUIET:
                warnings.filterwarnings("ignore", message=pattern)
            own = _processes(self._compute, self._package, files)
            try:
                return self._package.part().Trainer(**{**arguments, **own, **settings.options})
            except (
                ImportError,
                RuntimeError,
                TypeError,
                ValueError,
                self._package.part("utilities.exceptions").MisconfigurationException,
            ) as error:
                said = " ".join(str(error).split())
                if settings.accelerator not in ("auto", "cpu") and not self._has_accelerator(settings.accelerator):
                    raise ConfigError(
                        f"trainer.accelerator={settings.accelerator}: Lightning finds none here ({said}). Leave the "
                        "key out to train on what is available"
                    ) from error
                raise ConfigError(f"trainer.options: Lightning's Trainer refused: {said}") from error

    def _has_accelerator(self, name: str) -> bool:
        """Whether Lightning can train on an accelerator here; `gpu` means any GPU."""
        registry = self._package.part("accelerators").AcceleratorRegistry
        kinds = ("cuda", "mps") if name == "gpu" else (name,)
        return any(registry[kind]["accelerator"].is_available() for kind in kinds)

    def _try_out(self, arrays: Arrays) -> tuple[ForwardCost | None, TargetKind | None]:
        """Pass one sample of zeros through the network, so that a mismatch is reported before training.

        Returns:
            The work of the forward pass, and what labrun can report from a test (`_report_of`).
        """
        sample = torch.zeros(1, *arrays.input_shape)
        shape = messages.shape_text(arrays.input_shape)
        self.network.eval()
        try:
            with limited(1):
                scores, work = try_out(self.network, sample)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if self._is_own and isinstance(error, NotImplementedError | TypeError):  # its steps may not use forward()
                return None, None
            raise UnfitError(
                f"model '{self._name}' does not fit data set '{arrays.name}', whose samples are {shape}: {error}"
            ) from error
        finally:
            self.network.train()
        reports = self._report_of(scores, arrays)
        if reports is None and not self._is_own and not self._learning.given:
            wanted = (
                f"must return (1, {arrays.num_classes}), one per class"
                if arrays.num_classes
                else "must return (1,), one number"
            )
            raise UnfitError(
                f"model '{self._name}' does not fit data set '{arrays.name}': for one sample of {shape} it returns "
                f"{tuple(scores.shape)} scores, but {wanted}"
            )
        return work, reports

    def _report_of(self, scores: Any, arrays: Arrays) -> TargetKind | None:
        """Return what labrun can score by itself in a test: classes, a quantity, or None."""
        if not isinstance(scores, Tensor) or self._learning.target == "input":
            return None
        if arrays.num_classes:
            return TargetKind.CLASSES if tuple(scores.shape) == (1, arrays.num_classes) else None
        return TargetKind.QUANTITY if scores.numel() == 1 else None

    def test(self, arrays: Arrays, paths: RunPaths) -> Scores | None:
        self.test_steps(paths)
        return self.score(arrays.test, arrays) if self._reports is not None else None

    def assist_test(self, paths: RunPaths) -> None:
        self.test_steps(paths)

    def test_steps(self, paths: RunPaths) -> None:
        """Run the module's own `test_step` on the test split; its metrics are logged to the record."""
        if isinstance(self._module, Classifier):
            return
        has_step = not self._is_own or overrides(self._module, "test_step", "LightningModule")
        if not has_step or not self._batches.has("test"):
            if self._reports is None:
                missing = "test_step" if not has_step else "test split"
                log.warning("Nothing scores the test split: there is no %s", missing)
            return
        if self._trainer_made is None:
            self._trainer(paths, has_validation=False)
        assert self._trainer_made is not None
        trainer, record = self._trainer_made
        record.position.epoch = 1 if self._training_done is None else max(1, self._training_done.tested or 1)
        with limited(self._scoring.count), self._looping():
            trainer.test(self._module, **self._batches.given("test"), verbose=False)
        if trainer.num_test_batches and not sum(trainer.num_test_batches) and trainer.limit_test_batches != 0:
            log.warning("Nothing scores the test split: it has no batch. Its data set is empty, or drop_last drops it")
        _add_metrics_of_others(trainer)
        self._module.eval()
        self.tested = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def predict_steps(self, paths: RunPaths) -> list[tuple[list[Any], int | None]]:
        """Return, for each loader, the outputs of `predict_step` per batch, and the number of samples or None."""
        if self._trainer_made is None:
            self._trainer(paths, has_validation=False)
        assert self._trainer_made is not None
        with limited(self._scoring.count), self._looping():
            trainer = self._trainer_made[0]
            found = trainer.predict(self._module, **self._batches.given("predict"))
        # For a single loader, Lightning returns a flat list of batches, and a batch's output may itself be a list.
        # `trainer.predict_dataloaders` keeps their structure; only the private loader has them in Lightning's order.
        counts = [count(loader) for loader in trainer.predict_loop._combined_loader.flattened]
        answers = [list(one) for one in found or []] if len(counts) > 1 else [list(found or [])]
        if trainer.limit_predict_batches != 1.0:
            counts = [None] * len(counts)
        return list(zip(answers, counts, strict=True))

    def score(self, part: Part, arrays: Arrays) -> Scores:
        assert isinstance(self._batches, ArrayBatches)
        self.network.eval()
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        found, losses = [], 0.0
        with torch.inference_mode(), limited(self._scoring.count):
            for x, y in self._batches.loader(part, train=False, shared=False):
                scores = self.network(x.to(device)).float().cpu()
                if arrays.num_classes:
                    losses += float(nn.functional.cross_entropy(scores, y, reduction="sum"))
                    found.append(scores.argmax(1).numpy())
                else:
                    found.append(scores.reshape(len(y)).double().numpy())
        guesses = np.concatenate(found)
        if not arrays.num_classes and not np.isfinite(guesses).all():  # training has already reported why
            return Scores(None, None, None, dict.fromkeys(("r2", "rmse", "mae"), float("nan")))
        if not arrays.num_classes:
            return quantities(part.y, guesses, self._name)
        accuracy = float((guesses == part.y).mean())
        loss = losses / len(part) if self._learning.loss is None else None
        return Scores(accuracy, loss, confusion(part.y, guesses, arrays.num_classes))

    def save(self, arrays: Arrays, paths: RunPaths) -> dict[str, Any]:
        return self.save_network(paths)

    def save_network(self, paths: RunPaths) -> dict[str, Any]:
        """Write the weights to the run's `outputs/`; see `ModelTask.save`."""
        state = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        torch.save(state, paths.outputs / "model.pt")
        extra = self.network.export(paths.outputs) if isinstance(self.network, Network) else []
        about = self._module.learns if isinstance(self._module, Learner) else {}
        return {"kind": CardKind.NETWORK, "file": "model.pt", "also": [path.name for path in extra], **about}


@contextlib.contextmanager
def limited(count: int) -> Iterator[None]:
    """Context in which torch uses `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trains_on_processor(settings: Trainer) -> bool:
    """Return whether Lightning will train on the CPU: as configured, or because `auto` finds no accelerator."""
    wanted = settings.options.get("accelerator", settings.accelerator)
    others = (XLAAccelerator, MPSAccelerator, CUDAAccelerator)
    return wanted == "cpu" or (wanted == "auto" and not any(other.is_available() for other in others))


def _add_metrics_of_others(trainer: Any) -> int:
    """Add metrics logged by processes that Lightning started to the run's summary. Return their last epoch, or 0."""
    launcher, run = trainer.strategy.launcher, context.current()
    if launcher is None or not launcher.is_interactive_compatible or run is None:
        return 0
    lines = [line for line in context.read_metrics(run.run_dir) if line["attempt"] == run.attempt]
    run.summary = {line["name"]: line["value"] for line in lines} | run.summary
    return max((line.get("epoch") or 0 for line in lines), default=0)


def make_logger(node: Node, name: str, paths: RunPaths) -> Any:
    """Build a Lightning logger that writes to the run's `logs/`."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    return build(node, f"logger.{name}", save_dir=str(paths.logs))


def _leave_last(checkpoint: Any, paths: RunPaths) -> None:
    """Leave `last.ckpt` to labrun: Lightning's own "last" is a copy of the newest best checkpoint."""
    if getattr(checkpoint, "save_last", None) and os.path.realpath(paths.checkpoints) == str(checkpoint.dirpath):
        checkpoint.save_last = False


def _processes(compute: Compute, package: Package, files: PlainCheckpoints | None) -> dict[str, Any]:
    """Return the Trainer's arguments for the number of processes.

    Never uses Lightning's own Slurm support, which would requeue the job itself.
    """
    environment = package.part("plugins.environments").LightningEnvironment()
    own: dict[str, Any] = {"plugins": [environment, *([] if files is None else [files])]}
    if compute.ranks > 1:
        return own | {"strategy": "ddp", "num_nodes": compute.nodes, "devices": compute.tasks_per_node}
    if compute.gpus_per_run > 1:
        return own | {"strategy": "ddp_fork", "devices": compute.gpus_per_run}
    return own | {"devices": 1}


def _end_wandb(loggers: Sequence[Any]) -> None:
    """End wandb's run with the training, or the process's next run, as in an inline sweep, would continue it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and any(packages.derived(one, "WandbLogger") for one in loggers):
        try:
            wandb.finish(exit_code=int(sys.exc_info()[0] is not None))
        except Exception as error:  # noqa: BLE001 - an additional logger is no reason for a run to fail
            log.warning("wandb could not end its run: %s", recording.first_line(error))


UNLOGGED = re.compile(
    r"ModelCheckpoint\(monitor=['\"](.+)['\"]\)` could not find|conditioned on metric `?(.+?)`? which is not available"
)
"""What Lightning says of a metric that is watched but not logged; it has no class of error for it."""
LIMITS = ("limit_train_batches", "limit_val_batches")
QUIET = (
    r".*`srun` command is available.*",
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*GPU available but not used.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*smaller than the logging interval.*",
    r".*The dirpath has changed from.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
)
"""Lightning's advice that does not apply, since batches come from memory and each run has its own folder."""


AVERAGING = "StochasticWeightAveraging"
"""Lightning's callback whose weights exist only at the end of training, not in any checkpoint."""
NO_LOSS = r".*could not find the monitored key in the returned metrics.*"
"""Silenced with `trainer.monitor=auto`: a user's module need not log the metrics that labrun's networks do."""
UNUSED = ("train_dataloader", "val_dataloader", "test_dataloader")
"""Hooks of a module that labrun does not call."""


def _is_quiet(callback: Any) -> bool:
    """Return whether a callback logs nothing: labrun's own, checkpoints, early stopping, weight averaging."""
    if type(callback).__module__.startswith("labrun."):
        return True
    return any(packages.derived(callback, kind) for kind in ("Checkpoint", "EarlyStopping", "WeightAveraging"))


class _NoProfiler(pl.profilers.PassThroughProfiler):
    """Like Lightning's pass-through profiler, but without creating a generator 35 times per step."""

    NOTHING: ClassVar = contextlib.nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.NOTHING


def _profiler(kind: str | None, paths: RunPaths, package: Package) -> Any:
    if kind is None:
        return _NoProfiler()
    paths.outputs.mkdir(parents=True, exist_ok=True)
    known = package.part("profilers")
    profilers = {"simple": known.SimpleProfiler, "advanced": known.AdvancedProfiler}
    return profilers[kind](dirpath=str(paths.outputs), filename="profile")
