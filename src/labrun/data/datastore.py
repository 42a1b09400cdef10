"""A datastore: the place where data lie. Here the local one; remote ones come through fsspec behind the same name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalDatastore:
    """A folder of this machine."""

    name: str
    root: Path
