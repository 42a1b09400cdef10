"""Composition of a sweep's jobs.

A full composition reads some thirty YAML files. If a job differs from the previous one only in plain values, its config
is derived from the previous config instead, which gives the same result in a fraction of the time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from labrun import messages
from labrun.compose import hydra_files
from labrun.config import checking
from labrun.errors import ConfigError


def options(loader: ConfigLoader, master: DictConfig, group: str) -> list[str]:
    """Return the options of a group from all config sources of a sweep, including `hydra.searchpath`."""
    typed = [text for text in hydra_files.typed(master.hydra) if text.startswith("hydra.searchpath=")]
    return loader.get_group_options(group, config_name=master.hydra.job.config_name, overrides=typed)


class Composer:
    """Composes the jobs of one sweep.

    Args:
        loader: Hydra's config loader.
        master: config of the sweep.
        in_place: return the same config object for each job, modified; the caller must have finished with a job's
            config before composing the next. Copying a config takes as long as everything else.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, in_place: bool = False) -> None:
        self._loader = loader
        self.master = master
        self._in_place = in_place
        self._parser = OverridesParser.create(config_loader=loader)
        self._parsed: dict[str, Override] = {}
        self._last: tuple[list[str], DictConfig] | None = None
        self._is_group: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Compose the config of one job like Hydra's `load_sweep_config`, with its number set.

        Raises:
            ConfigCompositionException: as in Hydra.
        """
        given = list(overrides)
        config = self._from_last(given) if self._last is not None else None
        if config is None:
            config = self._loader.load_sweep_config(self.master, given)
        self._last = (given, config)
        with open_dict(config), read_write(config.hydra):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return config

    def refusal(self, error: HydraException, overrides: Sequence[str]) -> ConfigError:
        """Return an error that explains why a job cannot be composed."""
        cause, key = error.__cause__, None
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            keys = [self._parse(text).key_or_group for text in overrides]
            key = next((one for one in keys if f"{one}.".startswith(f"{cause.full_key}.")), None)
        if key is None:
            from labrun import mistakes

            return ConfigError(mistakes.in_short(error))
        rest = [text for text in overrides if self._parse(text).key_or_group != key]
        try:
            config: Any = OmegaConf.to_container(self._loader.load_sweep_config(self.master, rest))
            known = list(checking.dotted({k: v for k, v in config.items() if k != "hydra"}, leaves=True))
        except (HydraException, OmegaConfBaseException):
            known = []
        return ConfigError(f"{key}: no such key.{messages.suggest(key, known)}")

    def _from_last(self, overrides: list[str]) -> DictConfig | None:
        assert self._last is not None
        last, template = self._last
        if any(text.startswith("from=") for text in overrides):
            return None  # the data depend on the run that `from` names
        if any("[" in text.partition("=")[0] for text in overrides):
            return None  # from Hydra 1.4 on, `a[b]=` sets `a.b`
        more = [self._parse(text) for text in overrides[len(last) :]]
        if len(last) > len(overrides) or not all(
            self._is_plain(one) and OmegaConf.select(template, one.key_or_group, default=...) is not ... for one in more
        ):
            return None
        pairs = zip(last, overrides[: len(last)], strict=True)
        changed = [(self._parse(old), self._parse(new)) for old, new in pairs if old != new]
        if not all(
            old.key_or_group == new.key_or_group and self._is_plain(old) and self._is_plain(new) for old, new in changed
        ):
            return None
        anew = [*(new for _, new in changed), *more]
        if self._overlap(anew, [self._parse(text) for text in overrides]):
            return None
        config = template if self._in_place else copy.deepcopy(template)
        for override in anew:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        self._note_overrides(config, overrides)
        if not self._in_place:
            OmegaConf.copy_cache(from_config=self.master, to_config=config)
        return config

    def _overlap(self, anew: Sequence[Override], overrides: Sequence[Override]) -> bool:
        """Whether another override also sets one of these keys, or a part of it, so that their order matters."""
        for one in anew:
            key = one.key_or_group
            for other in overrides:
                also = other.key_or_group
                near = also == key or also.startswith(f"{key}.") or key.startswith(f"{also}.")
                if near and other is not one and (not self._chooses(also) or isinstance(other.value(), dict)):
                    return True
        return False

    def _chooses(self, key: str) -> bool:
        if key not in self._is_group:
            self._is_group[key] = bool(options(self._loader, self.master, key))
        return self._is_group[key]

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_override(text)
        return self._parsed[text]

    def _is_plain(self, override: Override) -> bool:
        """Whether an override sets a scalar, rather than a group choice, or a list or dict, which Hydra may merge."""
        key = override.key_or_group
        value: Any = override.value()
        simple = value is None or isinstance(value, str | int | float | bool)
        ours = override.type == OverrideType.CHANGE and override.package is None and not override.is_hydra_override()
        return simple and ours and not self._chooses(key) and not key.startswith("hydra")

    def _note_overrides(self, config: DictConfig, overrides: list[str]) -> None:
        ours = [o for o in map(self._parse, overrides) if not o.is_hydra_override()]
        settings = config.hydra.job.config.override_dirname
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in ours]
            if OmegaConf.is_interpolation(config.hydra.job, "override_dirname"):
                return  # from Hydra 1.4 on, derived from the overrides whenever it is read
            from hydra._internal.config_loader_impl import get_overrides_dirname

            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=ours, kv_sep=settings.kv_sep, item_sep=settings.item_sep, exclude_keys=settings.exclude_keys
            )
