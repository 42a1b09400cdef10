"""Reads and checks the settings of `hydra.sweeper`, also if they are for another sweeper."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hydra_plugins.labrun_sweeper import _sweeper_translation
from hydra_plugins.labrun_sweeper._nodes import NODE
from labrun.compose import paths
from labrun.config.checking import check_fields
from labrun.config.schema import Sweep
from labrun.errors import ConfigError
from labrun.search.plain_app.settings import Settings
from labrun.search.space import as_text

if TYPE_CHECKING:
    from hydra_plugins.labrun_sweeper.sweeper import LabrunSweeper

log = logging.getLogger(__name__)

NAMES = ("random", "tpe", "gp", "cmaes", "qmc")
SEARCHING = ("max_trials", "max_concurrent", "timeout_min", "goal", "zip", "resume")
"""Keys that a plain grid does not use."""
FIELDS = ("max_trials", "max_concurrent", "timeout_min", "seed", "zip")
"""Keys that are checked like those of `sweep`."""


def search_settings(sweeper: LabrunSweeper, arguments: Sequence[str]) -> tuple[Settings, list[str]] | None:
    """Return the settings and the space of a search; None if no sampler is set.

    Args:
        sweeper: the sweeper, after `setup`.
        arguments: overrides of the command.

    Returns:
        The settings, and the overrides, those of `hydra.sweeper.params` first.

    Raises:
        ConfigError: settings are invalid; lists every mistake.
    """
    params = {str(key): _sweeper_translation.plain(value) for key, value in (sweeper.params or {}).items()}
    given = dict(sweeper.settings)
    rest, typed = _as_in_labrun(sweeper, arguments)
    other = _sweeper_translation.detect_sweeper(given)
    if other is not None:
        given, params = _translated(other, given, params, sweeper.max_batch_size)
    elif sweeper.max_batch_size is not None and (typed.get("sampler") or given.get("sampler")):
        raise ConfigError(
            "hydra.sweeper.max_batch_size: the number of concurrent trials is hydra.sweeper.max_concurrent"
        )
    given.update(typed)
    unknown = [key for key in given if key not in NODE]
    if unknown:
        raise ConfigError([f"hydra.sweeper.{key}: no such key; there are {', '.join(_own_keys())}" for key in unknown])
    plain = {key: _sweeper_translation.plain(value) for key, value in given.items()}
    if plain.get("sampler") is None:
        idle = [key for key in SEARCHING if plain.get(key, NODE[key]) != NODE[key]]
        if idle:
            raise ConfigError(
                [
                    f"hydra.sweeper.{key} applies only to a search: also set hydra.sweeper.sampler="
                    f"{'grid' if key == 'zip' else 'tpe'}"
                    for key in idle
                ]
            )
        return None
    plain["sampler"] = _sampler(plain["sampler"])
    problems = _problems(plain)
    if problems:
        raise ConfigError(problems)
    if plain["sampler"] == "grid":
        plain["sampler"] = None
    plain["name"] = other or "labrun"
    settings = Settings(**{one.name: plain[one.name] for one in dataclasses.fields(Settings)})
    return settings, [*(f"{key}={as_text(value)}" for key, value in params.items()), *rest]


def _translated(
    sweeper: str, given: dict[str, Any], params: dict[str, Any], most_at_once: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the space of another sweeper in labrun's terms.

    Args:
        sweeper: name of the sweeper, which is not installed.
        given: its settings.
        params: its space.
        most_at_once: maximum number of concurrent trials; None: no limit.

    Raises:
        ConfigError: labrun cannot replace the sweeper; lists every reason.
    """
    found = _sweeper_translation.translate(sweeper, given, params, most_at_once)
    if found.refused:
        raise ConfigError(
            [f"hydra/sweeper={sweeper} is not installed, and labrun cannot replace it: {why}" for why in found.refused]
        )
    own = {key: given[key] for key in ("resume", "timeout_min", "seed", "max_concurrent") if given.get(key)}
    settings = " ".join(f"{key}={value}" for key, value in found.settings.items())
    log.info("hydra/sweeper=%s is not installed: labrun searches in its place (%s)", sweeper, settings)
    for remark in found.remarks:
        log.warning("hydra.sweeper.%s", remark)
    return {**NODE, **own, **found.settings}, dict(found.space)


