"""Ids of searches and of their runs in the form that the Azure ML SDK gives them: `HD_<uuid>`, `AutoML_<uuid>_3`.

The uuid begins with labrun's own id of the search, and its other digits follow from that one: nothing is kept. With the
standard library alone: scripts see these ids, too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

HYPERDRIVE, AUTOML = "HD", "AutoML"
PIPELINE = "labrun.models.pipeline.pipeline"
"""The model of every run of an AutoML search."""
OWN = re.compile(r"[0-9a-f]{8}")
SHOWN = re.compile(r"(?:HD|AutoML)_([0-9a-f]{8})(-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12})(?:_(\d+))?")


def of_search(own: str, is_automl: bool) -> str:
    """A search's id in the SDK's form; labrun's own where that is none of eight digits.

    Args:
        own: labrun's id of the search.
        is_automl: it searches for a pipeline.
    """
    return f"{AUTOML if is_automl else HYPERDRIVE}_{own}{_rest(own)}" if OWN.fullmatch(own) else own


def of_run(own: str, sweep: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """A run's id in the SDK's form: of a search's run with the search's, of any other labrun's own.

    Args:
        own: labrun's id of the run.
        sweep: what the run's record says of its sweep.
        config: the run's.
    """
    number = (sweep or {}).get("number")
    search = os.path.basename(str((sweep or {}).get("folder") or "")).rpartition("-")[2]
    if type(number) is not int or not OWN.fullmatch(search):
        return own
    return f"{of_search(search, (config.get('model') or {}).get('_target_') == PIPELINE)}_{number}"


def parts(shown: str) -> tuple[str, int | None] | None:
    """labrun's id of the search, and the run's number in it, of an id in the SDK's form; None where it is not one."""
    found = SHOWN.fullmatch(shown)
    if found is None or found[2] != _rest(found[1]):
        return None
    return found[1], None if found[3] is None else int(found[3])


def _rest(own: str) -> str:
    digits = hashlib.sha256(own.encode()).hexdigest()
    return f"-{digits[:4]}-4{digits[4:7]}-8{digits[7:10]}-{digits[10:22]}"
