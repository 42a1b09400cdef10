"""Checks of the settings in `hydra.launcher`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from hydra_plugins.labrun_launcher._node import NODE
from labrun.backends import registry
from labrun.config.checking import check_fields
from labrun.config.schema import Compute
from labrun.errors import ConfigError

OF_OTHERS = {
    "n_jobs": "max_parallel",
    "array_parallelism": "max_parallel",
    "cpus_per_task": "cpus_per_run",
    "gpus_per_node": "gpus_per_run",
    "additional_parameters": "extra",
}
"""Settings of Hydra's joblib and submitit launchers, with the names of labrun's equivalents."""


class LauncherSettings(Compute):
    """The settings of `hydra.launcher`, which are those of `compute`."""

    @classmethod
    def key(cls, name: str) -> str:
        """See `Compute.key`."""
        return f"hydra.launcher.{name}"

    @classmethod
    def choice(cls, option: str = "", target: str | None = None) -> str:
        """See `Compute.choice`."""
        return cls.key(f"target={target or option}")


def checked(settings: Mapping[str, Any]) -> tuple[Compute, bool]:
    """Check the settings for a plain application. Return them, and whether the output of the jobs is shown.

    Raises:
        CompactHydraException: a setting is invalid or not available; Hydra shows the error without a traceback.
    """
    given = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in settings.items()}
    shows = given.pop("show_output", False)
    known = [name for name in registry.values() if name != "auto"]
    if given["target"] not in known:
        *names, last = known
        problems = [f"hydra.launcher.target={given['target']!r}: allowed are {', '.join(names)} and {last}"]
    else:
        problems = list(check_fields(given, LauncherSettings, "hydra.launcher"))
        problems += [
            f"hydra.launcher.{key}, of another launcher, is called hydra.launcher.{ours} here"
            for key, ours in OF_OTHERS.items()
            if key in given
        ]
    if not isinstance(shows, bool):
        problems.append(f"hydra.launcher.show_output={shows!r}: expected true or false")
    if not problems:
        try:
            compute = LauncherSettings.of(given)
            registry.check(compute, sweep=True)
            return compute, bool(shows)
        except ConfigError as error:
            problems = error.problems
    raise CompactHydraException("labrun: " + "\n".join(problems))


def check_no_launcher_settings(settings: Mapping[str, Any]) -> None:
    """Check that labrun's own runs set nothing in `hydra.launcher`, because `compute` replaces it.

    Raises:
        ConfigError: a key of `hydra.launcher` is set.
    """
    for key, value in settings.items():
        if value != NODE[key] and key == "show_output":
            raise ConfigError("hydra.launcher.show_output is for other applications; lab runs logs -f shows a run's")
        if value != NODE[key]:
            raise ConfigError(f"hydra.launcher.{key}={value}: labrun's own runs are configured with compute.{key}")
