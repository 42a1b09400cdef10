"""Runs at the start of each Python process of a script: spawned workers need the removed calls like their parent.

Python runs only the first `sitecustomize` on its path, so this one then runs the next.
This file must be valid Python 3.6.
"""

import importlib.machinery
import importlib.util
import os
import sys


def _run_next() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    others = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    from labrun.compat.azureml import legacy
except ImportError:
    # The interpreter was started without our path, or with `-I`: it has no azureml either.
    pass
else:
    legacy.install()
_run_next()
