"""What our configs refer to, made known to Hydra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from labrun import masking
from labrun.backends import machine
from labrun.config import composed, paths
from labrun.errors import LabrunError
from labrun.runs import record as records
from labrun.submission import freeze

OPEN = {"script": ("arguments", "inputs", "metrics", "tables"), "dataset": ("train", "validation", "test", "predict")}
"""Of each group, the keys below which the user names what a component of their own takes."""


class UserConf(SearchPathPlugin):
    """Puts the user's own configs in front of ours. Registered in this process alone, by `main`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = paths.user_conf_dir()
        if own is not None:
            search_path.prepend("labrun-user", f"file://{own}", anchor="main")


def default_name(root: DictConfig) -> str:
    """The resolver `labrun_name`: the experiment's name, else data set and model."""
    hydra_config = root.hydra if "hydra" in root else HydraConfig.get()
    choices = dict(hydra_config.runtime.choices)
    for override in composed.task_overrides(hydra_config):
        # A swept choice is in no single config, but it names the sweep.
        key, _, value = override.partition("=")
        if key in ("experiment", "dataset", "model") and "," in value:
            choices[key] = value.replace(",", "+")
    if records.is_scoring(root.task):
        return str(root.task)
    if choices.get("experiment") == "script" and root.script.path:
        return Path(str(root.script.path)).stem or "script"
    if choices.get("experiment"):
        return str(choices["experiment"]).replace("/", "-")
    return f"{choices.get('dataset')}-{choices.get('model')}".replace("/", "-")


def default_cpus(_parent_: Any = None) -> int:
    """The resolver `labrun_cpus`: all cores for a run that says nothing of them; those of `compute.host`, if it is set.

    In a sweep one.
    """
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return 1
    host = None if _parent_ is None else _parent_.get("host")
    if host is None:
        return machine.cores()
    from labrun.remote import backend, remotes

    try:
        return int(backend.facts(remotes.get(str(host)))["cores"])
    except LabrunError:  # an unknown or unreachable one is reported before anything runs
        return 1


def groups_text(root: DictConfig) -> str:
    """The resolver `labrun_groups`: each config group and its options, for `--help`."""
    lines = []
    sources = root.hydra.runtime.get("config_sources") or () if "hydra" in root else ()
    for group, options in paths.groups([Path(one.path) for one in sources if one.schema == "file"]).items():
        lines.append(f"  {group}")
        lines += [f"    {name:<22}{text}" for name, text in options.items()]
    return "\n".join(lines).replace("$", "$$")


def register() -> None:
    """Make known to Hydra, in this process, what our configs refer to."""
    masking.register()
    OmegaConf.register_new_resolver("labrun_id", freeze.new_id, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("labrun_cpus", default_cpus, replace=True)
    OmegaConf.register_new_resolver("labrun_groups", lambda *, _root_: groups_text(_root_), replace=True)
    OmegaConf.register_new_resolver("labrun_name", lambda *, _root_: default_name(_root_), replace=True)
    if str(Path.cwd()) not in sys.path:
        # Last, so that the user's module is found and never hides an installed package.
        sys.path.append(str(Path.cwd()))
    Plugins.instance().register(UserConf)  # which looks for the user's own plug-ins, too
    # For each look at a group Hydra copies its sources, this store of all configs among them: 150 times for `--help`.
    # Nothing is put into such a copy, and what is loaded from it is copied by itself.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    for group, keys in OPEN.items():
        ConfigStore.instance().store(name="_open", node=open_node(*keys), group=group)


def open_node(*keys: str) -> DictConfig:
    """A config whose keys take any name below them; a YAML file cannot say so."""
    node = OmegaConf.create({key: {} for key in keys})
    for key in keys:
        OmegaConf.set_struct(node[key], False)
    return node
