"""The experiment of the SDK: in labrun, the name that a run's config carries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.training import place
from labrun.compat.azureml.training.workspace import Workspace
from labrun.runs import context

if TYPE_CHECKING:
    from labrun.compat.azureml.training.base import RunBase


class Experiment:
    """The experiment that the run belongs to.

    Args:
        workspace: whatever the script gives; there is one workspace.
        name: as the script would call it; by default the run's own.
        **kwargs: whatever else the SDK's constructor takes; not used.
    """

    def __init__(self, workspace: Any = None, name: str | None = None, **kwargs: Any) -> None:
        self.name = name or own_name()
        self.workspace = Workspace()

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name}, Workspace: {self.workspace.name})"

    def start_logging(self, *args: Any, **kwargs: Any) -> RunBase:
        """The run that this script belongs to: labrun has started it already."""
        from labrun.compat.azureml.training.run import Run

        run: RunBase = Run.get_context()
        return run

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a script does not start runs."""
        absent.submit_way("experiment.submit()")

    def get_runs(self, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a script sees its own run."""
        not_here("experiment.get_runs()", "`lab runs`, or labrun.runs() in Python")


def own_name() -> str:
    """The name of the experiment that the script's run belongs to; `offline` outside of a run."""
    run = context.current()
    return os.environ.get(place.EXPERIMENT_VARIABLE) or (
        "offline" if run is None else str(place.record(run.run_dir).get("name") or "")
    )
