"""What the compositions of labrun's configs begin with, merged before any command (`labrun.warm`)."""

from __future__ import annotations

import os
import sys
import warnings

from hydra import compose, initialize_config_dir

from labrun.app.resolvers import register
from labrun.compose import merged, paths
from labrun.config import hydra_versions
from labrun.fork import Fork


def merge() -> None:
    """Compose labrun's default config in a fork, and hold here what it has merged.

    In a fork, because Hydra finds plug-ins only once per process, and a command's folder may have some. This is safe:
    what was merged is held by the content of the configs.
    """
    with Fork(_merged) as fork:
        found = fork.result()
    if found is not None:
        merged.hold(found[0])


def _merged() -> merged.Merged:
    os.chdir("/")
    sys.path[:] = [entry for entry in sys.path if entry]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register()
        with initialize_config_dir(str(paths.conf_dir()), **hydra_versions.current_defaults()):
            compose("config", return_hydra_config=True)
    return merged.held()
