"""The SDK's class, type and id for a labrun run or sweep."""

from __future__ import annotations

import importlib
from typing import Any

from labrun.api.base import root_of
from labrun.azureml import folder
from labrun.azureml.submitting import SEARCHES
from labrun.compat.azureml.training.run import TYPE_TAG
from labrun.runs import sdk_ids

CLASSES = {
    "hyperdrive": ("hyperdrive", "HyperDriveRun"),
    "automl": ("automl_run", "AutoMLRun"),
}
"""The module and class for a run type; every other type is a `Run`."""


def of(experiment: Any, work: Any, run_type: str | None) -> Any:
    """Wrap a labrun run or sweep in the class for its type."""
    from labrun.api import handles
    from labrun.azureml.run import Run

    if run_type is None and isinstance(work, handles.Sweep):
        run_type = type_of(work)
    class_path = CLASSES.get(run_type or "")
    made = getattr(importlib.import_module(f"labrun.azureml.{class_path[0]}"), class_path[1]) if class_path else Run
    return made(experiment, work=work, run_type=run_type)


def type_of(sweep: Any) -> str:
    """Return a sweep's type: the submitted one or, if no control script submitted it, judged by its first run."""
    properties = folder.read_table(root_of(sweep.folder), SEARCHES).get(sweep.id) or {}
    if TYPE_TAG in properties:
        return str(properties[TYPE_TAG])
    from labrun.search import automl as search  # here: it imports Optuna, which takes longer than most scripts

    children = sweep.get_children()
    return "automl" if children and search.is_pipeline(children[0].record.config) else "hyperdrive"


def id_of(work: Any) -> str:
    """Return the id of a labrun run or sweep in the SDK's form."""
    from labrun.api import handles

    if isinstance(work, handles.Sweep):
        return sdk_ids.of_search(work.id, type_of(work) == "automl")
    record = work.record
    return str(record.sdk_id)
