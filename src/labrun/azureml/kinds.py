"""Which class of the SDK a run is shown as."""

from __future__ import annotations

import importlib
from typing import Any

from labrun.search import automl as search

CLASSES = {
    "hyperdrive": ("hyperdrive", "HyperDriveRun"),
    "automl": ("automl_run", "AutoMLRun"),
}
"""A type, and the module and class that has it; every other type is a `Run`."""


def of(experiment: Any, work: Any, run_type: str | None) -> Any:
    """A run or sweep of labrun in the class of its type."""
    from labrun import api
    from labrun.azureml.run import Run

    if run_type is None and isinstance(work, api.Sweep):
        children = work.get_children()
        is_automl = bool(children) and search.is_pipeline(children[0].record.config)
        run_type = "automl" if is_automl else "hyperdrive"
    place = CLASSES.get(run_type or "")
    made = getattr(importlib.import_module(f"labrun.azureml.{place[0]}"), place[1]) if place else Run
    return made(experiment, work=work, run_type=run_type)
