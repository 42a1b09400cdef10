"""Where MLflow's pages are to be seen: a small file that `lab ui` keeps while it is up. Imports no MLflow."""

from __future__ import annotations

import json
from pathlib import Path

from labrun.runs import context, store
from labrun.runs import record as records


def notes(root: Path) -> Path:
    """What MLflow has of each run: `tracking.json`."""
    return store.state_folder(root) / "tracking.json"


def _state(root: Path) -> Path:
    return store.state_folder(root) / "ui.json"


def announce(root: Path, address: str) -> None:
    """Say that this process shows MLflow at an address.

    Raises:
        RecordError: the folder cannot be written.
    """
    content = {"address": address, "process": records.process_identity()}
    records.replace_text(_state(root), json.dumps(content), to_disk=False)


def withdraw(root: Path) -> None:
    """Record that `lab ui` has stopped."""
    if ui_process(root) == records.process_identity()["pid"]:
        _state(root).unlink(missing_ok=True)


def ui_address(root: Path) -> str | None:
    """The address of the `lab ui` that shows this workspace now; None: there is none."""
    try:
        content = json.loads(context.content(_state(root)))
        return str(content["address"]) if records.process_lives(content["process"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def ui_process(root: Path) -> int | None:
    """That one's process id."""
    try:
        process = json.loads(context.content(_state(root)))["process"]
        return int(process["pid"]) if records.process_lives(process) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


TRAINING = "workflowType=machine_learning"
"""In an address, has MLflow show what it has for the training of models, and not what it has for language models:
without it the browser's own memory decides, and that begins with the latter."""


def page(root: Path, run_dir: Path) -> str | None:
    """The address of a run's own page; None: no `lab ui` is up, or MLflow has not got the run yet."""
    address, sent = ui_address(root), _sent(root, run_dir)
    return f"{address}/#/experiments/{sent[0]}/runs/{sent[1]}?{TRAINING}" if address and sent else None


def first_page(root: Path, address: str, run_dir: Path | None) -> str:
    """The page to begin with: the runs of an experiment, or all experiments.

    Args:
        root: the workspace.
        address: MLflow's.
        run_dir: a run of the experiment; one that MLflow has not got yet tells none.
    """
    sent = None if run_dir is None else _sent(root, run_dir)
    return f"{address}/#/experiments{f'/{sent[0]}/runs' if sent else ''}?{TRAINING}"


def mlflow_id(root: Path, run_dir: Path | None) -> str | None:
    """MLflow's own id of a run; None: it has not got the run yet."""
    sent = None if run_dir is None else _sent(root, run_dir)
    return sent[1] if sent else None


def _sent(root: Path, run_dir: Path) -> tuple[str, str] | None:
    """MLflow's ids of a run's experiment, and of the run."""
    try:
        sent = json.loads(context.content(notes(root)))["runs"][str(run_dir)]
        return str(sent["experiment"]), str(sent["mlflow_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
