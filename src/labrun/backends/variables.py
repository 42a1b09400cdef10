"""The values of a run's own variables: records hold only their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from labrun import execute
from labrun.runs.record import HIDDEN


def known_here(names: Mapping[str, Any]) -> dict[str, str]:
    """Variables of which a record has only the names, or references, with their values in this process."""
    found = {name: os.environ.get(name) if value == HIDDEN else value for name, value in names.items()}
    return {name: str(value) for name, value in execute.here(found).items() if value is not None}


def missing(names: Mapping[str, Any]) -> list[str]:
    """Variables of a run whose values nobody here knows."""
    return [name for name, value in names.items() if value == HIDDEN and name not in os.environ]
