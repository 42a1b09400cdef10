"""Settings that apply once per sweep: a run whose configuration has another value is refused.

They come from the sweep's own configuration, which is composed without the options that vary. Without this check, their
values in a swept experiment would be silently ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from labrun.compose import composed
from labrun.errors import ConfigError

OF_HYDRA = (("sweep", "dir"), ("sweeper",), ("launcher",))
"""Such settings in Hydra's node."""


def check(master: DictConfig, config: DictConfig) -> None:
    """Check that a run's configuration has the same sweep settings as the sweep's configuration.

    Args:
        master: the sweep's configuration.
        config: the run's configuration, including Hydra's node.

    Raises:
        ConfigError: settings differ; the message lists each key and what to type.
    """
    problems = []
    if _raw(config.sweep) != _raw(master.sweep):
        then, now = composed.kept(master.sweep), composed.kept(config.sweep)
        chosen, own = (one.hydra.runtime.choices.get("sweep") for one in (config, master))
        if chosen != own:
            problems.append(_refused(f"sweep={chosen}", f"sweep={own}"))
        else:
            changed = _differences(then, now, "sweep")
            problems += [_refused(f"{key}={_shown(new)}", f"{key}={_shown(old)}") for key, old, new in changed]
    for node, *keys in OF_HYDRA:
        if node == "sweep" and master.sweep.get("resume") is not None:  # the folder is that of the resumed sweep
            continue
        values = [_raw(one.hydra[node]) for one in (config, master)]
        if len({str(value.get(keys[0]) if keys else value) for value in values}) > 1:
            problems.append(
                f"hydra.{'.'.join((node, *keys))} applies to the whole sweep, but this run has another value: "
                "give it one value, on the command line or in a file that every run has"
            )
    if problems:
        raise ConfigError(problems)


def _refused(now: str, then: str) -> str:
    return (
        f"{now} in this run, but {then} for the sweep: it applies to the whole sweep. Give it one value, on the "
        "command line or in a file that every run has"
    )


def _raw(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _differences(old: Any, new: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys((*old, *new)):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}")
    elif old != new:
        yield key, old, new


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
