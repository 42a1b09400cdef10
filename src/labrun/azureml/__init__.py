"""The control side of the Azure ML SDK v1, implemented by labrun: for scripts and notebooks that submit runs.

`azureml` becomes importable through `lab azureml run FILE`, through `%load_ext labrun.azureml` in a notebook's first
cell, or in the kernel that `lab azureml kernel` installs; in no other way. `names.py` lists the supported names.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Make `azureml` importable in this process and its child processes."""
    from labrun.azureml import entry_points

    entry_points.install()


def load_ipython_extension(ipython: Any) -> None:
    """Run `install` on `%load_ext labrun.azureml`."""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """Do nothing: imported modules stay imported."""
