"""Keeping the libraries to the threads that a run may use."""

from __future__ import annotations

import os
import sys

from labrun.launch.forkserver import THREAD_VARIABLES


def limit_threads(count: int) -> None:
    """Keep the libraries that are loaded by now to so many threads, and what is started from here too."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    limit_torch(count)


def limit_torch(count: int) -> None:
    """Keep torch, if it is loaded, to so many threads."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
