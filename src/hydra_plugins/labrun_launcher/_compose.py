"""Composing a sweep's jobs: the first in full, those that differ from it in plain values alone by copying it.

A full composition reads some thirty YAML files; the second way gives the same config in a fraction of the time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class Composer:
    """Composes the jobs of one sweep.

    Args:
        loader: Hydra's.
        master: the sweep's own config.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._first: tuple[list[str], DictConfig] | None = None
        self._is_group: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The config of one job, as Hydra's own `load_sweep_config` gives it, with its number set.

        Raises:
            ConfigCompositionException: as Hydra's own.
        """
        given = list(overrides)
        config = self._from_first(given) if self._first is not None else None
        if config is None:
            config = self._loader.load_sweep_config(self._master, given)
            self._first = (given, copy.deepcopy(config))
        with open_dict(config), read_write(config.hydra):
            config.hydra.job.id = number
            config.hydra.job.num = number
        return config

    def _from_first(self, overrides: list[str]) -> DictConfig | None:
        assert self._first is not None
        first, template = self._first
        if len(first) != len(overrides):
            return None
        changed = [(old, new) for old, new in zip(first, overrides, strict=True) if old != new]
        parsed = self._parser.parse_overrides([new for _, new in changed])
        before = self._parser.parse_overrides([old for old, _ in changed])
        pairs = zip(before, parsed, strict=True)
        if not all(
            old.key_or_group == new.key_or_group and self._is_plain(old) and self._is_plain(new) for old, new in pairs
        ):
            return None
        config = copy.deepcopy(template)
        for override in parsed:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        self._note_overrides(config, overrides)
        OmegaConf.copy_cache(from_config=self._master, to_config=config)
        return config

    def _is_plain(self, override: Override) -> bool:
        """Whether it sets a value and chooses nothing. A list or dict may replace or merge: Hydra decides that."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        value: Any = override.value()
        simple = value is None or isinstance(value, str | int | float | bool)
        ours = override.type == OverrideType.CHANGE and override.package is None and not override.is_hydra_override()
        return simple and ours and not self._is_group[key] and not key.startswith("hydra")

    def _note_overrides(self, config: DictConfig, overrides: list[str]) -> None:
        ours = [o for o in self._parser.parse_overrides(overrides) if not o.is_hydra_override()]
        settings = config.hydra.job.config.override_dirname
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in ours]
            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=ours, kv_sep=settings.kv_sep, item_sep=settings.item_sep, exclude_keys=settings.exclude_keys
            )
