"""A snapshot of the config files, which later edits do not change."""

from __future__ import annotations

import copy
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult


class ConfigSnapshot(CachingConfigRepository):
    """Every config file as it is now.

    Hydra copies its repository for each composition and each look-up of a group. Copies share the files, and each load
    of a file returns a config of its own.
    """

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._held: dict[str, ConfigResult | None] = {}
        self._hold("")

    def _hold(self, group: str) -> None:
        for name in self.get_group_options(group, results_filter=ObjectType.CONFIG):
            path = f"{group}/{name}" if group else name
            self._held[path] = self.delegate.load_config(path)
        for name in self.get_group_options(group, results_filter=ObjectType.GROUP):
            if group or name != "hydra":
                self._hold(f"{group}/{name}" if group else name)

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path in self._held:
            return copy.deepcopy(self._held[config_path])
        return super().load_config(config_path)

    def __deepcopy__(self, memo: dict[int, Any]) -> ConfigSnapshot:
        copied = copy.copy(self)
        copied.delegate, copied.cache = copy.deepcopy(self.delegate, memo), copy.deepcopy(self.cache, memo)
        return copied
