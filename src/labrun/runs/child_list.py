"""The list in a run's folder of the child runs and sweeps that its script has started.

Scripts' own interpreters import this too: Python 3.6, standard library only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from labrun._io import append_line
from labrun.runs import context

NAME = "children.jsonl"
FILE = os.path.join("requests", NAME)
"""The list, in a run's folder: one line a child, with its folder relative to the workspace."""
LARGEST = 2**24


def add(root: Path, run_dir: Path, child: Path) -> None:
    """Add a child run or sweep to the list of its parent.

    Args:
        root: the workspace.
        run_dir: the parent's folder.
        child: the child's folder.
    """
    (run_dir / "requests").mkdir(exist_ok=True)
    append_line(run_dir / FILE, json.dumps({"folder": os.path.relpath(str(child), str(root))}))


def read(run_dir: Path) -> list[str]:
    """Return the folders in a run's list, relative to the workspace, oldest first, whether or not they exist yet."""
    try:
        raw = context.content(os.path.join(str(run_dir), FILE), LARGEST)
    except OSError:
        return []
    found = []
    for text in raw.splitlines():
        try:
            found.append(str(json.loads(text)["folder"]))
        except (ValueError, KeyError, TypeError):
            continue  # a torn line of a killed process
    return found
