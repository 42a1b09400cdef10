"""Fixtures for the tests with remote machines."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from labrun.remote import helper


@pytest.fixture
def there(tmp_path: Path) -> helper.Helper:
    """The remote helper, running locally, for tests that need no remote machine."""
    answering = helper.Helper(io.BytesIO(), io.BytesIO())
    answering.root = str(tmp_path / "there")
    (tmp_path / "there").mkdir()
    return answering
