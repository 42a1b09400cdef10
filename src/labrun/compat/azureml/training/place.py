"""Where the script is: its run's folder and record, the inputs, the workspace. All from the environment."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from labrun.runs import context

INPUTS_VARIABLE = "LABRUN_INPUTS"
"""JSON: the name of each input that the config mounted, and its local path."""
TABLES_VARIABLE = "LABRUN_TABLES"
"""JSON: how inputs are read as tables, by name; see `tables`."""
EXPERIMENT_VARIABLE = "LABRUN_EXPERIMENT"
WORKSPACE_VARIABLES = ("LABRUN_WORKSPACE", "LABRUN_ROOT")


def record(run_dir: Path) -> dict[str, Any]:
    """The run's record with its tags and properties as they are now; empty while none can be read."""
    try:
        content = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return context.annotated(run_dir, content)


def inputs() -> dict[str, str]:
    """The inputs of this run: name and local path.

    Raises:
        ValueError: the variable does not hold what labrun puts there.
    """
    return {name: str(path) for name, path in _mapping(INPUTS_VARIABLE, "names and paths").items()}


def tables() -> dict[str, Any]:
    """How inputs of this run are read as tables.

    Raises:
        ValueError: the variable does not hold what labrun puts there.
    """
    return _mapping(TABLES_VARIABLE, "names and definitions")


def _mapping(variable: str, what: str) -> dict[str, Any]:
    text = os.environ.get(variable) or "{}"
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{variable} must hold a JSON object of {what}, and holds {text}")
    return {str(name): value for name, value in found.items()}


def asset_name(name: str) -> str:
    """The name of an asset of labrun for a data set's name, which may hold blanks: `diabetes-dataset`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", str(name).strip()).strip("-._")
    return plain[:100] or "dataset"


def alias(name: str) -> str:
    """A name as the command line takes it for an input."""
    return re.sub(r"\W+", "_", str(name).strip()) or "data"


def workspace() -> Path:
    """The folder that holds `outputs/` and `multirun/`."""
    for variable in WORKSPACE_VARIABLES:
        if os.environ.get(variable):
            return Path(os.environ[variable]).absolute()
    return Path.cwd()
