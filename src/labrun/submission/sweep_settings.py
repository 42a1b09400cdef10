"""Settings that apply to a whole sweep: a run that has another value is refused.

They come from the sweep's own configuration, which is composed without the options that vary, or from the first run.
Without these checks, their values in the other runs would be silently ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from labrun.compose import composed
from labrun.errors import ConfigError

OF_HYDRA = (("sweep", "dir"), ("sweeper",), ("launcher",))
"""Such settings in Hydra's node."""
OF_COMPUTE = ("target", "host", "detach", "python", "max_parallel", "max_failures")
"""Such keys of `compute`, for every backend."""


def check_composed(master: DictConfig, config: DictConfig) -> None:
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


def check_frozen(configs: Sequence[Mapping[str, Any]], of_backend: Sequence[str]) -> None:
    """Check that the runs of a sweep have the same tracking, and the same limits and place in `compute`.

    Args:
        configs: the configs in the runs' records.
        of_backend: further keys of `compute` that the backend reads once per sweep (`Backend.once_per_sweep`).

    Raises:
        ConfigError: two runs have different values.
    """
    for group, keys in (("compute", (*OF_COMPUTE, *of_backend)), ("tracking", configs[0]["tracking"])):
        for key in keys:
            found = sorted({str(one[group].get(key)) for one in configs})
            if len(found) > 1:
                raise ConfigError(f"{group}.{key} applies to the whole sweep, but its runs have {' and '.join(found)}")


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
