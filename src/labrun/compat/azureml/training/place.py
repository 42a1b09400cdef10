"""Where the script is: its run's folder and record, the inputs, the workspace. All from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from labrun.runs import context

INPUTS_VARIABLE = "LABRUN_INPUTS"
"""JSON: the name of each input that the config mounted, and its local path."""
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
    text = os.environ.get(INPUTS_VARIABLE) or "{}"
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{INPUTS_VARIABLE} must hold a JSON object of names and paths, and holds {text}")
    return {str(name): str(path) for name, path in found.items()}


def workspace() -> Path:
    """The folder that holds `outputs/` and `multirun/`."""
    for variable in WORKSPACE_VARIABLES:
        if os.environ.get(variable):
            return Path(os.environ[variable]).absolute()
    return Path.cwd()
