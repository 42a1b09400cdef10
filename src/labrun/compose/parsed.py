"""Config files and interpolations parsed once per process, not once per composition.

Hydra reads each file of a composition anew, OmegaConf parses each `${...}` anew, and both are over half of its time.
A sweep, a search, a message about a mistake and a warm interpreter compose the same files many times. A parsed file is
used again while its stamp is the same, and only if that was old enough when the file was read (see `FileStamp`).
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf, grammar_parser

from labrun._io import FileStamp
from labrun.compose import merged
from labrun.compose.composed import interpolated_texts
from labrun.compose.merged import HeldResult
from labrun.config import hydra_versions

TREES = 2048
"""Parse trees held, a few kilobytes each."""
SCHEMES = ("file", "pkg")
_read = ConfigRepository.load_config
_parsed: dict[tuple[str, str, str, Any], tuple[FileStamp, HeldResult]] = {}


def remember() -> None:
    """Have Hydra parse each file, and OmegaConf each interpolation, once in this process."""
    if hydra_versions.is_1_3():  # `merged` replaces a part of it
        ConfigRepository.load_config = _load  # type: ignore[method-assign]
        merged.apply()
    _remember_trees()
    _map_choices_on_demand()


def _remember_trees() -> None:
    """Have OmegaConf parse each interpolation once: nothing changes a parse tree, and errors are not remembered."""
    plain = grammar_parser.parse
    if hasattr(plain, "cache_info"):
        return
    held = functools.lru_cache(TREES)(plain)
    for module in [module for name, module in sys.modules.copy().items() if name.partition(".")[0] == "omegaconf"]:
        if vars(module).get("parse") is plain:
            vars(module)["parse"] = held


def _map_choices_on_demand() -> None:
    """Spare Hydra the map from group to choice, made for each file, where no entry of a defaults list refers to it."""
    plain = defaults_list._create_interpolation_map
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def map_choices(overrides: Any, entries: list[Any], *rest: Any) -> Any:
        refers = any(not (entry.is_self() or entry.is_override()) and entry.is_interpolation() for entry in entries)
        return plain(overrides, entries, *rest) if refers else None

    vars(defaults_list)["_create_interpolation_map"] = map_choices


def load_all(folder: Path) -> None:
    """Parse the configs of a folder and of Hydra, for the compositions of processes that are forked later.

    Plug-ins are left alone: the user's own are found from the folder of the command.
    """
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource

    _remember_trees()
    own = FileConfigSource("main", f"file://{folder}")
    hydras = ImportlibResourcesConfigSource("hydra", "pkg://hydra.conf")
    root = Path(str(resources.files(hydras.path)))
    repository: ConfigRepository = object.__new__(ConfigRepository)
    version.setbase(hydra_versions.current_defaults().get("version_base"))
    for source, files in ((own, folder), (hydras, root)):
        repository.sources = [source]
        for file in sorted(files.rglob("*.yaml")):
            found = _load(repository, str(file.relative_to(files)).removesuffix(".yaml"))
            for text in interpolated_texts(OmegaConf.to_container(found.config)) if found is not None else ():
                grammar_parser.parse(text)


def _file_of(source: ConfigSource, config_path: str) -> str:
    name = source._normalize_file_name(config_path)  # Hydra names the file of a config nowhere public
    if source.scheme() == "pkg":
        return str(resources.files(source.path).joinpath(name))
    return os.path.realpath(os.path.join(source.path, name))


def _load(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    source = self._find_object_source(config_path=config_path, object_type=ObjectType.CONFIG)
    if source is None or source.scheme() not in SCHEMES:
        return _read(self, config_path)
    file = _file_of(source, config_path)
    # The base decides how a defaults list is read.
    key, stamp = (source.provider, source.path, config_path, version.getbase()), _reliable_stamp(file)
    held = _parsed.get(key)
    if held is not None and held[0] == stamp:
        return held[1]
    result = _read(self, config_path)
    if result is None or stamp is None or stamp != _reliable_stamp(file):
        return result
    result = HeldResult(**vars(result), pickled=pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
    _parsed[key] = stamp, result
    return result


def _reliable_stamp(file: str) -> FileStamp | None:
    """Return the stamp of a file; None if it is absent, or has changed too recently."""
    try:
        stamp = FileStamp.of(file)
    except OSError:
        return None
    return stamp if stamp.is_old_enough() else None
