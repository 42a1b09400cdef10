"""A connection that breaks in the middle of a file."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labrun.data import stores
from labrun.data.stores import azure as azure_store
from servers import Server

MB = 2**20


class Cutting(socketserver.ThreadingTCPServer):
    """Passes bytes on to a server, and breaks the first `cuts` answers off once they are longer than `after`."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port: int, after: int, cuts: int) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.port, self.after, self.cuts = port, after, cuts
        self.lock = threading.Lock()


class Passing(socketserver.BaseRequestHandler):
    server: Cutting

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as there:
            threading.Thread(target=self._pass, args=(self.request, there), daemon=True).start()
            sent = 0
            with contextlib.suppress(OSError):
                while piece := there.recv(65536):
                    self.request.sendall(piece)
                    sent += len(piece)
                    with self.server.lock:
                        if sent > self.server.after and self.server.cuts:
                            self.server.cuts -= 1
                            return

    @staticmethod
    def _pass(here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := here.recv(65536):
                there.sendall(piece)
            there.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def cutting(server: Server, after: int, cuts: int) -> Iterator[tuple[Cutting, dict[str, Any]]]:
    """A proxy, and the datastore's node that leads through it."""
    connection = server.node["connection_string"]
    found = re.search(r"127\.0\.0\.1:(\d+)", connection)
    assert found is not None
    with Cutting(int(found[1]), after, cuts) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        through = connection.replace(found[0], f"127.0.0.1:{proxy.server_address[1]}")
        yield proxy, {**server.node, "connection_string": through}
        proxy.shutdown()


@pytest.mark.parametrize("streams", [1, 2])
def test_a_download_resumes_where_it_was_cut(
    azure: Server, tmp_path: Path, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_store, "RANGE_BYTES", 2 * MB)
    content = os.urandom(6 * MB)
    (tmp_path / "sent").write_bytes(content)
    stores.make(azure.node).send(tmp_path / "sent", "file", lambda moved: None)
    with cutting(azure, after=MB // 4, cuts=12) as (proxy, node), open(tmp_path / "back", "wb") as target:
        heard: list[int] = []
        store = stores.make(node)
        store.streams = streams
        store.fetch("file", target, heard.append)
        assert proxy.cuts == 0
    assert (tmp_path / "back").read_bytes() == content
    assert sum(heard) == len(content)
