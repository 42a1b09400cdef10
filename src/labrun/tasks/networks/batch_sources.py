"""Sources of a network's batches: arrays in memory, or the loaders of a data module."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labrun.config import exact, schema, targets
from labrun.config.instantiate import Node, build, locate, parameters
from labrun.config.schema import Config
from labrun.data import random_states
from labrun.data.arrays import Arrays, Part
from labrun.data.datasets import HOOKS, Parts
from labrun.data.loaders import adopted, copyable
from labrun.data.loading import BatchLoader, make_loader
from labrun.errors import ConfigError
from labrun.runs import context
from labrun.runs.sweep_state import SweepState
from labrun.tasks import packages
from labrun.tasks.task import is_named

log = logging.getLogger(__name__)


class BatchSource(ABC):
    """Source of a network's batches."""

    uses_samplers = False
    """Whether Lightning distributes the samples among several processes."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Description of the training data, for the log."""

    @abstractmethod
    def has(self, part: str) -> bool:
        """Return whether there is a `train`, `validation`, `test` or `predict` split."""

    @abstractmethod
    def given(self, part: str, with_validation: bool = False) -> dict[str, Any]:
        """Return the arguments of the Trainer's `fit` (for `train`), `test` or `predict`."""

    def class_counts(self) -> Sequence[int] | None:
        """Return the number of training samples per class; None if that requires reading all samples."""
        return None


class ArrayBatches(BatchSource):
    """Batches from arrays in memory, or from samples on disk.

    Args:
        arrays: the data.
        config: the run's config.
    """

    def __init__(self, arrays: Arrays, config: Config) -> None:
        self.arrays = arrays
        self._settings, self._seed = config.trainer, config.seed
        self._augmentation = config.dataset_settings.augmentation
        asked, cores = config.dataset_settings.num_workers, config.compute.cpus_per_run
        self._workers = asked if asked is not None else cores if cores > 1 else 0

    @property
    def description(self) -> str:
        size = self._settings.batch_size
        batches = -(-len(self.arrays.train) // size)
        return f"{len(self.arrays.train):,} samples: {self._settings.max_epochs} epochs of {batches} batches"

    def has(self, part: str) -> bool:
        return part in ("train", "test") or (part == "validation" and self.arrays.validation is not None)

    def given(self, part: str, with_validation: bool = False) -> dict[str, Any]:
        if part != "train":
            return {"dataloaders": self.loader(self.arrays.test, train=False)}
        validation = self.arrays.validation if with_validation else None
        return {
            "train_dataloaders": self.loader(self.arrays.train, train=True),
            "val_dataloaders": None if validation is None else self.loader(validation, train=False),
        }

    def loader(self, part: Part, train: bool, shared: bool = True) -> BatchLoader:
        """Return a loader of a split's batches.

        Args:
            part: the split.
            train: shuffle and augment, in batches of `trainer.batch_size`.
            shared: divide the samples among the processes.
        """
        node = self._augmentation
        return make_loader(
            part,
            self.arrays.scaling,
            self._settings.batch_size if train else self._settings.eval_batch_size,
            shuffle=train,
            seed=self._seed,
            augmentation=build(node, "dataset.augmentation") if train and node and is_named(node) else None,
            ranks=None if shared else 1,
            workers=self._workers,
        )

    def class_counts(self) -> Sequence[int] | None:
        import numpy as np

        classes = self.arrays.num_classes
        return np.bincount(self.arrays.train.y, minlength=classes).tolist() if classes else None


class ModuleBatches(BatchSource):
    """The loaders of a `LightningDataModule`.

    Args:
        module: a data module of either Lightning package.
        name: the data set's name.
    """

    uses_samplers = True

    def __init__(self, module: Any, name: str) -> None:
        self.module, self.name = module, name
        if self.has("train"):
            asked = module.train_dataloader
            module.train_dataloader = lambda: adopted(asked())
        if not self.parts:
            module.setup = _warning_of_random_draws(module.setup, type(module).__name__)

    @property
    def description(self) -> str:
        kind = type(self.module).__name__
        return kind if self.name == kind else f"{self.name} ({kind})"

    @property
    def parts(self) -> Mapping[str, Node | None]:
        """Config nodes of labrun's own `Datasets` by split; empty for a user's data module."""
        return self.module.nodes if isinstance(self.module, Parts) else {}

    def has(self, part: str) -> bool:
        if self.parts:
            return self.parts[part] is not None
        return overrides(self.module, HOOKS[part], "LightningDataModule")

    def given(self, part: str, with_validation: bool = False) -> dict[str, Any]:
        if part == "predict":
            asked = self.module.predict_dataloader
            self.module.predict_dataloader = lambda: copyable(asked())
        return {"datamodule": self.module}

    def prepared(self, run_dir: Path, node: Node) -> None:
        """Call `prepare_data` once per machine for a whole sweep, or for all processes of a run.

        Args:
            run_dir: the run's directory.
            node: the config's `dataset`, resolved; runs of a sweep that differ in it may prepare different data.
        """
        work, self.module.prepare_data = self.module.prepare_data, _nothing
        each = os.uname().nodename if getattr(self.module, "prepare_data_per_node", True) else "all"
        digest, run = hashlib.sha256(exact.canonical(node).encode()).hexdigest()[:16], context.current()
        # The disk may have been cleared between two attempts, and prepare_data does nothing if the data exist.
        again = f"-{run_dir.name}-{run.attempt}" if run is not None and run.attempt > 1 else ""
        with _alone(run_dir, f".prepared-{each}-{digest}{again}") as mark:
            if not mark.exists():
                work()
                mark.touch()

    def class_counts(self) -> Sequence[int] | None:
        """Count the labels in the training data set's `targets` or `labels`, as in torchvision's data sets."""
        if self.parts.get("train"):
            return _counted(self.module.dataset("train"))
        if not self.has("train"):
            return None
        self.module.setup("fit")
        return _counted(getattr(self.module.train_dataloader(), "dataset", None))


def _warning_of_random_draws(setup: Callable[..., None], name: str) -> Callable[..., None]:
    """Wrap a data module's `setup` to warn once if it draws from the global random generators, which the model uses."""
    has_warned = False

    def wrapped(*args: Any, **kwargs: Any) -> None:
        nonlocal has_warned
        before = random_states.capture()
        setup(*args, **kwargs)
        if not has_warned and not random_states.same(before, random_states.capture()):
            has_warned = True
            log.warning(
                "%s.setup draws from the global random generators, which the model has used before it: if it splits "
                "the data with them, another model gets another test split. A separate generator keeps the split: "
                "random_split(..., generator=torch.Generator().manual_seed(0))",
                name,
            )

    return wrapped


def _counted(found: Any) -> Sequence[int] | None:
    """Return the number of samples per class in a data set; None if unknown."""
    import numpy as np

    labels = _labels(found)
    return None if labels is None else np.bincount(labels).tolist()


def _labels(found: Any) -> Any:
    """Return the class index of each sample as in batches; None if the data set has none or in another form.

    Applies `target_transform` to `targets` or `labels`, which torchvision's data sets keep untransformed.
    """
    import numpy as np

    if hasattr(found, "indices") and hasattr(found, "dataset"):  # a subset, as from `random_split`
        labels = _labels(found.dataset)
        return None if labels is None else labels[np.asarray(found.indices, dtype=int)]
    known = (getattr(found, name, None) for name in ("targets", "labels"))
    given = next((one for one in known if one is not None), None)
    transform = getattr(found, "target_transform", None)
    try:
        labels = np.asarray(given)
        if callable(transform) and labels.ndim == 1:
            stored, places = np.unique(labels, return_inverse=True)
            labels = np.asarray([transform(one) for one in stored.tolist()])[places]
    except (TypeError, ValueError):  # lists of different lengths
        return None
    fits = labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) and labels.min() >= 0
    return labels if fits else None


