"""Keeping the libraries to the threads that a run may use."""

from __future__ import annotations

import os
import sys


def limit_threads(count: int) -> None:
    """Keep the libraries that are loaded by now to so many threads, and what is started from here too."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(count)
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
