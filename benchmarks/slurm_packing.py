"""Speedup of many short runs in one Slurm allocation over one Slurm job per run.

Both sides are the same command with different `compute.runs_per_job`, measured from start to end on a cluster on this
machine (`tests/cluster/start-slurm` starts one). Slurm's daemons and jobs are not children of this script, so the load
by other processes is measured only in the seconds before each side.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass

import common
import psutil

FASTER = 10.0
"""Claimed minimum speedup."""
LOOK_S = 3.0
"""Time to measure the load of the machine before each side, in seconds."""


@dataclass(frozen=True)
class Side:
    """Sweep of one side."""

    name: str
    runs: int
    jobs: int
    seconds: float
    first: float
    """Seconds from the start of the command to the end of the first run."""
    busy: float
    """Share of the machine in use before the start."""

    @property
    def per_run(self) -> float:
        return self.seconds / self.runs


def measure(name: str, runs: int, runs_per_job: int) -> Side:
    """Run a sweep of logistic regressions on the digits."""
    busy = psutil.cpu_percent(interval=LOOK_S) / 100
    overrides = [
        f"model.regularization={','.join(common.spread(runs))}",
        "compute=slurm",
        f"compute.runs_per_job={runs_per_job}",
    ]
    sweep = common.labrun_sweep(f"{name}, {runs} runs (machine {busy:.0%} busy before)", overrides)
    states = {record["status"] for record in sweep.records}
    if states != {"completed"} or len(sweep.records) != runs:
        sys.exit(f"{name}: {len(sweep.records)} of {runs} runs, {', '.join(sorted(states))}")
    jobs = {(record["job"] or {}).get("id") for record in sweep.records}
    first, _ = sweep.command.find(r"^1/\d+  ")
    return Side(name, runs, len(jobs), sweep.command.time.seconds, first, busy)


def row(side: Side, wanted: int) -> list[str]:
    """Return the table row of one side."""
    return [
        side.name,
        str(side.runs),
        str(side.jobs),
        f"{side.first:.1f}",
        f"{side.seconds:.1f}",
        f"{1000 * side.per_run:.0f}",
        f"{side.per_run * wanted:.0f}",
        f"{side.busy:.0%}",
    ]


def verdict(packed: Side, single: Side) -> str:
    """Return a sentence on whether the claim holds."""
    times = single.per_run / packed.per_run
    scaled = "" if single.runs == packed.runs else f", the second side scaled up from {single.runs} runs"
    return (
        f"Claim: {packed.runs} runs in one allocation at least {FASTER:g} times faster than as a job each. "
        f"Measured: {times:.1f} times{scaled}. **{'Holds' if times >= FASTER else 'Missed'}.**"
    )


def cluster() -> str:
    """Describe the nodes of the cluster.

    Raises:
        SystemExit: there is no cluster.
    """
    if shutil.which("sinfo") is None:
        sys.exit("there is no Slurm on this machine; tests/cluster/start-slurm installs and starts one")
    found = subprocess.run(
        ["sinfo", "-h", "-o", "%P: %D nodes of %c CPUs"], check=False, capture_output=True, text=True
    )
    if found.returncode or not found.stdout.strip():
        sys.exit("Slurm does not answer; tests/cluster/start-slurm starts it")
    return next(line for line in found.stdout.splitlines() if "*" in line).replace("*", "")


def main() -> None:
    """Measure, and print the table."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="runs in the one allocation")
    parser.add_argument("--single-runs", type=int, default=40, help="runs on the other side, each a job of its own")
    options = parser.parse_args()
    nodes = cluster()
    packed = measure("one allocation", options.runs, options.runs)
    single = measure("a job for each run", options.single_runs, 1)
    what = (
        f"Logistic regressions on the digits. Cluster: Slurm, partition {nodes}, all of them on this one machine. From "
        f"the command's start to its end. The second side was measured with {single.runs} runs, and its time for "
        f"{packed.runs} is {packed.runs} times that of one of them."
    )
    header = [
        "",
        "runs",
        "Slurm jobs",
        "first run ended, s",
        "seconds",
        "ms per run",
        f"seconds for {packed.runs}",
        "machine busy before",
    ]
    table = common.table(header, [row(side, packed.runs) for side in (packed, single)])
    parts = [what, table, verdict(packed, single)]
    common.report("slurm_packing", "Short runs on Slurm", parts, ["submitit", "scikit-learn"], options.save)


if __name__ == "__main__":
    main()
