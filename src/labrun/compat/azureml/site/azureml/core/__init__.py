"""`from azureml.core import ...`: what training scripts use, and a stand-in for every other name."""

from __future__ import annotations

from typing import Any

from .. import _absent
from ..exceptions import NotInLabrun
from .dataset import Dataset
from .datastore import Datastore
from .experiment import Experiment
from .model import Model
from .run import Run
from .workspace import Workspace

VERSION = __version__ = "1.60.0"
"""The last release of the SDK: scripts print it, and some compare it."""

__all__ = ["VERSION", "Dataset", "Datastore", "Experiment", "Model", "NotInLabrun", "Run", "Workspace"]


def __getattr__(name: str) -> Any:
    return _absent.stand_in(__name__, name)
