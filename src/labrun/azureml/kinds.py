"""Which class of the SDK a run is shown as."""

from __future__ import annotations

import importlib
from typing import Any

from labrun.azureml.submitting import TYPE_TAG

CLASSES = {
    "hyperdrive": ("hyperdrive", "HyperDriveRun"),
    "automl": ("automl", "AutoMLRun"),
}
"""A type, and the module and class that has it; every other type is a `Run`."""


def of(experiment: Any, work: Any, run_type: str | None) -> Any:
    """A run or sweep of labrun in the class of its type."""
    from labrun import api
    from labrun.azureml.run import Run

    if run_type is None and isinstance(work, api.Sweep):
        children = work.get_children()
        run_type = (children[0].record.properties.get(TYPE_TAG) if children else None) or "hyperdrive"
        run_type = run_type.partition("/")[0]
    place = CLASSES.get(run_type or "")
    try:
        made = getattr(importlib.import_module(f"labrun.azureml.{place[0]}"), place[1]) if place else Run
    except ModuleNotFoundError:
        made = Run
    return made(experiment, work=work, run_type=run_type)
