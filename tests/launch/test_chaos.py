"""Two hundred runs under forty random kill -9 of runs, fork servers and controllers, resumed until done."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import psutil

from helpers import PLAIN, program, write_model
from labrun.runs import record as records
from labrun.runs.context import read_metrics

RUNS, KILLS = 200, 40


def start(workspace: Path, *more: str) -> psutil.Popen:
    values = ("-m", "model=sleeper", f"model.number=range({RUNS})", "model.seconds=0.1")
    command = program("labrun", *values, *PLAIN, *more)
    return psutil.Popen(command, cwd=workspace, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def victim(workspace: Path, controller: psutil.Popen, chance: random.Random) -> psutil.Process | None:
    """A run, the fork server, or the controller itself; None while there is none of the kind."""
    kind = chance.choices(["run", "server", "controller"], weights=[6, 3, 1])[0]
    if kind == "controller":
        return controller
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    running = [record.process for record in found if record.status == records.RUNNING]
    alive = [process["pid"] for process in running if process is not None and records.process_lives(process)]
    if not alive:
        return None
    run = psutil.Process(chance.choice(alive))
    server = run.parent()
    if kind == "run" or server is None:
        return run
    return server if any("labrun" in part for part in server.cmdline()) else None  # else it has just been killed


def test_two_hundred_runs_under_forty_kills(workspace: Path) -> None:
    """Over 15 s: forty kills, half a second apart, and each controller that follows composes two hundred runs."""
    write_model(workspace)
    chance, kills, sessions = random.Random(7), 0, 1
    controller = start(workspace)
    end = time.monotonic() + 900
    while True:
        assert time.monotonic() < end
        if controller.poll() is None and kills < KILLS:
            time.sleep(chance.uniform(0.05, 0.6))
            try:
                chosen = victim(workspace, controller, chance)
                if chosen is not None and any(workspace.glob("multirun/*/*/*/attempts/1")):
                    chosen.kill()
                    kills += 1
            except psutil.Error:
                continue
        elif controller.poll() is None:
            controller.wait()
        else:
            message = controller.stderr.read().decode()
            assert "Traceback" not in message, message
            if controller.returncode == 0 and kills == KILLS:
                break
            controller = start(workspace, "sweep.resume=last")
            sessions += 1
    assert kills == KILLS and sessions > 1

    folders = sorted(path.parent for path in workspace.glob("multirun/*/*/*/run.json"))
    assert len(folders) == RUNS and len({folder.parent for folder in folders}) == 1
    for folder in folders:
        record = records.read(folder)
        assert record.status == records.COMPLETED
        ends = [attempt["status"] for attempt in record.attempts]
        assert ends.count("completed") == 1 and ends[-1] == "completed", (folder, ends)
        assert "running" not in ends
        assert len(ends) == records.newest_attempt(folder), "every attempt that was claimed is told"
        assert [line["name"] for line in read_metrics(folder)].count("accuracy") == 1
    assert sum(len(records.read(folder).attempts) for folder in folders) > RUNS, "no kill hit a run"
