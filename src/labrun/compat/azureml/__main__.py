"""`python -m labrun.compat.azureml train.py ...`: try a script by hand, without a run; nothing is recorded."""

from __future__ import annotations

import sys

from labrun.compat.azureml import runner

if __name__ == "__main__":
    # `python -m` puts the working folder first; `python train.py` has the script's there.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    runner.main(sys.argv[1:])
