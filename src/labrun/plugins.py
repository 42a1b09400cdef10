"""Classes by name: labrun's own, and those that installed packages bring by entry points."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from typing import Generic, TypeVar

from labrun import checking
from labrun.errors import ConfigError

Kind = TypeVar("Kind")


class Plugins(Generic[Kind]):
    """One object for each name, made when it is first asked for.

    Args:
        base: the class that all derive from.
        group: of entry points.
        own: labrun's, `module:Class` by name.
        key: the config's key that holds a name, for messages.
        also: values of the key that name no class.
    """

    def __init__(
        self, base: type[Kind], group: str, own: Mapping[str, str], key: str, also: Sequence[str] = ()
    ) -> None:
        self._base, self._group, self._own, self._key, self._also = base, group, own, key, also
        self._made: dict[str, Kind] = {}

    @cached_property
    def _others(self) -> dict[str, metadata.EntryPoint]:
        """Those of installed packages; looked up only where a name is none of ours."""
        return {entry.name: entry for entry in metadata.entry_points(group=self._group)}

    def names(self) -> list[str]:
        """Every name: labrun's own first."""
        return [*self._own, *sorted(set(self._others) - set(self._own))]

    def get(self, name: str) -> Kind:
        """The object of that name.

        Raises:
            ConfigError: there is none, or its package cannot be imported.
        """
        if name not in self._made:
            self._made[name] = self._class(name)()
        return self._made[name]

    def _class(self, name: str) -> type[Kind]:
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            ours: type[Kind] = getattr(importlib.import_module(module), attribute)
            return ours
        if name not in self._others:
            known = [*self._also, *self.names()]
            raise ConfigError(
                f"{self._key}={name!r}: expected one of {', '.join(known)}.{checking.suggest(name, known)}"
            )
        try:
            loaded = self._others[name].load()
        except Exception as error:  # whatever a package of somebody else's does
            raise ConfigError(f"{self._key}={name!r}: its package fails: {type(error).__name__}: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, self._base)):
            base = f"{self._base.__module__}.{self._base.__qualname__}"
            raise ConfigError(f"{self._key}={name!r}: {self._others[name].value} is no class of {base}")
        return loaded

    def all_known(self) -> Iterator[Kind]:
        """Every object whose package can be imported."""
        for name in self.names():
            try:
                yield self.get(name)
            except ConfigError:  # it is told where somebody names it
                continue

    def forget(self) -> None:
        """Look everything up anew: packages were installed, or taken away."""
        self._made.clear()
        self.__dict__.pop("_others", None)
