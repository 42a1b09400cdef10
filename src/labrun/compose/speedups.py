"""Parts of Hydra and OmegaConf that take most of a composition, replaced by faster ones with the same results.

Hydra copies a whole config some five times for each run: a copy takes 0.9 ms here, and 8.4 ms in OmegaConf.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core import utils
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.plugins.config_source import ConfigResult
from omegaconf import (
    AnyNode,
    BooleanNode,
    BytesNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    PathNode,
    StringNode,
    flag_override,
)
from omegaconf.base import Box, Container, Metadata, Node, UnionNode

from labrun.compose import hydra_files

VALUES = frozenset({AnyNode, BooleanNode, BytesNode, FloatNode, IntegerNode, PathNode, StringNode})
"""Nodes with nothing but a value, which OmegaConf does not copy either."""
_deepcopy_of: dict[type, Callable[..., Any]] = {kind: kind.__deepcopy__ for kind in (DictConfig, ListConfig)}
_re_parent_union = Box._re_parent


def apply() -> None:
    """Replace them in this process."""
    if ConfigStore.load is _load_stored:
        return
    ConfigStore.load = _load_stored  # type: ignore[method-assign]
    ConfigLoaderImpl._embed_result_config = staticmethod(_embed)  # type: ignore[method-assign,assignment]
    OmegaConf.masked_copy = staticmethod(_masked_copy)  # type: ignore[method-assign]
    DictConfig.__deepcopy__ = ListConfig.__deepcopy__ = _deepcopy  # type: ignore[method-assign]
    Box._re_parent = _re_parent  # type: ignore[method-assign]
    Container._invalidate_flags_cache = _invalidate_flags_cache  # type: ignore[method-assign]
    utils._save_config = _save_config
    version._get_version = functools.cache(version._get_version)


def _load_stored(self: ConfigStore, config_path: str) -> ConfigNode:
    found = copy.copy(self._load(config_path))
    found.node = _copied(found.node)
    return found


def _embed(found: ConfigResult, package_override: str | None) -> ConfigResult:
    """Return a result whose config is a copy at its package: for `model`, `lr: 1` becomes `model: {lr: 1}`."""
    package = found.header["package"] if package_override is None else package_override
    if not package:
        return found
    embedded = OmegaConf.create()
    with flag_override(embedded, "no_deepcopy_set_nodes", True):
        OmegaConf.update(embedded, package, _copied(found.config), merge=False)
    found = copy.copy(found)
    found.config = embedded
    return found


def _masked_copy(conf: DictConfig, keys: str | list[str]) -> DictConfig:
    """Return a copy of some keys of a config."""
    if not isinstance(conf, DictConfig):
        raise ValueError("masked_copy is only supported for DictConfig")
    kept = OmegaConf.create()
    with flag_override(kept, "no_deepcopy_set_nodes", True):
        for key, value in conf.items_ex(resolve=False, keys=[keys] if isinstance(keys, str) else keys):
            kept[key] = _copied(value) if OmegaConf.is_config(value) else value
    return kept


def _save_config(cfg: DictConfig, filename: str, output_dir: Path) -> None:
    """Save a config in a job's `.hydra/`, as sweeps do: long texts break elsewhere than in OmegaConf's YAML."""
    output_dir.mkdir(parents=True, exist_ok=True)
    text = hydra_files.as_yaml(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
    (output_dir / filename).write_text(text, encoding="utf-8")


def _copied(config: Any) -> Any:
    """Return a copy without a parent."""
    copied = copy.deepcopy(config)
    copied._set_parent(None)
    return copied


def _deepcopy(self: Container, memo: dict[int, Any]) -> Any:
    """Return a copy of a config, with the same parent."""
    if type(self) not in _deepcopy_of:  # a class derived from one
        return next(plain for kind, plain in _deepcopy_of.items() if isinstance(self, kind))(self, memo)
    state = self.__dict__
    copied = object.__new__(type(self))
    content = state["_content"]
    if isinstance(content, dict):
        content = {key: _copy_child(child, copied, memo) for key, child in content.items()}
    elif isinstance(content, list):
        content = [_copy_child(child, copied, memo) for child in content]
    metadata, flags = _copy_metadata(state["_metadata"], memo), copy.copy(state["_flags_cache"])
    copied.__dict__.update(state, _metadata=metadata, _flags_cache=flags, _content=content)
    return copied


def _copy_child(node: Node, parent: Container, memo: dict[int, Any]) -> Node:
    state = node.__dict__
    copied: Node
    if id(node) in memo:
        copied = memo[id(node)]
    elif type(node) in VALUES:
        copied = object.__new__(type(node))
        metadata = _copy_metadata(state["_metadata"], memo)
        copied.__dict__.update(state, _metadata=metadata, _flags_cache=None)
    elif type(node) in _deepcopy_of:
        copied = _deepcopy(node, memo)  # type: ignore[arg-type]
    else:
        before, state["_parent"] = state["_parent"], None  # otherwise the copy would include it
        try:
            copied = copy.deepcopy(node, memo)
        finally:
            state["_parent"] = before
    memo[id(node)] = copied
    copied.__dict__["_parent"] = parent
    return copied


def _copy_metadata(metadata: Metadata, memo: dict[int, Any]) -> Metadata:
    state = metadata.__dict__
    copied = object.__new__(type(metadata))
    resolved = copy.deepcopy(state["resolver_cache"], memo) if state["resolver_cache"] else defaultdict(dict)
    copied.__dict__.update(state, flags=copy.copy(state["flags"]), resolver_cache=resolved)
    return copied


def _children(box: Box) -> Iterable[Node | None]:
    content = box.__dict__["_content"]
    return content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()


def _re_parent(self: Box) -> None:
    """Set the parent of each node below, without a call for each: each merge does so to the whole config."""
    if isinstance(self, UnionNode):
        _re_parent_union(self)
        return
    for child in _children(self):
        if child is not None:
            child.__dict__.update(_parent=self, _flags_cache=None)
            if isinstance(child, Box):
                child._re_parent()


def _invalidate_flags_cache(self: Container) -> None:
    """Forget the flags of each node below, without importing OmegaConf's classes anew for each."""
    if self.__dict__["_flags_cache"] is not None:
        self.__dict__["_flags_cache"] = None
        for child in _children(self):
            child._invalidate_flags_cache()  # type: ignore[union-attr]
