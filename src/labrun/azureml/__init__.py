"""The control side of the Azure ML SDK v1, carried out by labrun: scripts and notebooks that submit runs.

`lab azureml run FILE`, `%load_ext labrun.azureml` as a notebook's first cell, or the kernel of `lab azureml kernel`
make `azureml` importable; nothing else does. `names.py` lists what there is.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Make `azureml` importable in this process, and in those that it starts."""
    from labrun.azureml import ways

    ways.install()


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext labrun.azureml`."""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """What is imported stays."""
