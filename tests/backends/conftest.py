"""The backends for the contract tests. `toy/` is a third-party backend, installed as a separate package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import installed
from labrun.backends import registry
from labrun.backends.base import Backend

TOY = Path(__file__).with_name("toy")


@pytest.fixture
def toy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package of a third-party backend, and a user's `conf/compute/` file that selects it."""
    shutil.copytree(TOY / "conf", workspace / "conf", dirs_exist_ok=True)
    with installed(TOY, registry.forget, monkeypatch):
        yield


@pytest.fixture(
    params=["inline", "local", pytest.param("slurm", marks=pytest.mark.cluster), "one_process_each", "remote"],
)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn. To test your own, add its name here, and a fixture for its requirements."""
    needs = {"slurm": "cluster", "one_process_each": "toy", "remote": "box"}
    if request.param in needs:
        request.getfixturevalue(needs[request.param])
    return registry.get(request.param)
