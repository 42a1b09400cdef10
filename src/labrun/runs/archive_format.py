"""Format of an archive of runs: a tar file that holds the manifest and exactly the files listed in it.

outputs/<name>/<run>/...           runs, laid out as in a workspace
multirun/<name>/<sweep>/<n>/...    runs of sweeps, next to the sweep's `SWEEP_FILES`
code/<digest>/...                  the runs' code; each folder's name is its digest
labrun-export.json                 the manifest: `format`, `runs` (`id`, `name`, `folder`), `files` (`sha256`, `size`)
"""

from __future__ import annotations

from dataclasses import dataclass

from labrun.runs import context

MANIFEST = "labrun-export.json"
FORMAT = 1
NOT_TAKEN = frozenset({context.LAUNCH, "heartbeat", "requests"})
"""Top-level entries of a run's folder that concern only its machine."""
REPOSITORY = ".git"
"""Excluded at any depth: in such a folder, git executes commands from the repository's configuration."""
SWEEP_FILES = ("results.csv", "results_over_seed.csv", "report.html", "best.yaml", "multirun.yaml")


@dataclass(frozen=True)
class Limits:
    """Limits on the content of an archive."""

    gb: float = 50.0
    """Unpacked size, GB (2**30 bytes)."""
    ratio: float = 100.0
    """Unpacked size relative to the archive's."""
    files: int = 500_000
