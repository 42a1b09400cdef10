"""Conversion of a run's record to the form of the SDK's `get_details`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from labrun.azureml.tags import ENVIRONMENT_TAG, TARGET_TAG
from labrun.compat.azureml.training.files import LogFiles
from labrun.runs import definition, files
from labrun.runs.groups import DataEntry


def details(run: Any) -> dict[str, Any]:
    """Return a run's details under the SDK's names.

    Args:
        run: a `labrun.azureml.run.Run`.
    """
    work = run._work
    if run._is_sweep:
        children = work.get_children()
        first = children[0].record.config if children else {}
        return {
            "runId": run.id,
            "target": run._notes.get(TARGET_TAG) or (first.get("compute") or {}).get("target"),
            "status": run.get_status(),
            "startTimeUtc": definition.utc(min((c.record.started for c in children if c.record.started), default=None)),
            **_end(max((c.record.ended for c in children if c.record.ended), default=None) if work.is_over else None),
            "properties": run.properties,
            "inputDatasets": [],
            "outputDatasets": [],
            "logFiles": {work.log_file().name: str(work.log_file())} if work.log_file().exists() else {},
            "submittedBy": None,
        }
    record, notes = work.record, run._notes
    return {
        "runId": run.id,
        "target": notes.get(TARGET_TAG) or (record.config.get("compute") or {}).get("target"),
        "status": run.get_status(),
        "startTimeUtc": definition.utc(record.started),
        **_end(record.ended),
        **_error(run),
        "properties": run.properties,
        "tags": run.tags,
        "inputDatasets": [_input(entry, record.config) for entry in record.data],
        "outputDatasets": [],
        "runDefinition": named(definition.of(record.config), notes),
        "logFiles": LogFiles(
            {name: str(work.folder / name) for name in files.of(work.folder) if name.endswith(".log")}
        ),
        "submittedBy": None,
    }


def _end(moment: str | None) -> dict[str, Any]:
    """Return the end time as an entry. As in the SDK, an active run has no such entry."""
    return {"endTimeUtc": definition.utc(moment)} if moment else {}


def _error(run: Any) -> dict[str, Any]:
    """Return the failure in the SDK's form. Other runs have no such entry: scripts test for it with `in`."""
    if run.get_status() != "Failed":
        return {}
    failure = (None if run._is_sweep else run._work.record.reason) or run._work.failure()
    return {"error": {"error": {"code": "UserError", "message": failure, "details": []}}}


def _input(entry: DataEntry, config: dict[str, Any]) -> dict[str, Any]:
    """Return a record's input in the SDK's form."""
    reference = str(entry.input or entry.asset or "")
    aliases = (config.get("script") or {}).get("inputs") or {}
    name = next((alias for alias, mount in aliases.items() if reference and reference in str(mount)), reference)
    return {
        "dataset": {"id": reference},
        "consumptionDetails": {"type": "RunInput", "inputName": name, "mechanism": "Mount"},
        **entry.as_json(),
    }


def named(found: dict[str, Any], properties: dict[str, str]) -> dict[str, Any]:
    """Return a run definition with the target and environment names from the control script."""
    target, environment = properties.get(TARGET_TAG), properties.get(ENVIRONMENT_TAG)
    return {
        **found,
        **({"target": target} if target else {}),
        **({"environment": {"name": environment}} if environment else {}),
    }


def restore(run: Any, target: Path) -> str:
    """Copy a run's frozen code into `target/snapshot_ID` and return that path."""
    code = run._work.record.code
    folder = None if code is None or code.script is None else code.script.folder
    copy = target / f"snapshot_{run.id}"
    if folder and Path(folder).is_dir():
        shutil.copytree(folder, copy, dirs_exist_ok=True)
    else:
        copy.mkdir(parents=True, exist_ok=True)
    return str(copy)
