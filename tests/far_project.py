"""A project whose script waits and serves a port meanwhile. Its `compute=box` is a machine's pool."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

import far
from labrun.remote import environment

SERVER = """
import argparse, http.server, threading, time

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=0.0)
parser.add_argument("--port", type=int, default=0)
args = parser.parse_args()
if args.port:
    server = http.server.HTTPServer(("127.0.0.1", args.port), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(args.seconds)
print("accuracy 1.0")
"""
SERVED = ("experiment=script", "script.path=served.py", "script.metrics.accuracy='accuracy (.*)'")
"""Arguments that run the project's script."""


def write_project(folder: Path) -> None:
    """Write the project to a folder."""
    (folder / "served.py").write_text(SERVER)
    box = folder / "conf" / "compute" / "box.yaml"
    box.parent.mkdir(parents=True, exist_ok=True)
    box.write_text("defaults:\n  - local\n  - _self_\nhost: box\n")


def small_uv(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace uv by a program that starts it, as each sending of the real one takes seconds of CPU time."""
    (folder / "uv").write_text(f'#!/bin/sh\n[ -x /opt/uv ] && exec /opt/uv "$@"\nexec {far.UV} "$@"\n')
    (folder / "uv").chmod(0o755)
    monkeypatch.setattr(environment, "local_uv", lambda: folder / "uv")


def only_tinything(folder: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> environment.RequiredPackages:
    """Make the local environment appear to have a single package, whose wheel pip finds only in a local folder.

    Args:
        folder: folder of the test; the wheel is in its subfolder `house`.
        monkeypatch: fixture of the test.
        more: a remote folder with further packages of the environment.
    """
    house = folder / "house"
    house.mkdir()
    with zipfile.ZipFile(house / "tinything-1.0-py3-none-any.whl", "w") as file:
        file.writestr("tinything.py", "ANSWER = 42\n")
        if more:
            file.writestr("tinything.pth", f"{more}\n")
        file.writestr("tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        file.writestr("tinything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n")
        file.writestr("tinything-1.0.dist-info/RECORD", "")
    wanted = environment.RequiredPackages(f"{sys.version_info.major}.{sys.version_info.minor}", ("tinything==1.0",))
    monkeypatch.setattr(environment, "required_packages", lambda: wanted)
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(house)), ("UV_PYTHON_DOWNLOADS", "never")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return wanted
