"""An empty datastore of each type, on a real server."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import servers
from servers import Server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if importlib.util.find_spec("moto") is None:  # its import takes half a second in each worker
        pytest.skip("needs moto[server], of the group dev")
    with servers.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if servers.sshd_command() is None:
        pytest.skip("needs openssh's sshd: tests/storage/install fetches it")
    with servers.sftp(tmp_path_factory.mktemp("sftp")) as server:
        yield server


FIXTURES = {"azure_blob": "azurite_server", "s3": "s3_server", "sftp": "sftp_server"}


@pytest.fixture(params=["local", "azure_blob", "s3", "sftp"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty root of each writable datastore type."""
    if request.param == "local":
        folder = tmp_path / "local-store"
        return Server("local", {"name": "local", "root": str(folder)}, {}, folder, [f"root={folder}"])
    return fresh(request.getfixturevalue(FIXTURES[request.param]), monkeypatch)


@pytest.fixture
def azure(azurite_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An empty container."""
    return fresh(azurite_server, monkeypatch)


def fresh(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same server with a new root, and its environment variables set."""
    name = f"t{uuid.uuid4().hex[:12]}"
    root = f"{server.node['root']}/{name}" if server.kind == "sftp" else f"{name}/folder"
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    overrides = [f"root={root}", *(o for o in server.overrides if not o.startswith("root="))]
    return replace(server, node={**server.node, "root": root}, overrides=overrides)
