"""The SDK's class, type and id for a labrun run or sweep."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from labrun.api import handles
from labrun.api.base import root_of
from labrun.azureml import folder
from labrun.azureml.tags import SEARCHES
from labrun.compat.azureml.training.run import TYPE_TAG
from labrun.runs import sdk_ids


class RunType(StrEnum):
    """The SDK's types of runs that have a class of their own. A run's type is any text."""

    HYPERDRIVE = "hyperdrive"
    AUTOML = "automl"
    INTERACTIVE = "azureml.interactive"
    """The run consists of the program that started it."""


CLASSES: Mapping[str, tuple[str, str]] = {
    RunType.HYPERDRIVE: ("hyperdrive", "HyperDriveRun"),
    RunType.AUTOML: ("automl_run", "AutoMLRun"),
    RunType.INTERACTIVE: ("interactive", "InteractiveRun"),
}
"""The module and class for a run type; every other type is a `Run`.

By name, because these classes are built on the modules that wrap runs.
"""


def wrapped(experiment: Any, work: Any, run_type: str | None = None) -> Any:
    """Wrap a labrun run or sweep in the SDK class for its type.

    Args:
        experiment: the experiment; None: the one in the run's record.
        work: labrun's run or sweep.
        run_type: the type of work that this program has just started; None for work that it has looked up.
    """
    if run_type is None and isinstance(work, handles.Sweep):
        run_type = type_of(work)
    module, name = CLASSES.get(run_type or "", ("run", "Run"))
    return getattr(importlib.import_module(f"labrun.azureml.{module}"), name)(experiment, work=work, run_type=run_type)


def type_of(sweep: Any) -> str:
    """Return a sweep's type: the submitted one or, if no control script submitted it, judged by its first run."""
    properties = folder.read_table(root_of(sweep.folder), SEARCHES).get(sweep.id) or {}
    if TYPE_TAG in properties:
        return str(properties[TYPE_TAG])
    from labrun.search.automl import is_pipeline  # here: it imports Optuna, which takes longer than most scripts

    children = sweep.get_children()
    return str(RunType.AUTOML if children and is_pipeline(children[0].record.config) else RunType.HYPERDRIVE)


def id_of(work: Any) -> str:
    """Return the id of a labrun run or sweep in the SDK's form."""
    if isinstance(work, handles.Sweep):
        return sdk_ids.of_search(work.id, type_of(work) == RunType.AUTOML)
    record = work.record
    return str(record.sdk_id)
