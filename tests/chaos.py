"""A sweep with random kill -9 of its runs, fork servers and controllers, resumed until it is complete.

As a program, for a large test: `LABRUN_WARM=1 python tests/chaos.py --runs 1000 --kills 200`.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from helpers import PLAIN, program, write_model
from labrun.runs.context import read_metrics
from labrun.runs.record import COMPLETED, RUNNING, newest_attempt, process_lives, read_record

KINDS = {"run": 6, "fork server": 3, "controller": 1}
"""Kinds of processes to kill, with their relative frequency."""
NEWEST = 20
"""Number of newest records that are searched for running processes."""


@dataclass
class Chaos:
    """A chaos test, and its statistics.

    Args:
        workspace: an empty folder.
        runs: number of runs of the sweep; each takes a third of a second.
        kills: maximum number of kills, one every third of a second on average.
        seed: seed of the choice of victims and times.
    """

    workspace: Path
    runs: int
    kills: int
    seed: int = 7
    killed: collections.Counter[str] = field(default_factory=collections.Counter)
    sessions: int = 0
    """Number of controllers used."""
    attempts: int = 0
    seconds: float = 0.0

    def run_to_completion(self) -> None:
        """Kill and resume until every run is done."""
        write_model(self.workspace)
        chance, began = random.Random(self.seed), time.monotonic()
        controller = self._start()
        victims = chance.choices(list(KINDS), weights=list(KINDS.values()), k=self.kills)
        while True:
            if controller.poll() is None and victims:
                time.sleep(chance.uniform(0.05, 0.6))
                try:
                    victim = self._victim(victims[-1], controller, chance)
                    if victim is not None and any(self.workspace.glob("multirun/*/*/*/attempts/1")):
                        victim.kill()
                        self.killed[victims.pop()] += 1
                except psutil.Error:
                    continue
            elif controller.poll() is None:
                controller.wait()
            else:
                message = controller.stderr.read().decode()
                assert "Traceback" not in message, message
                if controller.returncode == 0:
                    break
                controller = self._start("sweep.resume=last")
        self.seconds = time.monotonic() - began

    def check(self) -> None:
        """Check that every run exists once, completed once, and that its record has every attempt."""
        folders = sorted(path.parent for path in self.workspace.glob("multirun/*/*/*/run.json"))
        assert len(folders) == self.runs and len({folder.parent for folder in folders}) == 1
        for folder in folders:
            record = read_record(folder)
            assert record.status == COMPLETED
            ends = [attempt.status for attempt in record.attempts]
            assert ends.count("completed") == 1 and ends[-1] == "completed", (folder, ends)
            assert "running" not in ends
            assert len(ends) == newest_attempt(folder), "every claimed attempt is recorded"
            assert [line["name"] for line in read_metrics(folder)].count("accuracy") == 1
            self.attempts += len(ends)

    def _start(self, *more: str) -> psutil.Popen:
        self.sessions += 1
        values = ("-m", "model=sleeper", f"model.number=range({self.runs})", "model.seconds=0.3")
        command = program("labrun", *values, *PLAIN, *more)
        return psutil.Popen(command, cwd=self.workspace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _victim(self, kind: str, controller: psutil.Popen, chance: random.Random) -> psutil.Process | None:
        if kind == "controller":
            return controller
        files = sorted(self.workspace.glob("multirun/*/*/*/run.json"), key=lambda path: -path.stat().st_mtime)
        found = [read_record(path.parent) for path in files[:NEWEST]]
        running = [record.process for record in found if record.status == RUNNING]
        alive = [process.pid for process in running if process is not None and process_lives(process)]
        if not alive:
            return None
        run = psutil.Process(chance.choice(alive))
        if kind == "run":
            return run
        server = run.parent()  # if the server has just been killed, the parent is another program
        return server if server is not None and any("labrun" in part for part in server.cmdline()) else None


def main() -> None:
    """Run the test, and print its statistics."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), options.runs, options.kills, options.seed)
        chaos.run_to_completion()
        chaos.check()
    killed = ", ".join(f"{count} {kind}s" for kind, count in chaos.killed.items())
    print(
        f"{chaos.runs} runs under {chaos.killed.total()} kill -9 ({killed}) in {chaos.seconds:.0f} s: {chaos.sessions} "
        f"controllers, {chaos.attempts} attempts; every run is completed once, and its record tells each attempt"
    )


if __name__ == "__main__":
    main()
