"""The address of MLflow's UI, from a small file that `lab ui` keeps while it is running. Does not import MLflow."""

from __future__ import annotations

import json
from pathlib import Path

from labrun.runs import context
from labrun.runs.attempts import Process
from labrun.runs.record import process_identity, process_lives, replace_text
from labrun.runs.workspace import Workspace


def notes(root: Path) -> Path:
    """Return the path of `tracking.json`, the notes on what MLflow has of each run."""
    return Workspace(root).tracking


def _state(root: Path) -> Path:
    return Workspace(root).ui


def publish_address(root: Path, address: str) -> None:
    """Record that this process serves MLflow's UI at an address.

    Raises:
        RecordError: the folder cannot be written.
    """
    content = {"address": address, "process": process_identity().as_json()}
    replace_text(_state(root), json.dumps(content), to_disk=False)


def withdraw(root: Path) -> None:
    """Record that `lab ui` has stopped."""
    if ui_process(root) == process_identity().pid:
        _state(root).unlink(missing_ok=True)


def ui_address(root: Path) -> str | None:
    """Return the address of the `lab ui` that is serving this workspace; None if there is none."""
    try:
        content = json.loads(context.content(_state(root)))
        return str(content["address"]) if process_lives(Process.of(content["process"])) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def ui_process(root: Path) -> int | None:
    """Return the process id of the `lab ui` that is serving this workspace; None if there is none."""
    try:
        process = json.loads(context.content(_state(root)))["process"]
        return int(process["pid"]) if process_lives(Process.of(process)) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


TRAINING = "workflowType=machine_learning"
"""URL parameter that makes MLflow show its pages for model training instead of those for language models. Without it,
the browser's stored choice decides, which defaults to the latter."""


def page(root: Path, run_dir: Path) -> str | None:
    """Return the URL of a run's page; None if no `lab ui` is running, or MLflow does not have the run yet."""
    address, sent = ui_address(root), _sent(root, run_dir)
    return f"{address}/#/experiments/{sent[0]}/runs/{sent[1]}?{TRAINING}" if address and sent else None


def first_page(root: Path, address: str, run_dir: Path | None) -> str:
    """Return the URL of the start page: the runs of an experiment, or all experiments.

    Args:
        root: the workspace.
        address: address of MLflow's UI.
        run_dir: a run of the experiment; None, or a run that MLflow does not have yet: all experiments.
    """
    sent = None if run_dir is None else _sent(root, run_dir)
    return f"{address}/#/experiments{f'/{sent[0]}/runs' if sent else ''}?{TRAINING}"


def mlflow_id(root: Path, run_dir: Path | None) -> str | None:
    """Return MLflow's id of a run; None if MLflow does not have the run yet."""
    sent = None if run_dir is None else _sent(root, run_dir)
    return sent[1] if sent else None


def _sent(root: Path, run_dir: Path) -> tuple[str, str] | None:
    """Return MLflow's ids of a run's experiment and of the run; None if MLflow does not have the run yet."""
    try:
        sent = json.loads(context.content(notes(root)))["runs"][str(run_dir)]
        return str(sent["experiment"]), str(sent["mlflow_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
