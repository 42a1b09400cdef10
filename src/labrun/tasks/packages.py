"""Lightning's two packages, `pytorch_lightning` and `lightning`, which have the same code but different classes.

A module must be trained by the Trainer of its own package, with that package's callbacks and loggers: the other Trainer
does not recognize it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from labrun.errors import ConfigError

NAMES = ("pytorch_lightning", "lightning.pytorch")
_FABRIC = ("lightning_fabric.", "lightning.fabric.")
_CLOUDS = ("adlfs", "gcsfs", "s3fs")
_STATE = ("value", "cumulated_batch_size", "_forward_cache", "_computed")
"""Tensors of a value that Lightning accumulates over the batches of an epoch."""
_STEPS = ("training_step", "configure_optimizers")
"""Methods that mark a module that defines its own training."""


@dataclass(frozen=True)
class Package:
    """One of the two packages.

    Args:
        name: dotted name of the module that contains `Trainer`.
    """

    name: str = NAMES[0]

    def part(self, path: str = "") -> Any:
        """Import one of its modules, such as `callbacks` or `plugins.io`, or the package itself without a path."""
        return importlib.import_module(f"{self.name}.{path}".rstrip("."))

    def target(self, text: str) -> str:
        """Translate a `_target_` of either Lightning package to this one; return other targets unchanged."""
        for other in NAMES:
            if text.startswith(f"{other}."):
                return f"{self.name}.{text.removeprefix(f'{other}.')}"
        return text


def spare_clouds(package: Package) -> None:
    """Keep Lightning from importing cloud file systems, which takes a second, to check whether a checkpoint is on one.

    Lightning checks this for each checkpoint and folder. A package that is not imported cannot provide their file
    system.
    """
    cloud_io = importlib.import_module(f"{_FABRIC[NAMES.index(package.name)]}utilities.cloud_io")
    asked = getattr(cloud_io, "module_available", None)
    if asked is None or asked.__module__ == __name__:
        return

    def there(path: str) -> bool:
        return (path not in _CLOUDS or path in sys.modules) and bool(asked(path))

    cloud_io.module_available = there  # type: ignore[attr-defined]


def spare_searches(package: Package) -> None:
    """Keep Lightning from searching all installed packages for external callbacks for each Trainer of a process."""
    registry = importlib.import_module(f"{_FABRIC[NAMES.index(package.name)]}utilities.registry")
    asked = getattr(registry, "entry_points", None)
    if asked is None or asked.__module__ == __name__:
        return

    @functools.cache
    def found(_path: tuple[str, ...], group: str) -> Any:
        return asked(group=group)

    def search(group: str) -> Any:
        return found(tuple(sys.path), group)

    registry.entry_points = search  # type: ignore[attr-defined]


def spare_moves(package: Package) -> None:
    """Keep Lightning from searching all of a logged value's state for tensors to move, where none has to move.

    It does so for each `log` of each batch, which takes 0.4 ms: as long as a step of a small network.
    """
    results = package.part("trainer.connectors.logger_connector.result")
    kind = getattr(results, "_ResultMetric", None)
    moved = getattr(kind, "to", None)
    if kind is None or moved is None or moved.__module__ == __name__:
        return

    def to(self: Any, *args: Any, **options: Any) -> Any:
        if getattr(self, "is_tensor", False) and len(args) == 1 and not options:
            state = (vars(self).get(name) for name in _STATE)
            if {getattr(part, "device", None) for part in state if part is not None} == {args[0]}:
                return self
        return moved(self, *args, **options)

    kind.to = to


def derived(found: Any, kind: str) -> Package | None:
    """Return the Lightning package whose class `kind` an object is derived from, or None."""
    for base in type(found).__mro__:
        name = next((name for name in NAMES if base.__module__.startswith(f"{name}.")), None)
        if name is not None and base.__name__ == kind:
            return Package(name)
    return None


def of(model: Any, title: str) -> Package | None:
    """Return the package whose LightningModule a model is, or None for a plain network.

    Args:
        model: any torch module.
        title: its name in messages.

    Raises:
        ConfigError: it looks like a LightningModule but is not, so that labrun would train it as a plain network.
    """
    if (found := derived(model, "LightningModule")) is not None:
        return found
    wrapped = type(model).__module__.startswith(_FABRIC)
    has = [step for step in _STEPS if callable(getattr(model, step, None))]
    if wrapped or has:
        what = "was set up by Lightning's Fabric" if wrapped else f"has its own {' and '.join(has)}"
        raise ConfigError(
            f"model '{title}' ({type(model).__name__}) {what} and is neither a pytorch_lightning.LightningModule nor a "
            "lightning.LightningModule: labrun would train it with its own loss and optimizer, and never call them. "
            "Derive the class from LightningModule (a compiled module: compile inside it), or leave "
            f"{'the setup' if wrapped else 'them'} out for a plain network"
        )
    return None
