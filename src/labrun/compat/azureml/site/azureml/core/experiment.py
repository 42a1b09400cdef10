"""The experiment of the SDK: in labrun, the name that a run's config carries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from labrun.runs import context

from .. import _absent, _place
from .._absent import not_here
from .workspace import Workspace

if TYPE_CHECKING:
    from .._base import RunBase


class Experiment:
    """The experiment that the run belongs to.

    Args:
        workspace: whatever the script gives; there is one workspace.
        name: as the script would call it; by default the run's own.
        **kwargs: whatever else the SDK's constructor takes; not used.
    """

    def __init__(self, workspace: Any = None, name: str | None = None, **kwargs: Any) -> None:
        run = context.current()
        own = os.environ.get(_place.EXPERIMENT_VARIABLE) or (
            "offline" if run is None else str(_place.record(run.run_dir).get("name") or "")
        )
        self.name = name or own
        self.workspace = Workspace()

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name}, Workspace: {self.workspace.name})"

    def start_logging(self, *args: Any, **kwargs: Any) -> RunBase:
        """The run that this script belongs to: labrun has started it already."""
        from .run import Run

        run: RunBase = Run.get_context()
        return run

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a script does not start runs."""
        _absent.submit_way("experiment.submit()")

    def get_runs(self, *args: Any, **kwargs: Any) -> Any:
        """Not in labrun: a script sees its own run."""
        not_here("experiment.get_runs()", "`lab runs`, or labrun.runs() in Python")
