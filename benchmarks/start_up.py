"""Time of a command to its first useful line and to its end: cold, and from a warm interpreter.

Run it with: python benchmarks/start_up.py --save
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import psutil

COMMANDS = (
    ("labrun",),
    ("labrun", "model=mnist_dnn", "trainer.max_epochs=1"),
    ("labrun", "--help"),
    ("labrun", "--cfg", "job"),
    ("lab", "runs"),
    ("lab", "models", "ls"),
    ("labrun", "-m", "model.regularization=0.1,1"),
    ("labrun", "experiment=script", "script.path=train.py"),
)
BARS = {COMMANDS[0]: 3.0, COMMANDS[1]: 6.0}
"""Claimed minimum speedup of a warm command over a cold one."""
CLIENT_S = 0.060
SCRIPT = "import labrun\nfor step in range(10):\n    labrun.log('loss', 1 / (step + 1), step=step)\n"
NOISE = re.compile(rb"^(Loading .*|Run [0-9a-f]{8} .*|\s*)$")
"""Output lines that do not count as useful."""
IDLE_S = 20.0


@dataclass
class Timed:
    """Times of one execution of a command, in seconds."""

    first_line: float
    end: float


def carried_out(command: Sequence[str], folder: Path, warm: bool) -> Timed:
    """Run a command, and record the time of its first useful line."""
    program = Path(sys.executable).with_name(command[0])
    environment = {**os.environ, "LABRUN_WARM": "1" if warm else "0"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(program), *command[1:]],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    first = None
    for line in process.stdout:
        if first is None and not NOISE.match(line):
            first = time.perf_counter() - began
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed: exit code {process.returncode}")
    end = time.perf_counter() - began
    return Timed(end if first is None else first, end)


def client_s(folder: Path, times: int) -> list[float]:
    """Return the time from the start of a client, without a server, until it would run the command itself."""
    code = (
        "import os, sys\nfrom labrun.warm import client, identity\n"
        "client.execute_here  # fails if it has another name now\n"
        "client.execute_here = lambda module: os._exit(0)\nclient.labrun()\n"
    )
    script = folder / "client.py"
    script.write_text(code)
    found = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, script], check=True, env={**os.environ, "LABRUN_WARM": "1"})
        found.append(time.perf_counter() - began)
    return found


def idle(pid: int) -> tuple[float, float]:
    """Return the memory of an idle server in GB (proportional set size), and its use of a core in percent."""
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(IDLE_S)
    used = sum(process.cpu_times()[:2]) - before
    return process.memory_full_info().pss / 2**30, 100 * used / IDLE_S


def main() -> None:
    """Measure, and print the tables."""
    parser = common.parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="number of times to run each command, cold and warm")
    parser.add_argument("--now", action="store_true", help="do not wait for a quiet machine: a trial")
    options = parser.parse_args()
    lab = str(Path(sys.executable).with_name("lab"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "train.py").write_text(SCRIPT)
        if not options.now:
            common.wait_until_quiet()
        sides: dict[tuple[str, ...], tuple[list[Timed], list[Timed]]] = {command: ([], []) for command in COMMANDS}
        with common.warm_interpreter() as ready_s:
            for _ in range(options.rounds):  # alternating, so that other load affects both sides equally
                for command, (cold, warm) in sides.items():
                    cold.append(carried_out(command, place, warm=False))
                    warm.append(carried_out(command, place, warm=True))
            clients = client_s(place, 4 * options.rounds)
            status = subprocess.run([lab, "warm", "status"], check=True, cwd=place, capture_output=True, text=True)
            memory, core = idle(int(status.stdout.splitlines()[1].split()[0]))
        mlflow = sorted(path.name for path in (place / "outputs" / ".labrun").glob("mlflow*"))
    rows = [row(command, cold, warm) for command, (cold, warm) in sides.items()]
    words = ["", "cold: first line", "end", "warm: first line", "end", "warm is faster by", "bar"]
    after = [
        f"A client without its command takes {1000 * statistics.median(clients):.0f} ms (bar: {1000 * CLIENT_S:.0f}). "
        f"The server is up {ready_s:.1f} s after `lab warm start`; idle it holds {memory:.2f} GB and uses {core:.2f} % "
        f"of a core. MLflow's files that the commands left: {', '.join(mlflow) or 'none'}."
    ]
    what = (
        "Each command as a process of its own, from its start; seconds: median (range). The first useful line is the "
        "first on standard output that is neither empty nor about loading, and names no run. "
        f"{options.rounds} times each, cold and warm in turn, files in the page cache."
    )
    common.report(
        "start_up",
        "Commands, cold and warm",
        [what, common.table(words, rows), *after],
        ["torch", "hydra-core"],
        options.save,
    )


def row(command: tuple[str, ...], cold: Sequence[Timed], warm: Sequence[Timed]) -> tuple[str, ...]:
    """Return a table row."""
    columns = [[one.first_line for one in cold], [one.end for one in cold]]
    columns += [[one.first_line for one in warm], [one.end for one in warm]]
    faster = statistics.median(columns[1]) / statistics.median(columns[3])
    bar = BARS.get(command)
    held = "" if bar is None else f"{bar:g}: {'holds' if faster >= bar else 'missed'}"
    return (f"`{' '.join(command)}`", *(common.middle_and_range(one, 2) for one in columns), f"{faster:.1f}", held)


if __name__ == "__main__":
    main()