def _problems(plain: Mapping[str, Any]) -> list[str]:
    """Return the mistakes in the settings of a search."""
    fields = {key: plain[key] for key in FIELDS}
    problems = list(check_fields(fields, Sweep, "hydra.sweeper"))
    if plain["goal"] not in ("minimize", "maximize"):
        problems.append(f"hydra.sweeper.goal={plain['goal']!r}: allowed are minimize and maximize, for one objective")
    if plain["sampler"] == "grid" and plain["resume"] is True:
        problems.append(
            "hydra.sweeper.resume=true: a grid starts over each time; random, tpe, gp, cmaes and qmc can be resumed"
        )
    rate = plain["max_failure_rate"]
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
        problems.append(f"hydra.sweeper.max_failure_rate={rate!r}: expected a number from 0 to 1, or null")
    if not isinstance(plain["resume"], bool):
        problems.append(f"hydra.sweeper.resume={plain['resume']!r}: expected true or false")
    return problems


def _own_keys() -> list[str]:
    return [key for key in NODE if not key.startswith("_")]


def _as_in_labrun(sweeper: LabrunSweeper, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate arguments such as `+sweep=tpe` and `+sweep.max_trials=9` from the others, and return them as settings.

    If the application has its own key `sweep`, nothing is separated.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given: dict[str, Any] = {}
    rest = []
    for text in arguments:
        found = re.fullmatch(r"\+\+?sweep(?:\.(\w+))?=(.*)", text)
        is_ours = found is not None and (found[1] in _own_keys() or (found[1] is None and found[2] in (*NAMES, "grid")))
        if found is None or not is_ours:
            rest.append(text)
            continue
        given[found[1] or "sampler"] = OverridesParser.create().parse_override(f"key={found[2]}").value()
    there = OmegaConf.select(sweeper.config, "sweep") if sweeper.config is not None else None
    if isinstance(there, DictConfig) and {str(key) for key in there} - set(given):
        return list(arguments), {}
    return rest, given


def _sampler(given: Any) -> dict[str, Any] | str:
    """Return the node of a sampler; `grid` for all combinations.

    Raises:
        ConfigError: there is no such sampler.
    """
    if isinstance(given, Mapping) and "_target_" in given:
        return dict(given)
    name = given.get("name", "tpe") if isinstance(given, Mapping) else given
    if name == "grid":
        return "grid"
    if name not in NAMES:
        raise ConfigError(
            f"hydra.sweeper.sampler={given!r}: allowed are grid, {', '.join(NAMES)}, or "
            "{_target_: optuna.samplers....} with its arguments"
        )
    import yaml

    text = (Path(paths.conf_dir()) / "sweep" / f"{name}.yaml").read_text(encoding="utf-8")
    node = dict(yaml.safe_load(text)["sampler"])
    return {**node, **(given if isinstance(given, Mapping) else {})}


def check_no_sweeper_settings(sweeper: LabrunSweeper) -> None:
    """Check that labrun's own runs set nothing in `hydra.sweeper`, because `sweep` replaces it.

    Raises:
        ConfigError: a key of `hydra.sweeper` is set; the message gives its replacement.
    """
    other = _sweeper_translation.detect_sweeper(sweeper.settings)
    if other is not None:
        found = _sweeper_translation.translate(other, sweeper.settings, sweeper.params, sweeper.max_batch_size)
        lines = [
            f"hydra/sweeper={other} is not used for labrun's own runs, which have their own searches: sweep=tpe "
            "(random, gp, cmaes, qmc), with sweep.max_trials, sweep.goal, sweep.seed (or sweep.sampler.seed) and "
            "sweep.space. Instead of these settings, use:",
            f"  labrun -m {' '.join(found.in_sweep())}",
            "in a YAML: 'override /sweep: tpe' in its defaults, not hydra/sweeper, and these keys under sweep",
        ]
        raise ConfigError("\n".join([*lines, *(f"  left out: {why}" for why in (*found.remarks, *found.refused))]))
    changed = [key for key, value in sweeper.settings.items() if value != NODE.get(key, value)]
    if changed:
        raise ConfigError([f"hydra.sweeper.{key}: labrun's own runs are searched with sweep.{key}" for key in changed])
