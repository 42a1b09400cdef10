"""Config groups, options and keys that exist for a command line, found by composing its config files."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from labrun.compose import paths
from labrun.config import checking
from labrun.messages import without_details
from labrun.mistakes.flags import Split


class Composable:
    """The groups and configs that can be composed.

    Args:
        loader: Hydra's config loader.
        config_name: name of the primary config.
    """

    def __init__(self, loader: ConfigLoader, config_name: str = "config") -> None:
        self.loader, self._name = loader, config_name
        self._known: dict[tuple[str, ...], DictConfig | None] = {}

    @functools.cached_property
    def groups(self) -> dict[str, list[str]]:
        """All config groups of labrun and of the user, each with its options."""
        return {group: self.options(group) for group in self._below("") if self.options(group)}

    def _below(self, parent: str) -> Iterator[str]:
        for name in self.loader.list_groups(parent):
            group = f"{parent}/{name}" if parent else name
            if group not in ("hydra", "local"):
                yield group
                yield from self._below(group)

    def options(self, group: str) -> list[str]:
        """Return the names of a group's options; empty if there is no such group."""
        return sorted(name for name in self.loader.get_group_options(group) if not name.startswith("_"))

    def compose(self, overrides: Sequence[str]) -> DictConfig | None:
        """Compose the config with overrides; None if that fails."""
        key = tuple(overrides)
        if key not in self._known:
            try:
                self._known[key] = self.loader.load_configuration(self._name, list(key), RunMode.RUN)
            except (HydraException, OmegaConfBaseException):
                self._known[key] = None
        return self._known[key]


_kept: dict[tuple[str | None, ...], Composable] = {}
"""Cache for one message, because composing takes a tenth of a second."""


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """In the context, cache composed configs. Use it for one message only, because files may change afterwards."""
    _kept.clear()
    try:
        yield
    finally:
        _kept.clear()


def composable(split: Split) -> Composable:
    """Return the `Composable` for the config folders of a command line."""
    places = tuple(split.values.get(flag) for flag in ("--config-path", "--config-dir", "--config-name"))
    if places not in _kept:
        _kept[places] = _made(*places)
    return _kept[places]


def _made(main: str | None, folder: str | None, name: str | None) -> Composable:
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    path = create_automatic_config_search_path(None, None, main or str(paths.conf_dir()))
    if folder and os.path.isdir(folder):
        where = SearchPathQuery(provider="schema")
        path.prepend(provider="command-line", path=f"file://{os.path.abspath(folder)}", anchor=where)
    try:
        loader = Hydra.create_main_hydra2("labrun", path).config_loader
        return Composable(loader, name or "config")
    finally:
        GlobalHydra.instance().hydra = before


def can_be_set(config: DictConfig, one: Override) -> bool:
    """Whether Hydra would accept an override; for a sweep override, whether its key exists."""
    if one.is_sweep_override():
        parser = OverridesParser.create()
        sign = {OverrideType.ADD: "+", OverrideType.FORCE_ADD: "++"}.get(one.type, "")
        one = parser.parse_override(f"{sign}{one.key_or_group}=null")
    try:  # Hydra has no public call that applies overrides to a config
        ConfigLoaderImpl._apply_overrides_to_config([one], copy.deepcopy(config))
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def misfit(config: DictConfig, one: Override) -> str | None:
    """Return why an existing key rejects a value because of its declared type; None if that is not the reason."""
    if one.type != OverrideType.CHANGE or one.is_sweep_override():
        return None
    try:
        OmegaConf.update(copy.deepcopy(config), one.key_or_group, one.value(), merge=True)
    except ValidationError as error:
        return without_details(error)
    except OmegaConfBaseException:
        return None
    return None


def is_a_value(config: DictConfig, key: str) -> bool:
    """Whether the parent of a key is a value rather than a node."""
    above = key.rpartition(".")[0]
    if not above:
        return False
    try:
        node = OmegaConf.select(config, above, throw_on_missing=False)
    except OmegaConfBaseException:
        return True
    return node is not None and not OmegaConf.is_config(node)


def dotted(config: DictConfig) -> Iterator[str]:
    """Yield the dotted path of every key of a config, without the `hydra` node."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return checking.dotted({key: value for key, value in plain.items() if key != "hydra"})


def is_node(config: DictConfig, key: str) -> bool:
    """Whether a key has keys below it."""
    node = OmegaConf.select(config, key, throw_on_missing=False, throw_on_resolution_failure=False)
    return isinstance(node, DictConfig) and bool(node)
