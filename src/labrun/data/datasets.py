"""`torch.utils.data.Dataset`s built from a config, one per split, wrapped in the loaders that Lightning expects."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset, IterableDataset, RandomSampler, Sampler

from labrun.config.instantiate import Node, build, locate
from labrun.data.loaders import Loader
from labrun.data.loading import start_method
from labrun.errors import ConfigError, UnfitError

HOOKS = {
    "train": "train_dataloader",
    "validation": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}
"""The splits of a data set, and the Lightning hook that returns the loader of each."""


class Parts:
    """Map-style and iterable data sets, batched according to the config.

    Args:
        train: `_target_` and arguments of the training set; None if the model is only evaluated.
        validation: the same for the validation set, which selects the best epoch.
        test: the same for the test set.
        predict: the same for the data that `task=predict` reads; None: the test set.
        batch_size: samples per training step.
        eval_batch_size: samples per step of validation, test and prediction.
        num_workers: number of loader processes; 0: load in the run's own process.
        shuffle: reshuffle each epoch; None: do so if the data set is map-style and no sampler is given.
        drop_last: drop an incomplete last training batch.
        pin_memory: see `torch.utils.data.DataLoader`.
        collate_fn: merges samples into a batch; a function's dotted name, or `_target_` and arguments.
        sampler: chooses the training samples; receives the data set as `data_source` or `dataset`, if it accepts one.
        batch_sampler: chooses the training samples batch by batch; receives `sampler`, if it accepts one.
        seed: seed of the order.
        vars: user-defined values that the other keys can refer to.
    """

    def __init__(
        self,
        train: Node | None = None,
        validation: Node | None = None,
        test: Node | None = None,
        predict: Node | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        shuffle: bool | None = None,
        drop_last: bool = False,
        pin_memory: bool = False,
        collate_fn: Node | str | None = None,
        sampler: Node | None = None,
        batch_sampler: Node | None = None,
        seed: int = 0,
        vars: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = (train or None, validation or None, test or None, predict or test or None)
        self.nodes: dict[str, Node | None] = dict(zip(HOOKS, given, strict=True))
        # By name, since it may be that of `lightning` or of `pytorch_lightning`.
        base = next(one for one in type(self).__mro__ if one.__name__ == "LightningDataModule")
        for part, hook in HOOKS.items():
            if self.nodes[part] is None:  # with its own method in place, Lightning assumes there is no such loader
                setattr(self, hook, MethodType(getattr(base, hook), self))
        self._sizes = (batch_size, eval_batch_size)
        self._shuffle, self._drop_last, self._seed = shuffle, drop_last, seed
        self._sampler, self._batch_sampler = sampler, batch_sampler
        self._common: dict[str, Any] = {
            "num_workers": num_workers,
            "multiprocessing_context": start_method(num_workers),
            "pin_memory": pin_memory,
            "persistent_workers": num_workers > 0,
            "collate_fn": _collate(collate_fn),
        }
        self._made: dict[str, Any] = {}

    def dataset(self, part: str) -> Any:
        """Return the data set of a split, built on first use.

        Raises:
            ConfigError: the config has none for this split, or its `_target_` is not a data set.
        """
        node = self.nodes[part]
        if node is None:
            raise ConfigError(f"dataset.{part} is missing: set dataset.{part}._target_=...")
        if part not in self._made:
            made = build(node, f"dataset.{part}")
            if not isinstance(made, Dataset) and not (hasattr(made, "__getitem__") and hasattr(made, "__len__")):
                raise ConfigError(
                    f"dataset.{part}._target_={node['_target_']!r} returns a {type(made).__name__}, which is neither a "
                    "torch.utils.data.Dataset nor an object with a length and an index"
                )
            self._made[part] = made
        return self._made[part]

    def train_dataloader(self) -> Loader:
        data = self.dataset("train")
        streams = isinstance(data, IterableDataset)
        chosen: dict[str, Any] = {}
        if self._sampler is not None or self._batch_sampler is not None:
            if streams:
                raise UnfitError("dataset.sampler: dataset.train is iterable, and yields its samples in its own order")
            chosen = self._samplers(data)
        elif not streams and self._shuffle is not False:
            chosen["sampler"] = ShuffledByEpoch(len(data), self._seed)
        elif self._shuffle:
            raise UnfitError("dataset.shuffle=true: dataset.train is iterable, and yields its samples in its own order")
        if "batch_sampler" not in chosen:
            chosen |= {"batch_size": self._sizes[0], "drop_last": self._drop_last}
        common = dict(self._common)
        if callable(getattr(data, "set_epoch", None)):
            common["persistent_workers"] = False  # the workers' copies would not see it
            data.set_epoch(0)
        return self._loader(data, **chosen, **common)

    def val_dataloader(self) -> Loader:
        return self._plain("validation")

    def test_dataloader(self) -> Loader:
        return self._plain("test")

    def predict_dataloader(self) -> Loader:
        return self._plain("predict")

    def _plain(self, part: str) -> Loader:
        return self._loader(self.dataset(part), batch_size=self._sizes[1], **self._common)

    def _loader(self, data: Any, **settings: Any) -> Loader:
        # A separate generator: torch draws from it, so creating this loader mid-training affects no other generator.
        return Loader(data, generator=torch.Generator().manual_seed(self._seed), seed=self._seed, **settings)

    def _samplers(self, data: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._sampler is not None:
            found["sampler"] = build(self._sampler, "dataset.sampler", data_source=data, dataset=data)
        if self._batch_sampler is not None:
            sampler = found.pop("sampler", None) or RandomSampler(data)
            found["batch_sampler"] = build(
                self._batch_sampler, "dataset.batch_sampler", sampler=sampler, data_source=data, dataset=data
            )
        return found


class Datasets(Parts, pl.LightningDataModule):
    """`Parts` for a Trainer of `pytorch_lightning`."""


def of_lightning(**given: Any) -> Any:
    """Create `Parts` for a Trainer of the package `lightning`.

    Args:
        given: the arguments of `Parts`.
    """
    base = importlib.import_module("lightning.pytorch").LightningDataModule
    return type("Datasets", (Parts, base), {})(**given)


class ShuffledByEpoch(Sampler[int]):
    """Draws a new order each epoch from the seed and the epoch alone, so that a resumed run sees the same order.

    Args:
        count: number of samples.
        seed: seed of the order.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed, self._epoch = count, seed, 0

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0; called by Lightning."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(hash((self._seed, self._epoch)) % 2**63)
        yield from torch.randperm(self._count, generator=generator).tolist()


def _collate(node: Node | str | None) -> Any:
    """Return the collate function: the function itself, or an instance if the target is a class."""
    if node is None:
        return None
    given = {"_target_": node} if isinstance(node, str) else dict(node)
    found = locate(str(given["_target_"]), "dataset.collate_fn")
    if isinstance(found, type):
        return build(given, "dataset.collate_fn")
    if set(given) <= {"_target_", "_partial_"}:
        return found
    return build({"_partial_": True, **given}, "dataset.collate_fn")
