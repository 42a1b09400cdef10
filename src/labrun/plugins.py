"""Plugin registries: named classes of labrun's own, and those that installed packages provide as entry points."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from labrun import messages
from labrun.errors import ConfigError

if TYPE_CHECKING:  # it takes a tenth of the start of a process
    from importlib import metadata


class Plugins:
    """A registry with one instance per name, created on first use.

    Args:
        group: the entry point group.
        base: the common base class, as `module:Class`.
        own: labrun's own classes by name, as `module:Class`.
        key: the config key that holds a name, for messages.
        also: other values of the key, without a class.
        hidden: names of labrun's own classes that the key must not hold, because another key selects them.
    """

    def __init__(
        self,
        group: str,
        base: str,
        own: Mapping[str, str],
        key: str,
        also: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        self._hidden = frozenset(hidden)
        self._group, self._base, self._own, self.key, self._also = group, base, own, key, also
        self._made: dict[str, Any] = {}

    @cached_property
    def _others(self) -> dict[str, metadata.EntryPoint]:
        """Entry points of installed packages, by name; looked up only for names that are not labrun's own."""
        from importlib import metadata

        return {entry.name: entry for entry in metadata.entry_points(group=self._group)}

    def names(self) -> list[str]:
        """Return all names, labrun's own first."""
        return [*self._own, *sorted(set(self._others) - set(self._own))]

    def values(self) -> list[str]:
        """Return all values that the key may have."""
        return [*self._also, *(name for name in self.names() if name not in self._hidden)]

    def holds(self, value: Any) -> bool:
        """Whether the key may have this value. Entry points are looked up only for names that are not labrun's own."""
        if not isinstance(value, str) or value in self._hidden:
            return False
        return value in self._own or value in self._also or value in self._others

    def refusal(self, name: Any, key: str) -> str:
        """Return the error message for a value that the key cannot have."""
        known = self.values()
        return f"{key}={name!r}: expected one of {', '.join(known)}.{messages.suggest(str(name), known)}"

    def get(self, name: str, key: str | None = None) -> Any:
        """Return the object of a name.

        Args:
            name: the name.
            key: the config key that holds it, for messages, if it is not the usual one.

        Raises:
            ConfigError: the name is unknown, or its package cannot be used.
        """
        if name not in self._made:
            self._made[name] = self._make(name, key or self.key)
        return self._made[name]

    def find(self, name: Any) -> Any | None:
        """Return the object of a name; None if the name is unknown, or its package cannot be used."""
        try:
            return self.get(name) if self.holds(name) else None
        except ConfigError:
            return None

    def _make(self, name: str, key: str) -> Any:
        if not (self.holds(name) or name in self._hidden) or name in self._also:
            raise ConfigError(self.refusal(name, key))
        try:
            made = (_load(self._own[name]) if name in self._own else self._others[name].load())()
        except Exception as error:  # a third-party package can raise anything
            if name in self._own:
                raise
            raise ConfigError(f"{key}={name!r}: its package fails: {type(error).__name__}: {error}") from error
        if not isinstance(made, _load(self._base)):
            base = self._base.replace(":", ".")
            raise ConfigError(f"{key}={name!r}: {self._others[name].value} is not a class of {base}")
        return made

    def all_known(self) -> Iterator[Any]:
        """Yield every object whose package can be used."""
        for name in self.names():
            try:
                yield self.get(name)
            except ConfigError:  # reported when the user selects it
                continue

    def forget(self) -> None:
        """Clear all caches, after packages were installed or removed."""
        self._made.clear()
        self.__dict__.pop("_others", None)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


POOL = "local"
"""The backend of runs without a user at a terminal, and of sweeps, unless the config names another one."""
IN_PROCESS = "inline"
"""The backend of a single run at a terminal, unless the config names another one: the process that composes it."""
BACKENDS = Plugins(
    "labrun.backends",
    "labrun.backends.base:Backend",
    {
        "inline": "labrun.backends.inline:Inline",
        "local": "labrun.backends.local.backend:Local",
        "slurm": "labrun.backends.slurm.backend:Slurm",
        "remote": "labrun.remote.backend:RemoteBackend",
    },
    key="compute.target",
    also=["auto"],
    hidden=["remote"],
)
"""The backends, which execute runs: see `labrun.backends.registry`."""
TRACKERS = Plugins(
    "labrun.trackers",
    "labrun.tracking.base:Tracker",
    {"mlflow": "labrun.tracking.mlflow.tracker:MLflow", "wandb": "labrun.tracking.wandb.tracker:Wandb"},
    key="tracking.kind",
    also=["none"],
)
"""The trackers, which display records: see `labrun.tracking.trackers`."""
TASKS = Plugins(
    "labrun.tasks",
    "labrun.tasks.base:TaskType",
    {name: f"labrun.tasks.kinds:{name.capitalize()}" for name in ("fit", "evaluate", "predict", "script")},
    key="task",
)
"""The task types: see `labrun.tasks.base`."""
