"""Translation of settings for Hydra's Optuna, Ax and Nevergrad sweepers into those of labrun's sweeper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from labrun.errors import ConfigError
from labrun.search.space import as_element, as_text

KEYS = {
    "optuna": {
        "direction",
        "storage",
        "study_name",
        "n_trials",
        "n_jobs",
        "custom_search_space",
        "search_space",
    },
    "ax": {"ax_config"},
    "nevergrad": {"optim", "parametrization"},
}
"""Keys that identify settings for one of these sweepers without `stands_for`."""
NAMES = {
    "TPESampler": "tpe",
    "RandomSampler": "random",
    "CmaEsSampler": "cmaes",
    "GPSampler": "gp",
    "QMCSampler": "qmc",
}


@dataclass
class Translation:
    """The settings of another sweeper, translated.

    Attributes:
        name: name of the other sweeper.
        settings: keys of `hydra.sweeper` (`sampler`, `max_trials`, ...), which are those of `sweep` in labrun's runs.
        space: the search space, in Hydra's override grammar.
        remarks: notes on settings that are ignored or replaced, one line each.
        refused: settings that are not supported, one line each.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    space: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def in_sweep(self) -> list[str]:
        """Return the equivalent arguments of `labrun -m`."""
        sampler = self.settings.get("sampler") or "grid"
        if isinstance(sampler, str):
            words = [f"sweep={sampler}"]
        else:
            words = ["sweep=tpe", f"sweep.sampler._target_={sampler['_target_']}"]
        words += [f"sweep.{key}={value}" for key, value in self.settings.items() if key != "sampler"]
        return words + [f"'{key}={value}'" for key, value in self.space.items()]


def detect_sweeper(settings: Mapping[str, Any]) -> str | None:
    """Return the name of the sweeper that settings are for; None for labrun's own."""
    if settings.get("stands_for"):
        return str(settings["stands_for"])
    return next((name for name, keys in KEYS.items() if keys & set(settings)), None)


def translate(name: str, settings: Mapping[str, Any], params: Mapping[str, Any], batch: int | None) -> Translation:
    """Translate the settings of another sweeper.

    Args:
        name: name of that sweeper.
        settings: its keys of `hydra.sweeper`.
        params: `hydra.sweeper.params`.
        batch: `hydra.sweeper.max_batch_size`.
    """
    given = {key: plain(value) for key, value in settings.items()}
    found = Translation(name)
    if name == "optuna":
        _optuna(given, found)
    elif name == "ax":
        _ax(given, found, batch)
    else:
        _nevergrad(given, found)
    for key, value in params.items():
        _add(found, str(key), plain(value))
    return found


