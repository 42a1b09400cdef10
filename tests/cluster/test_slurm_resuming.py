"""Sweeps and searches on a real Slurm cluster whose controller dies, and reattaching to their jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import Command
from helpers import lab, statuses, sweep_dir, wait_for
from labrun.backends.slurm import backend
from labrun.runs.record import read_record
from slurm_jobs import SLURM, begin, finished, has_begun, no_jobs_left, single, sleeping, squeue, write_script

__all__ = ["no_jobs_left"]


def test_another_controller_takes_over_detached_jobs(workspace: Path, labrun: Command) -> None:
    """Over 15 s: jobs are new interpreters."""
    limits = ("compute.detach=true", "compute.max_parallel=2")
    done = labrun("-m", *sleeping(workspace, 3), "seed=1,2,3,4", *limits)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "running" in statuses(workspace))
    holder = json.loads(max((sweep_dir(workspace) / ".launch" / "controllers").glob("?")).read_text())
    os.kill(holder["pid"], signal.SIGKILL)
    watched = lab(workspace, "runs", "watch")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert statuses(workspace) == ["completed"] * 4
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert [len(record.attempts) for record in found] == [1] * 4, "the jobs were found again, none was submitted twice"


def test_a_submission_without_a_recorded_id_is_found_again(workspace: Path, labrun: Command) -> None:
    """Over 15 s: jobs are new interpreters."""
    values = ("-m", *sleeping(workspace, 6), "seed=1,2")
    sweep = begin(workspace, *values)
    wait_for(lambda: len(squeue()) == 2)
    sweep.kill()
    sweep.communicate()
    journal = sweep_dir(workspace) / ".launch" / "jobs.jsonl"
    journal.write_text(journal.read_text().splitlines()[0] + "\n")
    again = labrun(*values, "sweep.resume=last")
    assert again.returncode == 0, again.stdout + again.stderr
    assert statuses(workspace) == ["completed"] * 2
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert [len(record.attempts) for record in found] == [1, 1]


def test_resuming_on_this_machine_ends_the_jobs_first(workspace: Path, labrun: Command) -> None:
    """Otherwise Slurm might requeue a job whose run has been resumed on this machine.

    Over 15 s: jobs are new interpreters.
    """
    values = ("-m", *sleeping(workspace, 30), "seed=1,2")
    sweep = begin(workspace, *values)
    wait_for(lambda: statuses(workspace).count("running") == 2)
    sweep.kill()
    sweep.communicate()
    resumed = begin(workspace, *values, "compute=local", "sweep.resume=last")
    wait_for(lambda: not squeue() and statuses(workspace).count("running") == 2, 90)
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert all(len(record.attempts) == 2 for record in found)
    resumed.send_signal(signal.SIGINT)
    finished(resumed)


def test_a_duplicate_job_does_not_touch_the_run(workspace: Path, labrun: Command) -> None:
    run = begin(workspace, *sleeping(workspace, 5))
    wait_for(lambda: has_begun(workspace))
    (folder,) = workspace.glob("outputs/[!.]*/*")
    (manifest,) = (folder / ".launch" / "slurm").glob("*.json")
    content: dict[str, Any] = json.loads(manifest.read_text())
    rival = manifest.with_name("rival.json")
    rival.write_text(json.dumps({**content, "token": "rival"}))
    script = Path(backend.__file__).with_name("job.py")
    beside = subprocess.run(
        ["srun", "-n1", sys.executable, "-P", str(script), str(rival)], capture_output=True, text=True
    )
    assert beside.returncode == 0 and "skips it" in beside.stdout, beside.stderr
    finished(run)
    assert single(workspace).status == "completed" and len(single(workspace).attempts) == 1


CLIMBING = """
import sys, time
given = dict(zip(sys.argv[1::2], map(float, sys.argv[2::2])))
quality, seconds, steps = given["--quality"], given["--seconds"], 16
for step in range(1, steps + 1):
    time.sleep(seconds / steps)
    print(f"step {step} score {quality * step / steps}", flush=True)
"""


def climbing(workspace: Path, quality: str, seconds: float) -> tuple[str, ...]:
    """Write a script whose score rises to its quality, and return the words for a search for the best quality."""
    values = (f"script.arguments.quality={quality}", f"script.arguments.seconds={seconds}")
    found = r"script.metrics.score='step (?P<step>\d+) score ([0-9.e-]+)'"
    return (*write_script(workspace, CLIMBING), *values, found, "sweep.metric=score", *SLURM)


def test_a_search_ends_poor_trials_early(workspace: Path, labrun: Command) -> None:
    """Over 15 s: five jobs, one after the other, each a new interpreter."""
    done = labrun(
        "-m",
        *climbing(workspace, "1,0.2,0.1", 4),
        "sweep.max_concurrent=1",
        "sweep/early_termination=bandit",
        "sweep.early_termination.delay_evaluation=2",
    )
    assert done.returncode == 0, done.stderr
    folder = sweep_dir(workspace)
    found = [read_record(folder / str(number)) for number in range(3)]
    assert [record.status for record in found] == ["completed", "stopped", "stopped"]
    for record in found[1:]:
        assert record.error.message.startswith("Bandit at report ") and (record.duration_s or 9) < 3.5
    assert (folder / "best.yaml").exists() and len({record.job.id for record in found}) == 3


def test_a_search_resumes_after_kill_9_of_its_controller(workspace: Path, labrun: Command) -> None:
    """Over 15 s: jobs one after the other, each a new interpreter."""
    limits = ("sweep=tpe", "sweep.max_trials=4", "sweep.max_concurrent=2")
    asked = ("-m", *climbing(workspace, "interval(0,1)", 1), *limits)
    search = begin(workspace, *asked)
    wait_for(lambda: statuses(workspace).count("completed") >= 1 and "running" in statuses(workspace), 120)
    search.kill()
    search.communicate(timeout=60)
    again = labrun(*asked, "sweep.resume=last")
    assert again.returncode == 0, again.stderr
    assert statuses(workspace) == ["completed"] * 4
    for number in range(4):
        assert [a.status for a in read_record(sweep_dir(workspace) / str(number)).attempts].count("completed") == 1
