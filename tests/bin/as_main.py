"""Run another Python file in place of this one, as `python FILE` does. `cProfile` runs this: see `warm.py`."""

import os
import sys

from labrun.compat.azureml.runner import run_as_main

frame = sys._getframe()
while frame.f_back is not None and frame.f_code.co_name != "runctx":
    frame = frame.f_back
frame.f_locals["self"].disable()  # no profile is wanted, and from Python 3.12 on there can be only one
del sys.argv[0]
sys.path[:2] = [os.path.dirname(os.path.abspath(sys.argv[0]))]  # in place of this file's folder and the commands'
try:
    run_as_main(sys.argv[0])
except SystemExit as end:  # cProfile ignores it
    if end.code not in (None, 0):
        raise RuntimeError(f"the file exits with {end.code}") from end
