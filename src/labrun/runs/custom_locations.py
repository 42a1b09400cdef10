"""Runs that lie where the user said (`hydra.sweep.dir`, `hydra.run.dir`, `hydra.sweep.subdir`), and not where runs lie.

Their folders are noted in `outputs/.labrun/elsewhere.jsonl` when they are submitted; a listing looks there too.
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

LAUNCH = ".launch"
"""What labrun keeps of the launch of a folder's runs lies in this folder below it (`sweep_state.SweepState`)."""
PLAN = Path(LAUNCH, "plan.json")
"""What the controller of a sweep's folder keeps there (`launch.jobs.Plan`)."""


def is_of_runs(folder: Path) -> bool:
    """Whether a folder is a run's or a sweep's, by what Hydra and labrun have put there. What it holds is not code."""
    hydra = folder / ".hydra"
    if (folder / PLAN).is_file() or any((hydra / name).is_file() for name in ("hydra.yaml", "overrides.yaml")):
        return True
    if (folder / "run.json").is_file():  # copied there, perhaps, or the user's own file of that name
        return any((folder / name).exists() for name in ("metrics.jsonl", "driver.log", "attempts"))
    return (folder / "multirun.yaml").is_file() and any(folder.glob("*/.hydra"))


DEPTHS = {"outputs": 3, "multirun": 4}
"""How deep in a workspace runs lie."""


def is_usual(parts: Sequence[str]) -> bool:
    """Whether that is a place for a run, by the names from the workspace's folder down."""
    return bool(parts) and len(parts) == DEPTHS.get(parts[0], -1)


def note(root: Path, state: Path, folder: Path, runs: Sequence[str]) -> None:
    """Remember a sweep's folder, or a run's, if a look through the workspace would not find its runs.

    Args:
        root: the workspace.
        state: where the note is kept.
        folder: the sweep's, or the run's.
        runs: the runs' folders, relative to that one; `.` where it is a run itself.
    """
    places = [Path(os.path.normpath(folder / run)) for run in runs]
    names = [place.relative_to(root).parts if place.is_relative_to(root) else () for place in places]
    hidden = any(part.startswith(".") for parts in names for part in parts)
    if (all(map(is_usual, names)) and not hidden) or folder in noted(state):
        return
    with contextlib.suppress(OSError):  # a listing will not show it; the run itself is whole
        state.mkdir(parents=True, exist_ok=True)
        append_line(state / "elsewhere.jsonl", json.dumps({"folder": str(folder)}), mode=0o666)


def noted(state: Path) -> list[Path]:
    """The folders that were noted, oldest first; a torn line is left out."""
    found: dict[Path, None] = {}
    with contextlib.suppress(OSError):
        for line in context.content(state / "elsewhere.jsonl").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                folder = Path(json.loads(line)["folder"])
                if folder.is_absolute() and "\0" not in str(folder):
                    found[folder] = None
    return list(found)


def run_dirs(state: Path) -> Iterator[Path]:
    """The folders of the runs there, of a sweep those that its plan names; they may hold no record any more."""
    for folder in noted(state):
        yield from runs_in(folder)


def runs_in(folder: Path) -> list[Path]:
    """The folders of the runs of a folder that was noted: itself, or those that its plan names."""
    if os.path.isfile(folder / "run.json"):  # False too of a name that no file can have
        return [folder]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        names = json.loads(context.content(folder / PLAN))["runs"]
        return [Path(os.path.normpath(folder / name)) for name in names if "\0" not in name]
    return []


RUN_ENTRIES = re.compile(
    r"run\.json|metrics\.jsonl|annotations\.jsonl|driver(\.\d+)?\.log|heartbeat|attempts|requests|logs|outputs|checkpoints"
    r"|work|\.hydra|\.launch"
)
"""What a run writes at the top of its folder."""
SWEEP_ENTRIES = re.compile(r"multirun\.yaml|results\.csv|(best|ensemble)\.yaml|report\.html|\.launch")
"""What a sweep writes at the top of its folder."""


def is_alone(state: Path, folder: Path) -> bool:
    """Whether a folder that was chosen for a run holds that run, and nothing else: not the user's files, nor others."""
    if folder not in set(run_dirs(state)) or not (folder / "run.json").is_file() or state.is_relative_to(folder):
        return False
    return all(RUN_ENTRIES.fullmatch(e.name) for e in folder.iterdir()) and not any(folder.glob("*/**/run.json"))
