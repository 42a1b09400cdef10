"""`labrun` and `lab` as in their console scripts, except that a cold command leaves no warm interpreter behind."""

import os
import sys

from labrun.warm import client, starting

name = sys.argv.pop(1)
sys.argv[0] = os.path.join(os.path.dirname(sys.executable), name)
sys.path[0] = os.path.dirname(sys.executable)  # as in a console script, so that both share a warm interpreter
if sys.argv[1:2] != ["warm"]:
    starting.start = lambda *arguments: None
{"labrun": client.labrun, "lab": client.lab}[name]()
