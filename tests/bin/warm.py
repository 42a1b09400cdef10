"""`labrun` and `lab` as in their console scripts, except that a cold command leaves no warm interpreter behind.

`python FILE` runs a Python file in the same interpreter. It calls `main` of any module that it can import; that of
`cProfile` runs a file.
"""

import os
import sys

from labrun.warm import client, starting

name = sys.argv.pop(1)
sys.argv[0] = os.path.join(os.path.dirname(sys.executable), name)
sys.path[0] = os.path.dirname(sys.executable)  # as in a console script, so that both share a warm interpreter
if sys.argv[1:2] != ["warm"]:
    starting.start = lambda *arguments: None
if name == "python":
    sys.argv[1:1] = ["-o", os.devnull, os.path.join(os.path.dirname(os.path.abspath(__file__)), "as_main.py")]
    client.run_and_exit(lambda: client._command("cProfile"))
else:
    {"labrun": client.labrun, "lab": client.lab}[name]()
