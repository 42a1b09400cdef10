"""`python -m labrun.compat.azureml train.py ...`: try a script by hand, without a run or a record."""

from __future__ import annotations

import sys

from labrun.compat.azureml import runner

if __name__ == "__main__":
    # `python -m` puts the working folder first on the path; `python train.py` puts the script's folder there.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    runner.main(sys.argv[1:])