def plain(value: Any) -> Any:
    """Convert a config value to plain Python objects."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _optuna(given: dict[str, Any], found: Translation) -> None:
    chosen = given.get("sampler")
    if isinstance(chosen, str):  # one of labrun's names
        chosen = {"_target_": next((kind for kind, name in NAMES.items() if name == chosen), chosen)}
    sampler = {key: value for key, value in (chosen or {}).items() if value is not None}
    kind = str(sampler.pop("_target_", "optuna.samplers.TPESampler")).rpartition(".")[2]
    sampler.pop("_partial_", None)
    seed = sampler.pop("seed", None)
    if kind == "GridSampler":
        found.settings["sampler"] = "grid"
    elif kind in NAMES and not sampler:
        found.settings["sampler"] = NAMES[kind]
    else:
        found.settings["sampler"] = {"_target_": f"optuna.samplers.{kind}", **_accepted(kind, sampler, found)}
    found.settings["max_trials"] = given.get("n_trials", 20)
    if given.get("max_failure_rate") is not None:
        found.settings["max_failure_rate"] = given["max_failure_rate"]
    if given.get("n_jobs") not in (None, -1):
        found.settings["max_concurrent"] = given["n_jobs"]
    directions = given.get("direction") or "minimize"
    directions = directions if isinstance(directions, list) else [directions]
    directions = [str(one).rpartition(".")[2] for one in directions]
    if len(directions) > 1:
        found.refused.append(f"direction={directions}: several objectives; this search has one")
    found.settings["goal"] = directions[0]
    if seed is not None:
        found.settings["seed"] = seed
    if given.get("storage"):
        found.remarks.append("storage: the study is kept in the sweep's own folder")
    if given.get("custom_search_space"):
        found.refused.append("custom_search_space: labrun calls no function to build the space; write the space out")
    for key, node in (given.get("search_space") or {}).items():
        _add(found, str(key), node)


def _accepted(kind: str, sampler: dict[str, Any], found: Translation) -> dict[str, Any]:
    """Return the arguments that the sampler of the installed Optuna accepts."""
    from labrun.search.study import sampler_arguments  # imported here because it imports Optuna

    known = sampler_arguments(kind)
    if known is None:
        found.refused.append(f"sampler: the installed Optuna has no {kind}; tpe can replace most samplers")
        return {}
    gone = [key for key in sampler if key not in known]
    if gone:
        found.remarks.append(f"sampler: the installed Optuna's {kind} does not accept {', '.join(gone)}")
    return {key: value for key, value in sampler.items() if key in known}


def _ax(given: dict[str, Any], found: Translation, batch: int | None) -> None:
    config = given.get("ax_config") or {}
    experiment = config.get("experiment") or {}
    found.settings |= {"sampler": "gp", "max_trials": config.get("max_trials", 10)}
    found.settings["goal"] = "minimize" if experiment.get("minimize", True) else "maximize"
    if (config.get("client") or {}).get("random_seed") is not None:
        found.settings["seed"] = config["client"]["random_seed"]
    if batch is not None:
        found.settings["max_concurrent"] = batch
    for key in ("parameter_constraints", "outcome_constraints", "status_quo"):
        if experiment.get(key):
            found.refused.append(f"ax_config.experiment.{key}: this search does not support constraints")
    if config.get("early_stop"):
        found.remarks.append("ax_config.early_stop: the search runs all of its trials")
    for key, node in (config.get("params") or {}).items():
        _add(found, str(key), node)


def _nevergrad(given: dict[str, Any], found: Translation) -> None:
    optim = given.get("optim") or {}
    is_cma = "CMA" in str(optim.get("optimizer", ""))
    found.settings |= {"sampler": "cmaes" if is_cma else "tpe", "max_trials": optim.get("budget", 80)}
    found.settings["max_concurrent"] = optim.get("num_workers", 10)
    found.settings["goal"] = "maximize" if optim.get("maximize") else "minimize"
    if optim.get("seed") is not None:
        found.settings["seed"] = optim["seed"]
    if not is_cma:
        found.remarks.append(f"optim.optimizer={optim.get('optimizer', 'NGOpt')}: tpe replaces it")
    for key, node in (given.get("parametrization") or {}).items():
        _add(found, str(key), node)


def _add(found: Translation, key: str, node: Any) -> None:
    """Add the space of a parameter, given in the override grammar or in the format of one of the sweepers."""
    try:
        found.space[key] = _space(node) if isinstance(node, Mapping) else as_text(node)
    except (ConfigError, KeyError, TypeError, ValueError, IndexError) as error:
        found.refused.append(f"{key}: {node!r} is not a space that can be read ({type(error).__name__}: {error})")


def _space(node: Mapping[str, Any]) -> str:
    kind = node.get("type")
    if kind in ("categorical", "choice") or "choices" in node or "values" in node:
        return as_text(list(node.get("choices") or node["values"]))
    if kind == "fixed":
        return as_element(node["value"])
    bounds = node.get("bounds") or (node.get("low", node.get("lower")), node.get("high", node.get("upper")))
    low, high = bounds
    if low is None or high is None:
        raise ValueError("it has no bounds: give a lower and an upper one")
    whole = kind == "int" or node.get("integer") or node.get("value_type") == "int"
    whole = whole or (kind == "range" and isinstance(low, int) and isinstance(high, int) and "value_type" not in node)
    step = node.get("step") if kind in ("int", "float") else None
    if step and not node.get("log"):
        return f"range({low},{high + step},{step})" if whole else f"range({float(low)},{float(high) + step / 2},{step})"
    text = f"interval({low},{high})"
    text = f"int({text})" if whole else text
    return f"tag(log,{text})" if node.get("log") or node.get("log_scale") else text
