"""What an archive of runs is: a tar file with what `MANIFEST` names, and nothing else.

outputs/<name>/<run>/...           runs, as they lie in a workspace
multirun/<name>/<sweep>/<n>/...    and those of sweeps; beside them `SWEEP_FILES`
code/<digest>/...                  the code that they name, each folder called by its digest
labrun-export.json                 `format`, `runs` (`id`, `name`, `folder`), `files` (`sha256`, `size` of each)
"""

from __future__ import annotations

from dataclasses import dataclass

from labrun.runs.custom_locations import LAUNCH

MANIFEST = "labrun-export.json"
FORMAT = 1
NOT_TAKEN = frozenset({LAUNCH, "heartbeat", "requests"})
"""At the top of a run's folder, what says something of the machine that it was on, and nothing of the run."""
REPOSITORY = ".git"
"""Left out wherever it lies: git runs what the configuration of a repository says, as soon as somebody is in it."""
SWEEP_FILES = ("results.csv", "results_over_seed.csv", "report.html", "best.yaml", "multirun.yaml")


@dataclass(frozen=True)
class Limits:
    """What an archive may hold."""

    gb: float = 50.0
    """Gigabytes (2**30 bytes), unpacked."""
    ratio: float = 100.0
    """Times its own size."""
    files: int = 500_000
