"""Duration of `lab runs` with 10,000 records: the first time, later, and right after a record has changed.

Run it with: python benchmarks/listing.py --save
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from labrun.runs.record import read_record, write_record

LAB = [sys.executable, "-c", "from labrun.cli import main; main()", "runs"]


def make(root: Path, count: int) -> Path:
    """Create `count` runs, copies of a real record with other ids, and return the folder of the last one."""
    labrun = [sys.executable, "-m", "labrun", "tracking=none", "report=none"]
    subprocess.run(labrun, cwd=root, check=True, capture_output=True)
    (source,) = root.glob("outputs/*/*/run.json")
    content = json.loads(source.read_text(encoding="utf-8"))
    for number in range(count - 1):
        run_dir = root / "outputs" / f"experiment-{number % 20}" / f"2026-11-21_00-00-00-c{number:07d}"
        run_dir.mkdir(parents=True)
        content["id"], content["name"] = f"c{number:07d}", f"experiment-{number % 20}"
        (run_dir / "run.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return run_dir


def timed(root: Path, *arguments: str) -> float:
    """Return the duration of the whole command, in seconds."""
    began = time.perf_counter()
    done = subprocess.run([*LAB, *arguments], cwd=root, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    assert done.stdout
    return seconds


def main() -> None:
    """Measure, and print the table."""
    parser = common.parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="records in the workspace")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        last = make(root, options.runs)
        sides = {"the first time": [timed(root)], "later": [timed(root) for _ in range(5)]}
        sides["right after a record changed"] = [timed(root) for _ in range(5) if change(last)]
        some = ("--where", "accuracy>0.9", "--sort", "accuracy", "-n", "5")
        sides["with filters"] = [timed(root, *some) for _ in range(5)]
    rows = [(what, common.middle_and_range(seconds, 2)) for what, seconds in sides.items()]
    what = (
        f"{options.runs:,} records, copies of a real one. Seconds for the whole command `lab runs`, its start and its "
        "output too. Bars: under 10 s the first time, under 1 s later, and right after a record changed."
    )
    parts = [what, common.table(["", "seconds"], rows)]
    common.report("listing", "`lab runs` on many records", parts, ["hydra-core"], options.save)


def change(run_dir: Path) -> bool:
    """Rewrite a record."""
    record = read_record(run_dir)
    record.notes += "x"
    write_record(run_dir, record)
    return True


if __name__ == "__main__":
    main()
