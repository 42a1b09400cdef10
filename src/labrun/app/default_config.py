"""What the compositions of labrun's configs begin with, merged before any command (`labrun.warm`)."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from contextlib import suppress

from hydra import compose, initialize_config_dir

from labrun.app.resolvers import register
from labrun.compose import merged, paths
from labrun.config import hydra_versions


def merge() -> None:
    """Compose labrun's default config in a fork, and hold here what it has merged.

    In a fork, because Hydra finds plug-ins only once per process, and a command's folder may have some. This is safe:
    what was merged is held by the content of the configs.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.chdir("/")
            sys.path[:] = [entry for entry in sys.path if entry]
            with open(writing, "wb") as pipe:
                pickle.dump(_merged(), pipe, pickle.HIGHEST_PROTOCOL)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe, suppress(EOFError, pickle.UnpicklingError):
        merged.hold(pickle.load(pipe))  # noqa: S301 - from this process's own fork
    os.waitpid(pid, 0)


def _merged() -> merged.Merged:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        register()
        with initialize_config_dir(str(paths.conf_dir()), **hydra_versions.current_defaults()):
            compose("config", return_hydra_config=True)
    return merged.held()
