"""Runs without a script: `experiment.start_logging()` and `run.child_run()`."""

from __future__ import annotations

from typing import Any, NoReturn

from labrun.compat.azureml.absent import not_here

WAY = "put what is logged into a script, and submit that: ScriptRunConfig(source_directory, script)"


def start(experiment: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """A run of this program."""
    not_here("experiment.start_logging() outside of a run", WAY)


def child(run: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """A run below another."""
    not_here("run.child_run()", WAY)
