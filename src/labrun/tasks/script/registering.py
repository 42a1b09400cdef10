"""Registers the models that a script of the Azure ML SDK requested, at the end of a run that completed."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from labrun.compat.azureml.training import pending_models
from labrun.errors import LabrunError
from labrun.runs import store
from labrun.runs.record import Record, RunPaths

log = logging.getLogger(__name__)

REMOTE_VARIABLE = "LABRUN_CARRIED_PATH"
"""Set if a run was sent to another machine: its models are registered on the machine that it came from."""


def of_script(record: Record, paths: RunPaths, attempt: int) -> None:
    """Register the models that the script requested. A failure is only logged, since the training itself completed."""
    left = pending_models.read(paths.root, attempt)
    if left and REMOTE_VARIABLE in os.environ:
        log.info("Models to be registered when the run is fetched: %d", len(left))
        return
    register(store.workspace(), paths.root, left)


def register(root: Path, run_dir: Path, left: list[dict[str, Any]]) -> None:
    """Register models of a run.

    Args:
        root: the workspace.
        run_dir: the run's directory.
        left: the result of `pending_models.read`.
    """
    if not left:
        return
    from labrun.registry import models

    numbers: dict[str, set[int]] = {}  # each call of the script gets its own version, even for the same file
    for one in left:
        name, path = str(one.get("name")), str(one.get("path"))
        about = models.About(
            dict(one.get("tags") or {}), dict(one.get("properties") or {}), str(one.get("description") or "")
        )
        try:
            made = numbers.setdefault(name, set())
            version, is_new = models.register(
                root, run_dir, name, str(run_dir / path), about=about, by_run=True, exclude=made
            )
            made.add(version.number)
        except (LabrunError, OSError) as error:
            log.error("The model %r (%s) could not be registered: %s", name, path, error)
            continue
        log.info("Registered %s%s: %s", version.title, "" if is_new else " already", path)
        if version.number != one.get("version"):
            log.warning("%s: the script was told version %s", version.title, one.get("version"))
