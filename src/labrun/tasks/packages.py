"""Lightning is installed under two names, `pytorch_lightning` and `lightning`: the same code, and different classes.

A module of one is trained by that one's own Trainer, with its callbacks and loggers; the other's would not know it.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from labrun.errors import ConfigError

NAMES = ("pytorch_lightning", "lightning.pytorch")
_FABRIC = ("lightning_fabric.", "lightning.fabric.")
_CLOUDS = ("adlfs", "gcsfs", "s3fs")
_STEPS = ("training_step", "configure_optimizers")
"""What makes a module train by itself."""


@dataclass(frozen=True)
class Package:
    """One of the two.

    Args:
        name: the dotted name of the module that has `Trainer`.
    """

    name: str = NAMES[0]

    def part(self, path: str = "") -> Any:
        """One of its modules: `callbacks`, `plugins.io`; itself where no path is given."""
        return importlib.import_module(f"{self.name}.{path}".rstrip("."))

    def target(self, text: str) -> str:
        """A `_target_` of Lightning under this name, whichever it has in the config; others as they are."""
        for other in NAMES:
            if text.startswith(f"{other}."):
                return f"{self.name}.{text.removeprefix(f'{other}.')}"
        return text


def spare_clouds(package: Package) -> None:
    """Keep Lightning from importing the file systems of clouds, which takes a second, to ask if a checkpoint is on one.

    It asks of each checkpoint and each folder. What lies on a file system of a package that nobody has imported can be
    none of them.
    """
    cloud_io = importlib.import_module(f"{_FABRIC[NAMES.index(package.name)]}utilities.cloud_io")
    asked = getattr(cloud_io, "module_available", None)
    if asked is None or asked.__module__ == __name__:
        return

    def there(path: str) -> bool:
        return (path not in _CLOUDS or path in sys.modules) and bool(asked(path))

    cloud_io.module_available = there  # type: ignore[attr-defined]


def derived(found: Any, kind: str) -> Package | None:
    """The package of Lightning's whose class of that name an object is derived from; None: neither."""
    for base in type(found).__mro__:
        name = next((name for name in NAMES if base.__module__.startswith(f"{name}.")), None)
        if name is not None and base.__name__ == kind:
            return Package(name)
    return None


def of(model: Any, title: str) -> Package | None:
    """The package whose LightningModule a model is; None for a plain network.

    Args:
        model: any torch module.
        title: what it is called in messages.

    Raises:
        ConfigError: it looks like one and is none: it would be trained as what it is not.
    """
    if (found := derived(model, "LightningModule")) is not None:
        return found
    wrapped = type(model).__module__.startswith(_FABRIC)
    has = [step for step in _STEPS if callable(getattr(model, step, None))]
    if wrapped or has:
        what = "was set up by Lightning's Fabric" if wrapped else f"has {' and '.join(has)} of its own"
        raise ConfigError(
            f"model '{title}' ({type(model).__name__}) {what} and is neither a pytorch_lightning.LightningModule nor a "
            "lightning.LightningModule: labrun would train it by its own loss and optimizer, and never call them. "
            "Derive the class from LightningModule (a compiled module: compile inside of it), or leave "
            f"{'the setting up' if wrapped else 'them'} out for a plain network"
        )
    return None
