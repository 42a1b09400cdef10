"""Asset versions referenced by a digest prefix."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from labrun.data import assets
from labrun.data.digests import Entry, manifest_digest
from labrun.data.stores.local import LocalDatastore
from labrun.errors import MissingDataError


def entry(number: int) -> list[Entry]:
    return [Entry("file", 1, hashlib.sha256(str(number).encode()).hexdigest())]


def test_a_digest_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    """On a command line `dataset.version=12e456` is a number, and no text."""
    store = LocalDatastore("local", str(tmp_path))
    number = next(n for n in range(100_000) if re.fullmatch(r"[1-9]\d*e\d+", _version(n)[: assets.SHORTEST]))
    for n in (number, number + 1):
        assets.register(store, "set", f"set{n}", entry(n), {})
    first = assets.get(store, "set", 1)
    assert assets.find(store, "set", float(first.version[: assets.SHORTEST])) == first
    with pytest.raises(MissingDataError, match=r"has no version 1\.5"):
        assets.find(store, "set", 1.5)


def _version(number: int) -> str:
    return manifest_digest(entry(number))
