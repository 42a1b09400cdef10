"""`Experiment`: in labrun, the name in a run's config."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from labrun.compat.azureml import absent, arguments, finder
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
        **private: the SDK's private arguments; not used.

    Raises:
        TypeError: there is no such argument.
    """

    def __init__(self, workspace: Any = None, name: str | None = None, **private: Any) -> None:
        arguments.check(Experiment.__init__, private)
        self.name = name or own_name()
        self.workspace = Workspace()

    def __repr__(self) -> str:
        return f"Experiment(Name: {self.name}, Workspace: {self.workspace.name})"

    def start_logging(
        self,
        name: Any = None,
        run_id: Any = None,
        outputs: Any = None,
        snapshot_directory: Any = ".",
        display_name: Any = None,
        parent: Any = None,
        tags: Any = None,
        properties: Any = None,
        **unknown: Any,
    ) -> RunBase:
        """Return the run that this script belongs to: labrun has already started it.

        Args:
            name: the run's display name, unless `display_name` is given.
            run_id: not used: labrun assigns the ids.
            outputs: not used: `./outputs` belongs to the run; a notice says so.
            snapshot_directory: not used: the code was frozen at submission.
            display_name: the run's display name.
            parent: not used: the run already has its place.
            tags: tags to set.
            properties: properties to add.
            **unknown: refused.

        Raises:
            TypeError: there is no such argument.
        """
        arguments.check(Experiment.start_logging, unknown)
        # By name: a run returns its experiment, so the module of `Run` imports this one.
        own = finder.find("azureml.core", "Run").get_context()
        run: RunBase = described(own, outputs, display_name or name, tags, properties)
        return run

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a script without labrun does not start runs."""
        absent.submit_way("experiment.submit()")

    def get_runs(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a script without labrun sees only its own run."""
        not_here("experiment.get_runs()", "`lab runs`, or labrun.runs() in Python")


def described(run: Any, outputs: Any, display_name: Any, tags: Any, properties: Any) -> Any:
    """Add what `start_logging` was given to the run that already exists, and return that run."""
    if outputs not in (None, True, False, "outputs", "./outputs"):
        arguments.tell_unused("start_logging", {"outputs": outputs}, "./outputs belongs to this script's run")
    shown = {"display_name": display_name} if display_name else {}
    if tags or shown:
        run.set_tags({**(tags or {}), **shown})
    if properties:
        run.add_properties(properties)
    return run


def own_name() -> str:
    """Return the name of the experiment that the script's run belongs to; `offline` outside a run."""
    run = context.current()
    return os.environ.get(script_context.EXPERIMENT_VARIABLE) or (
        "offline" if run is None else str(script_context.record(run.run_dir).get("name") or "")
    )
