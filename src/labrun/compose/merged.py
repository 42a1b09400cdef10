"""Compositions that merge the same files in the same order do so once per process.

Hydra composes in three steps: it makes the defaults list, merges the configs in it, and applies the overrides. The
first needs only the files' headers and own defaults. The second takes half of the time, and its result depends on
nothing but the list and the content of its configs. Hydra has no public call for a single step, and OmegaConf none for
the flags of a node.
"""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.base import Container
from omegaconf.errors import OmegaConfBaseException

HELD = 64
"""Merged configs held, some 50 kilobytes each."""
TEXTS = ("now", "labrun_id")
"""Resolvers that always give a text. A merge resolves what it replaces, and ignores that unless it is a container."""
REMOVES = "HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"
"""Hydra's flag of a structured config that still holds its defaults list."""
STRIPPED = "stripped"
"""First part of the key of a finished config. Other keys are of the beginnings that most lists share: Hydra's own
configs, without and with the primary config."""
Key = tuple[Any, ...]
Merged = OrderedDict[Key, bytes]
_merged: Merged = OrderedDict()
_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_resolve = Container._evaluate_custom_resolver
_resolved = 0


@dataclass
class HeldResult(ConfigResult):
    """A config file that all compositions share, as the defaults list reads it; only copies are merged."""

    pickled: bytes = b""
    """The file's `ConfigResult`, which also stands for its content."""

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldResult:
        return self

    def copy(self) -> ConfigResult:
        """Return a result that may be changed."""
        copied: ConfigResult = pickle.loads(self.pickled)  # noqa: S301 - made in this process
        return copied


class Copies:
    """A repository whose configs may be changed."""

    def __init__(self, repository: IConfigRepository) -> None:
        self._repository = repository
        self.get_schema_source = repository.get_schema_source

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Load a config."""
        found = self._repository.load_config(config_path)
        return found.copy() if isinstance(found, HeldResult) else found


def apply() -> None:
    """Have Hydra merge the same configs once in this process."""
    ConfigLoaderImpl._compose_config_from_defaults_list = _merged_once  # type: ignore[method-assign]
    Container._evaluate_custom_resolver = _count_resolved  # type: ignore[method-assign]


def held() -> Merged:
    """Return what this process has merged."""
    return _merged


def hold(others: Merged) -> None:
    """Hold what another process has merged."""
    _merged.update(others)


def _merged_once(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """Do as `ConfigLoaderImpl._compose_config_from_defaults_list`."""
    key = _key(defaults, repo)
    if key is None:
        return _merge(self, defaults, Copies(repo))  # type: ignore[arg-type]
    if (found := _held((STRIPPED, *key))) is not None:
        return found
    config, copies, before, done = OmegaConf.create(), Copies(repo), _resolved, 0
    primary = next((number for number, default in enumerate(defaults) if default.primary), 0)
    for end in (primary + 1, primary):
        if (found := _held(key[:end])) is not None:
            config, done = found, end
            break
    for end in (primary, primary + 1, len(defaults)):
        if end > done:
            _merge_all(self, config, defaults[done:end], copies)
            done = end
            if before == _resolved and end <= primary + 1:
                _hold(key[:end], config)
    _strip(config)
    if before == _resolved:
        _hold((STRIPPED, *key), config)
    return config


def _merge_all(loader: ConfigLoaderImpl, config: DictConfig, defaults: Sequence[ResultDefault], copies: Copies) -> None:
    with flag_override(config, "no_deepcopy_set_nodes", True):
        for default in defaults:
            loaded = loader._load_single_config(default, copies)  # type: ignore[arg-type]
            try:
                config.merge_with(loaded.config)
            except OmegaConfBaseException as error:
                raise ConfigCompositionException(
                    f"In '{default.config_path}': {type(error).__name__} raised while composing config:\n{error}"
                ).with_traceback(sys.exc_info()[2]) from error


def _strip(config: Any) -> None:
    """Remove the defaults lists that structured configs still hold."""
    if not isinstance(config, DictConfig) or config._is_missing() or config._is_none():
        return
    if config._get_flag(REMOVES):
        with flag_override(config, ["readonly", "struct"], False):
            config._set_flag(REMOVES, None)
            config.pop("defaults", None)
    for _, value in config.items_ex(resolve=False):
        _strip(value)


def _held(key: Key) -> DictConfig | None:
    if key not in _merged:
        return None
    _merged.move_to_end(key)
    copied: DictConfig = pickle.loads(_merged[key])  # noqa: S301 - made below
    return copied


def _hold(key: Key, config: DictConfig) -> None:
    """Hold a config without what `TEXTS` gave, such as the time, which each composition must ask for."""
    about = config._metadata
    given, about.resolver_cache = about.resolver_cache, defaultdict(dict)
    try:
        _merged[key] = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - a value may refuse with any error
        pass
    finally:
        about.resolver_cache = given
    while len(_merged) > HELD:
        _merged.popitem(last=False)


def _key(defaults: list[ResultDefault], repo: IConfigRepository) -> Key | None:
    """Return what the result of a merge depends on; None if that is not known."""
    store, parts = ConfigStore.instance(), []
    for default in defaults:
        path = default.config_path
        found = None if path is None else repo.load_config(path)
        if path is None or found is None:
            return None
        if isinstance(found, HeldResult):
            if store.get_type(ConfigSource._normalize_file_name(path)) != ObjectType.NOT_FOUND:
                return None  # Hydra merges it with the stored config of its name
            content: Any = found.pickled
        else:
            try:
                content = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
            except Exception:  # noqa: BLE001 - a value may refuse with any error
                return None
        parts.append((path, default.package, default.primary, content))
    return tuple(parts)


def _count_resolved(self: Container, key: Any, node: Any, inter_type: str, *args: Any, **options: Any) -> Any:
    """Count the calls of resolvers whose results may change a merge."""
    global _resolved
    _resolved += inter_type not in TEXTS
    return _resolve(self, key, node, inter_type, *args, **options)
