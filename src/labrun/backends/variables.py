"""Values of a run's own environment variables, of which records hold only the names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from labrun.config.references import resolve_environment
from labrun.runs.record import HIDDEN

if TYPE_CHECKING:
    from labrun.config.schema import Variables


def known_here(names: Variables) -> dict[str, str]:
    """Return a run's variables with their values in this process; a record has only names or references."""
    found = {name: os.environ.get(name) if value == HIDDEN else value for name, value in names.items()}
    return {name: str(value) for name, value in resolve_environment(found).items() if value is not None}


def missing(names: Variables) -> list[str]:
    """Return the variables of a run whose values are unknown in this process."""
    return [name for name, value in names.items() if value == HIDDEN and name not in os.environ]
