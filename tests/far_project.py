"""A project with a model that waits, and serves a port meanwhile; its `compute=box` is the pool of a machine."""

from __future__ import annotations

from pathlib import Path

SERVER = """
import http.server, os, threading, time
import numpy as np
import labrun

class Server:
    def __init__(self, seconds=0.0, port=0):
        self.seconds, self.port = seconds, port
    def fit(self, x, y):
        if self.port:
            server = http.server.HTTPServer(("127.0.0.1", self.port), http.server.SimpleHTTPRequestHandler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        time.sleep(self.seconds)
        return self
    def predict(self, x):
        return np.zeros(len(x), int)
"""


def write_project(folder: Path) -> None:
    """Write it."""
    (folder / "served.py").write_text(SERVER)
    for name, text in (
        ("model/served.yaml", "_target_: served.Server\nseconds: 0.0\nport: 0\n"),
        ("compute/box.yaml", "defaults:\n  - local\n  - _self_\nhost: box\n"),
    ):
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_text(text)
