"""The script's context, from environment variables: its run's record, its inputs, the workspace."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from labrun.runs import context

INPUTS_VARIABLE = "LABRUN_INPUTS"
"""The variable with the inputs as JSON: the local path of each mounted input, by name."""
TABLES_VARIABLE = "LABRUN_TABLES"
"""The variable with the inputs' table definitions as JSON, by name; see `tables`."""
EXPERIMENT_VARIABLE = "LABRUN_EXPERIMENT"
WORKSPACE_VARIABLES = ("LABRUN_WORKSPACE", "LABRUN_ROOT")


def record(run_dir: Path) -> dict[str, Any]:
    """Return the run's record with its current tags and properties; empty if it cannot be read."""
    try:
        content = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return context.annotated(run_dir, content)


def inputs() -> dict[str, str]:
    """Return the local path of each input of this run, by name.

    Raises:
        ValueError: the variable does not hold a JSON object.
    """
    return {name: str(path) for name, path in _mapping(INPUTS_VARIABLE, "names and paths").items()}


def tables() -> dict[str, Any]:
    """Return the table definitions of this run's inputs, by name.

    Raises:
        ValueError: the variable does not hold a JSON object.
    """
    return _mapping(TABLES_VARIABLE, "names and definitions")


def _mapping(variable: str, what: str) -> dict[str, Any]:
    text = os.environ.get(variable) or "{}"
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{variable} must hold a JSON object of {what}, but holds {text}")
    return {str(name): value for name, value in found.items()}


def asset_name(name: str) -> str:
    """Return labrun's asset name for a data set's name, which may contain spaces: `diabetes-dataset`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", str(name).strip()).strip("-._")
    return plain[:100] or "dataset"


def alias(name: str) -> str:
    """Return a name as a valid input name for the command line."""
    return re.sub(r"\W+", "_", str(name).strip()) or "data"


def workspace() -> Path:
    """Return the folder that holds `outputs/` and `multirun/`."""
    for variable in WORKSPACE_VARIABLES:
        if os.environ.get(variable):
            return Path(os.environ[variable]).absolute()
    return Path.cwd()
