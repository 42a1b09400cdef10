"""Runs in folders that the user chose (`hydra.sweep.dir`, `hydra.run.dir`, `hydra.sweep.subdir`).

Their folders are noted in `outputs/.labrun/elsewhere.jsonl` at submission, so that a listing finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from labrun._io import append_line
from labrun.runs import context
from labrun.runs.sweep_state import SweepState
from labrun.runs.workspace import Workspace


def is_of_runs(folder: Path) -> bool:
    """Return whether a folder is that of a run or a sweep, judging by Hydra's and labrun's files. Such folders are not
    code."""
    hydra = folder / context.HYDRA
    if SweepState(folder).plan.is_file() or any((hydra / name).is_file() for name in ("hydra.yaml", "overrides.yaml")):
        return True
    if (folder / "run.json").is_file():  # may be a copy, or an unrelated file of the user's
        return any((folder / name).exists() for name in ("metrics.jsonl", "driver.log", "attempts"))
    return (folder / "multirun.yaml").is_file() and any(folder.glob(f"*/{context.HYDRA}"))


DEPTHS = {"outputs": 3, "multirun": 4}
"""Depth of run folders in a workspace."""


def is_usual(parts: Sequence[str]) -> bool:
    """Return whether a path, given by its parts relative to the workspace, is a standard location for a run."""
    return bool(parts) and len(parts) == DEPTHS.get(parts[0], -1)


def note(root: Path, folder: Path, runs: Sequence[str]) -> None:
    """Remember the folder of a sweep or a run if a scan of the workspace would not find its runs.

    Args:
        root: the workspace.
        folder: the sweep's folder, or the run's.
        runs: the runs' folders, relative to `folder`; `.` if that is a run itself.
    """
    places = [Path(os.path.normpath(folder / run)) for run in runs]
    names = [place.relative_to(root).parts if place.is_relative_to(root) else () for place in places]
    hidden = any(part.startswith(".") for parts in names for part in parts)
    if (all(map(is_usual, names)) and not hidden) or folder in noted(root):
        return
    with contextlib.suppress(OSError):  # on failure only the listing is incomplete, not the run
        file = Workspace(root).custom_locations
        file.parent.mkdir(parents=True, exist_ok=True)
        append_line(file, json.dumps({"folder": str(folder)}), mode=0o666)


def noted(root: Path) -> list[Path]:
    """Return the noted folders of a workspace, oldest first; torn lines are skipped."""
    found: dict[Path, None] = {}
    with contextlib.suppress(OSError):
        for line in context.content(Workspace(root).custom_locations).splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                folder = Path(json.loads(line)["folder"])
                if folder.is_absolute() and "\0" not in str(folder):
                    found[folder] = None
    return list(found)


def run_dirs(root: Path) -> Iterator[Path]:
    """Yield the run folders of a workspace's noted folders, those of a sweep from its plan.

    They may no longer hold a record.
    """
    for folder in noted(root):
        yield from runs_in(folder)


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders of a noted folder: the folder itself, or those in its plan."""
    if os.path.isfile(folder / "run.json"):  # False, not an error, if the name is invalid
        return [folder]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        names = json.loads(context.content(SweepState(folder).plan))["runs"]
        return [Path(os.path.normpath(folder / name)) for name in names if "\0" not in name]
    return []


RUN_ENTRIES = re.compile(
    r"run\.json|metrics\.jsonl|annotations\.jsonl|driver(\.\d+)?\.log|heartbeat|attempts|requests|logs|outputs|checkpoints"
    r"|work|\.hydra|\.launch"
)
"""Top-level entries that a run creates in its folder."""
SWEEP_ENTRIES = re.compile(r"multirun\.yaml|results\.csv|(best|ensemble)\.yaml|report\.html|\.launch")
"""Top-level entries that a sweep creates in its folder."""


def is_alone(root: Path, folder: Path) -> bool:
    """Return whether a folder that the user chose for a run holds only that run: no other files, no other runs."""
    if folder not in set(run_dirs(root)) or not (folder / "run.json").is_file():
        return False
    if Workspace(root).state.is_relative_to(folder):
        return False
    return all(RUN_ENTRIES.fullmatch(e.name) for e in folder.iterdir()) and not any(folder.glob("*/**/run.json"))
