"""`Experiment`: in labrun, the name in a run's config."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from labrun.compat.azureml import absent
from labrun.compat.azureml.absent import not_here
from labrun.compat.azureml.training import script_context
from labrun.compat.azureml.training.workspace import Workspace
from labrun.runs import context

if TYPE_CHECKING:
    from labrun.compat.azureml.training.base import RunBase


class Experiment:
    """The experiment that the run belongs to.

    Args:
        workspace: not used: there is only one workspace.
        name: the experiment's name; None: the run's.
        **kwargs: other arguments of the SDK's constructor; not used.
    """

    def __init__(self, workspace: Any = None, name: str | None = None, **kwargs: Any) -> None:
        self.name = name or own_name()
        self.workspace = Workspace()

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name}, Workspace: {self.workspace.name})"

    def start_logging(self, *args: Any, **kwargs: Any) -> RunBase:
        """Return the run that this script belongs to: labrun has already started it."""
        from labrun.compat.azureml.training.run import Run

        run: RunBase = Run.get_context()
        return run

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a script without labrun does not start runs."""
        absent.submit_way("experiment.submit()")

    def get_runs(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a script without labrun sees only its own run."""
        not_here("experiment.get_runs()", "`lab runs`, or labrun.runs() in Python")


def own_name() -> str:
    """Return the name of the experiment that the script's run belongs to; `offline` outside a run."""
    run = context.current()
    return os.environ.get(script_context.EXPERIMENT_VARIABLE) or (
        "offline" if run is None else str(script_context.record(run.run_dir).get("name") or "")
    )
