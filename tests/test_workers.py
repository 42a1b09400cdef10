"""The workers of `pytest -n`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from conftest import WORKERS, start_forking
from helpers import wait_for

CODE = "import os, sys; print(os.environ['OWN'], os.getppid(), 'numpy' in sys.modules)"
ENDLESS = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker is an interpreter of its own")
def test_a_worker_is_a_fork_that_is_killed_as_one_or_starts_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    monkeypatch.setenv("OWN", "mine")
    command = [sys.executable, str(WORKERS), "workers", "-u", "-c", CODE]
    server = start_forking("workers", "numpy.random")
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        endless = subprocess.Popen([*command[:-1], ENDLESS], stdout=subprocess.PIPE)
        assert endless.stdout is not None
        worker = psutil.Process(int(endless.stdout.readline()))
        endless.kill()
        wait_for(lambda: not worker.is_running())
        endless.communicate()
    finally:
        server.kill()
        server.wait()
    assert told == f"mine {server.pid} True\n"
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == f"mine {os.getpid()} False\n"
