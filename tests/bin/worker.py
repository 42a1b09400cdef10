"""A worker of `pytest -n`: a fork of the session's warm interpreter, so that workers do not import PyTorch again.

xdist starts it in place of a Python, with that Python's options, and falls back to one if the fork is refused.
"""

import os
import sys
import time
from pathlib import Path

from labrun.warm import client, starting

LOADING_S = 120.0
"""How long to wait for the warm interpreter, in seconds."""

here, end = Path(__file__).parent, time.monotonic() + LOADING_S
while not any(Path(os.environ["LABRUN_WARM_DIR"]).glob("*.sock")) and time.monotonic() < end:
    time.sleep(0.1)
command = [sys.executable, *sys.argv[1:]]
client.execute_here = lambda module: os.execv(command[0], command)
starting.start = lambda *arguments: None
sys.path[0] = os.path.dirname(sys.executable)  # as in a console script, so that both share a warm interpreter
sys.argv[1:] = ["-o", os.devnull, str(here / "as_main.py"), str(here / "gateway.py")]
client._command("cProfile")
