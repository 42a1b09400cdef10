"""Models that a script of the Azure ML SDK registers: carried out at the end of its run, if that has gone well."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from labrun.compat.azureml.training import promises
from labrun.errors import LabrunError
from labrun.runs import store
from labrun.runs.record import Record, RunPaths

log = logging.getLogger(__name__)

ELSEWHERE = "LABRUN_CARRIED_PATH"
"""Set where a run was carried to another machine: its models are registered where it came from."""


def of_script(record: Record, paths: RunPaths, attempt: int) -> None:
    """Register what the script asked for. A failure is logged; the training has completed and stays so."""
    left = promises.read(paths.root, attempt)
    if left and ELSEWHERE in os.environ:
        log.info("Models are registered when the run is brought back: %d", len(left))
        return
    register(store.workspace(), paths.root, left)


def register(root: Path, run_dir: Path, left: list[dict[str, Any]]) -> None:
    """Register models of a run.

    Args:
        root: the workspace.
        run_dir: the run.
        left: what `promises.read` gives.
    """
    if not left:
        return
    from labrun.registry import models

    numbers: dict[str, set[int]] = {}  # each call of the script has a version of its own, of the same file too
    for one in left:
        name, path = str(one.get("name")), str(one.get("path"))
        about = models.About(
            dict(one.get("tags") or {}), dict(one.get("properties") or {}), str(one.get("description") or "")
        )
        try:
            made = numbers.setdefault(name, set())
            version, is_new = models.register(
                root, run_dir, name, str(run_dir / path), about=about, by_itself=True, apart_from=made
            )
            made.add(version.number)
        except (LabrunError, OSError) as error:
            log.error("The model %r (%s) could not be registered: %s", name, path, error)
            continue
        log.info("Registered %s%s: %s", version.title, "" if is_new else " already", path)
        if version.number != one.get("version"):
            log.warning("%s: the script was told version %s", version.title, one.get("version"))