def _nothing() -> None:
    """Replace a `prepare_data` that has already run."""


@contextlib.contextmanager
def _alone(run_dir: Path, name: str) -> Iterator[Path]:
    """Lock out other processes of a sweep or run. Yield the path of the file that marks the work as done."""
    shared = SweepState(run_dir.parent).root
    folder = shared if shared.is_dir() else run_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / name
    with open(mark.with_name(f"{mark.name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield mark


def make_module(dataset: Node, model: str = "") -> Any:
    """Build the data module of a `dataset` node.

    Args:
        dataset: the node, resolved.
        model: the model's `_target_`, whose Lightning package is also used for labrun's `Datasets`.

    Raises:
        ConfigError: the node cannot be built, or is not a data module.
    """
    target = str(dataset["_target_"])
    found = locate(target, "dataset")
    known = parameters(found)
    own = {key: value for key, value in dataset.items() if key not in ("name", "search_space") or key in known}
    if target == schema.DATASETS:
        own["_recursive_"] = False  # it builds each split on demand
        if any(name.startswith("lightning.") for name in targets.ancestors(model)):
            own["_target_"] = "labrun.data.datasets.of_lightning"
    made = build(own, "dataset")
    if packages.derived(made, "LightningDataModule") is None:
        raise ConfigError(f"dataset._target_={target!r} gives a {type(made).__name__}, not a LightningDataModule")
    return made


def overrides(found: Any, method: str, kind: str) -> bool:
    """Return whether an object's class overrides a method of Lightning's base class.

    Args:
        found: a module or a data module.
        method: the hook's name.
        kind: `LightningModule` or `LightningDataModule`.
    """
    package = packages.derived(found, kind)
    if package is None:
        return False
    return getattr(type(found), method, None) is not getattr(getattr(package.part(), kind), method, None)
