"""Resolvers and other objects that labrun's configs need, registered with Hydra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from labrun.compose import composed, parsed, paths, speedups
from labrun.config import hydra_versions, masking
from labrun.errors import LabrunError
from labrun.runs import machine
from labrun.runs.record import is_scoring
from labrun.submission import origin

OPEN = {"script": ("arguments", "inputs", "metrics", "tables"), "dataset": ("train", "validation", "test", "predict")}
"""Keys of each group below which the user may add any key."""


class UserConf(SearchPathPlugin):
    """Puts the user's own configs before labrun's. `register` registers it in this process only."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = paths.user_conf_dir()
        if own is not None:
            search_path.prepend("labrun-user", f"file://{own}", anchor="main")


def default_name(root: DictConfig) -> str:
    """Resolve `labrun_name`: the name of the experiment, else data set and model."""
    hydra_config = root.hydra if "hydra" in root else HydraConfig.get()
    choices = dict(hydra_config.runtime.choices)
    for override in composed.task_overrides(hydra_config):
        # A swept choice has no single value, but is part of the sweep's name.
        key, _, value = override.partition("=")
        if key in ("experiment", "dataset", "model") and "," in value:
            choices[key] = value.replace(",", "+")
    if is_scoring(root.task):
        return str(root.task)
    if choices.get("experiment") == "script" and root.script.path:
        return Path(str(root.script.path)).stem or "script"
    if choices.get("experiment"):
        return str(choices["experiment"]).replace("/", "-")
    return f"{choices.get('dataset')}-{choices.get('model')}".replace("/", "-")


def default_cpus(_parent_: Any = None) -> int:
    """Resolve `labrun_cpus`, the default number of cores per run: all cores of this machine, or of `compute.host` if
    that is set; 1 in a sweep.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return 1
    host = None if _parent_ is None else _parent_.get("host")
    if host is None:
        return machine.cores()
    from labrun.remote import backend, remotes

    try:
        return backend.facts(remotes.get(str(host))).cores
    except LabrunError:  # an unknown or unreachable host is reported before anything runs
        return 1


def groups_text(root: DictConfig) -> str:
    """Resolve `labrun_groups`: each config group with its options, for `--help`."""
    lines = []
    sources = root.hydra.runtime.get("config_sources") or () if "hydra" in root else ()
    for group, options in paths.groups([Path(one.path) for one in sources if one.schema == "file"]).items():
        lines.append(f"  {group}")
        lines += [f"    {name:<22}{text}" for name, text in options.items()]
    return "\n".join(lines).replace("$", "$$")


def register() -> None:
    """Register labrun's resolvers, search path and open nodes with Hydra, in this process."""
    masking.register()
    hydra_versions.register_resolver("labrun_id", origin.new_id, use_cache=True)
    hydra_versions.register_resolver("labrun_cpus", default_cpus)
    hydra_versions.register_resolver("labrun_groups", lambda *, _root_: groups_text(_root_))
    hydra_versions.register_resolver("labrun_name", lambda *, _root_: default_name(_root_))
    if str(Path.cwd()) not in sys.path:
        # Last, so that the user's modules are found but never hide an installed package.
        sys.path.append(str(Path.cwd()))
    Plugins.instance().register(UserConf)  # creating the instance also loads the user's own plug-ins
    # Hydra copies its config sources, including this store, for each look-up of a group: 150 times for `--help`.
    # Sharing the store is safe: nothing is added to the copies, and configs are copied when loaded from them.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    parsed.remember()
    speedups.apply()
    store = ConfigStore.instance()
    for group, keys in OPEN.items():
        if store.get_type(f"{group}/_open.yaml") == ObjectType.NOT_FOUND:  # Hydra 1.4 deprecates storing it again
            store.store(name="_open", node=open_node(*keys), group=group)


def open_node(*keys: str) -> DictConfig:
    """Return a config that accepts any name below its keys, which a YAML file cannot express."""
    node = OmegaConf.create({key: {} for key in keys})
    for key in keys:
        OmegaConf.set_struct(node[key], False)
    return node
