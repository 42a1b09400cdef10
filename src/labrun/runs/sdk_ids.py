"""IDs of searches and their runs in the form of the Azure ML SDK: `HD_<uuid>`, `AutoML_<uuid>_3`.

The UUID begins with labrun's ID of the search, and its other digits are derived from that ID, so nothing is stored.
Uses only the standard library, since scripts need these IDs, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

HYPERDRIVE, AUTOML = "HD", "AutoML"
PIPELINE = "labrun.models.pipeline.pipeline"
"""The model of all runs of an AutoML search."""
LABRUN_ID = re.compile(r"[0-9a-f]{8}")
SDK_ID = re.compile(r"(?:HD|AutoML)_([0-9a-f]{8})(-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12})(?:_(\d+))?")


def of_search(own: str, is_automl: bool) -> str:
    """Return a search's ID in the SDK's form, or `own` unchanged if it is not eight hexadecimal digits.

    Args:
        own: labrun's ID of the search.
        is_automl: whether it searches for a pipeline.
    """
    return f"{AUTOML if is_automl else HYPERDRIVE}_{own}{_rest(own)}" if LABRUN_ID.fullmatch(own) else own


def of_run(own: str, sweep: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """Return a run's ID in the SDK's form: based on the search's ID for a run of a search, otherwise `own`.

    Args:
        own: labrun's ID of the run.
        sweep: `sweep` of the run's record.
        config: the run's config.
    """
    number = (sweep or {}).get("number")
    search = os.path.basename(str((sweep or {}).get("folder") or "")).rpartition("-")[2]
    if type(number) is not int or not LABRUN_ID.fullmatch(search):
        return own
    return f"{of_search(search, (config.get('model') or {}).get('_target_') == PIPELINE)}_{number}"


def parts(shown: str) -> tuple[str, int | None] | None:
    """Split an ID in the SDK's form into labrun's ID of the search and the run's number in it; None for other IDs."""
    found = SDK_ID.fullmatch(shown)
    if found is None or found[2] != _rest(found[1]):
        return None
    return found[1], None if found[3] is None else int(found[3])


def _rest(own: str) -> str:
    digits = hashlib.sha256(own.encode()).hexdigest()
    return f"-{digits[:4]}-4{digits[4:7]}-8{digits[7:10]}-{digits[10:22]}"
