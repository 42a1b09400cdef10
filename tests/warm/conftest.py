"""Fixtures for warm interpreters (see `warm_bench`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labrun.warm.fingerprint import CLOCK_S
from warm_bench import BENCHES, Bench


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for benches, old enough that a server trusts the time stamps of their files."""
    base = tmp_path_factory.mktemp("benches")
    folders = [base / str(number) for number in range(BENCHES)]
    for folder in folders:
        Bench(folder).furnish()
    time.sleep(CLOCK_S + 0.1)
    return iter(folders)


@pytest.fixture
def bench(furnished: Iterator[Path]) -> Iterator[Bench]:
    """A private bench without a server."""
    made = Bench(next(furnished))
    yield made
    made.close()


@pytest.fixture(scope="module")
def warm(furnished: Iterator[Path]) -> Iterator[Bench]:
    """A bench with a server, shared by several tests."""
    made = Bench(next(furnished))
    made.start_server()
    yield made
    made.close()
