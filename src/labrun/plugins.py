"""Classes by name: labrun's own, and those that installed packages bring by entry points."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

from labrun import checking
from labrun.errors import ConfigError


class Plugins:
    """One object for each name, made when it is first asked for.

    Args:
        group: of entry points.
        base: the class that all derive from, as `module:Class`.
        own: labrun's, as `module:Class` by name.
        key: the config's key that holds a name, for messages.
        also: values of the key that name no class.
        hidden: names of labrun's own that the key may not hold: another key chooses them.
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
        """Those of installed packages; looked up only where a name is none of ours."""
        return {entry.name: entry for entry in metadata.entry_points(group=self._group)}

    def names(self) -> list[str]:
        """Every name: labrun's own first."""
        return [*self._own, *sorted(set(self._others) - set(self._own))]

    def values(self) -> list[str]:
        """All that the key may hold."""
        return [*self._also, *(name for name in self.names() if name not in self._hidden)]

    def holds(self, value: Any) -> bool:
        """Whether the key may hold a value; packages are looked up only for what is none of ours."""
        if not isinstance(value, str) or value in self._hidden:
            return False
        return value in self._own or value in self._also or value in self._others

    def refusal(self, name: Any, key: str) -> str:
        """What is said of a value that the key cannot hold."""
        known = self.values()
        return f"{key}={name!r}: expected one of {', '.join(known)}.{checking.suggest(str(name), known)}"

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            ConfigError: there is none, or its package cannot be used.
        """
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def find(self, name: Any) -> Any | None:
        """The same; None where there is none, or its package cannot be used."""
        try:
            return self.get(name) if self.holds(name) else None
        except ConfigError:
            return None

    def _make(self, name: str) -> Any:
        if not (self.holds(name) or name in self._hidden) or name in self._also:
            raise ConfigError(self.refusal(name, self.key))
        try:
            made = (_load(self._own[name]) if name in self._own else self._others[name].load())()
        except Exception as error:  # whatever a package of somebody else's does
            if name in self._own:
                raise
            raise ConfigError(f"{self.key}={name!r}: its package fails: {type(error).__name__}: {error}") from error
        if not isinstance(made, _load(self._base)):
            base = self._base.replace(":", ".")
            raise ConfigError(f"{self.key}={name!r}: {self._others[name].value} is not a class of {base}")
        return made

    def all_known(self) -> Iterator[Any]:
        """Every object whose package can be used."""
        for name in self.names():
            try:
                yield self.get(name)
            except ConfigError:  # reported when somebody names it
                continue

    def forget(self) -> None:
        """Look everything up anew: packages were installed, or taken away."""
        self._made.clear()
        self.__dict__.pop("_others", None)


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


BACKENDS = Plugins(
    "labrun.backends",
    "labrun.backends.base:Backend",
    {
        "inline": "labrun.backends.inline:Inline",
        "local": "labrun.backends.local.backend:Local",
        "slurm": "labrun.backends.slurm.backend:Slurm",
        "remote": "labrun.remote.backend:Elsewhere",
    },
    key="compute.target",
    also=["auto"],
    hidden=["remote"],
)
"""Where runs go: see `labrun.backends.registry`."""
TRACKERS = Plugins(
    "labrun.trackers",
    "labrun.tracking.base:Tracker",
    {"mlflow": "labrun.tracking.mlflow.tracker:MLflow", "wandb": "labrun.tracking.wandb.tracker:Wandb"},
    key="tracking.kind",
    also=["none"],
)
"""Views of the records: see `labrun.tracking.registry`."""
TASKS = Plugins(
    "labrun.tasks",
    "labrun.tasks.base:TaskType",
    {name: f"labrun.tasks.kinds:{name.capitalize()}" for name in ("fit", "evaluate", "predict", "script")},
    key="task",
)
"""What a run does: see `labrun.tasks.base`."""
