"""The data of a scored run with overridden keys: `task=predict from=RUN dataset.path=new.csv`.

Overrides below `dataset` and `datastore` apply to that run's data rather than to the config's default. They are
therefore composed with the data in the run's record. If other keys in the run's own config refer to an overridden key
(`${dataset.vars.path}`), they change as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from labrun.compose import composed
from labrun.config import instantiate, schema
from labrun.config.instantiate import Node
from labrun.errors import ConfigError
from labrun.runs import context

GROUPS = ("dataset", "datastore")
OPEN_PARTS = ("train", "validation", "test", "predict")
"""Keys of PyTorch data sets that accept any keys below them."""


def chooses(overrides: Sequence[str], group: str = "dataset") -> bool:
    """Return whether the overrides select other data than those of the scored run."""
    return bool({"experiment", "dataset", group} & set(map(_key, overrides)))


def typed_below(overrides: Sequence[str], group: str) -> list[str]:
    """Return the overrides of keys in a group of the scored run; empty if another option of it is selected."""
    if chooses(overrides, group):
        return []
    return [one for one in overrides if _key(one).startswith(f"{group}.")]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def insert(config: DictConfig, source: Node, run_dir: Path, overrides: Sequence[str]) -> None:
    """Put a run's data into a composed config before the overrides are applied to it.

    Args:
        config: the composed config; changed in place.
        source: the scored run's config.
        run_dir: its folder.
        overrides: all overrides.

    Raises:
        ConfigError: the run's config contains references that records may not contain.
    """
    for group in GROUPS:
        if chooses(overrides, group) or not isinstance(source.get(group), Mapping):
            continue
        instantiate.check_references(source[group])
        OmegaConf.set_struct(config, False)
        config[group] = OmegaConf.create(dict(source[group]))
        OmegaConf.set_struct(config, True)
        _open(config, group)
        for key, value in consequences(run_dir, group, typed_below(overrides, group)):
            OmegaConf.update(config, f"{group}.{key}", value, force_add=True)


def _open(config: DictConfig, group: str) -> None:
    if config[group].get("_target_") == schema.DATASETS:
        for part in OPEN_PARTS:
            if OmegaConf.is_dict(config[group].get(part)):
                OmegaConf.set_struct(config[group][part], False)


def consequences(run_dir: Path, group: str, typed: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the keys of a run's data that refer to overridden keys, with their new values.

    Args:
        run_dir: the scored run's folder.
        group: `dataset` or `datastore`.
        typed: overrides of its keys.

    Returns:
        Each key, without the group, and its value in the form for a record.
    """
    file = run_dir / context.HYDRA / "config.yaml"
    if not typed or not file.is_file():
        return []
    before, after = _loaded(file), _loaded(file)
    if before is None or after is None or not OmegaConf.is_dict(before.get(group)):
        return []
    keys = list(_referring(OmegaConf.to_container(before[group], resolve=False)))
    parsed = OverridesParser.create().parse_overrides(list(typed))
    try:
        _apply(parsed, after, group)
    except HydraException:  # reported when the config itself is composed
        return []
    names = {one.key_or_group for one in parsed}
    pairs = [(key, _value(before, f"{group}.{key}"), _value(after, f"{group}.{key}")) for key in keys]
    return [(key, new) for key, old, new in pairs if old != new and f"{group}.{key}" not in names]


def with_further(node: Node, further: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a copy of a record's node with other values for some keys."""
    if not further:
        return dict(node)
    found = OmegaConf.create(dict(node))
    for key, value in further:
        OmegaConf.update(found, key, value, force_add=True)
    values = OmegaConf.to_container(found, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _apply(overrides: Sequence[Override], config: DictConfig, group: str) -> None:
    OmegaConf.set_struct(config, True)
    _open(config, group)
    # Hydra has no public call that applies overrides to a config
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def _loaded(file: Path) -> DictConfig | None:
    try:
        found = OmegaConf.load(file)
    except (OSError, ValueError, OmegaConfBaseException):
        return None
    return found if isinstance(found, DictConfig) else None


def _referring(node: Any, above: str = "") -> Iterator[str]:
    """Yield the key paths of strings that contain references."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _referring(value, f"{above}.{key}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _referring(value, f"{above}[{number}]")
    elif isinstance(node, str) and "${" in node:
        yield above


def _value(config: DictConfig, key: str) -> Any:
    """Return the value of a key; None if it cannot be resolved on this machine."""
    try:
        return composed.kept_value(config, key)
    except ConfigError:
        return None
