"""Submission to a real Slurm cluster (`tests/cluster/start-slurm`): resources of jobs, and runs per job."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import Command
from helpers import devices, program, statuses, wait_for, write_device_script
from labrun.runs.record import read_record
from slurm_jobs import (
    SLEEPING,
    SLURM,
    all_records,
    begin,
    finished,
    no_jobs_left,
    single,
    sleeping,
    squeue,
    write_script,
)

__all__ = ["no_jobs_left"]


def test_a_single_run_completes_as_a_job(workspace: Path, labrun: Command) -> None:
    done = labrun(*sleeping(workspace, 0), "compute.setup=[touch was-here]")
    assert done.returncode == 0, done.stderr
    assert (workspace / "was-here").exists(), "the lines of compute.setup run first"
    record = single(workspace)
    assert record.status == "completed" and record.job is not None and record.job.node.startswith("n")
    assert "VERSION one" in done.stdout, "its log is shown here"


def test_runs_with_different_resources_form_arrays(workspace: Path) -> None:
    """Over 15 s: jobs wait for one another, and each is a new interpreter."""
    words = (*sleeping(workspace, 1), "seed=1,2,3", "compute.cpus_per_run=1,2", "compute.max_parallel=2", "name=nice")
    sweep = begin(workspace, "-m", *words)
    wait_for(lambda: bool(squeue()))
    names = subprocess.run(["squeue", "-h", "-o", "%.40j"], capture_output=True, text=True).stdout.split()
    assert any(name.startswith("nice-") for name in names)
    out, _ = finished(sweep)
    assert sweep.returncode == 0 and statuses(workspace) == ["completed"] * 6
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    arrays = {str(record.job.id).split("_")[0]: record.config["compute"]["cpus_per_run"] for record in found}
    assert sorted(arrays.values()) == [1, 2] and "3 jobs" in out
    spans = [(str(record.started), str(record.ended)) for record in found]
    assert max(sum(a <= begun < b for a, b in spans) for begun, _ in spans) <= 2, "one limit for both arrays"


def test_packed_runs_share_a_job(workspace: Path, labrun: Command) -> None:
    done = labrun("-m", *sleeping(workspace, 0), "seed=range(1,13)", "compute.runs_per_job=6")
    assert done.returncode == 0, done.stdout + done.stderr
    found = [read_record(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert len(found) == 12 and {record.status for record in found} == {"completed"}
    assert len({record.job.id for record in found}) == 2


def test_edits_while_jobs_wait_change_nothing(workspace: Path) -> None:
    write_script(workspace, SLEEPING)
    option = "# @package _global_\ndefaults: [/experiment/script]\nscript: {path: train.py, positional: [0.0]}\n"
    sleeps = workspace / "conf" / "experiment" / "sleeps.yaml"
    sleeps.parent.mkdir(parents=True)
    sleeps.write_text(option)
    blocker = subprocess.run(
        ["sbatch", "--parsable", "-N4", "--exclusive", "-o/dev/null", "--wrap", "sleep 60"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    wait_for(lambda: squeue().get(blocker) == "RUNNING")
    sweep = begin(workspace, "-m", "experiment=sleeps", *SLURM, "compute.runs_per_job=2", "seed=1,2")
    wait_for(lambda: list(squeue().values()).count("PENDING") == 1)
    write_script(workspace, SLEEPING.replace("one", "two"))
    sleeps.write_text(option.replace("0.0", "99.0"))
    subprocess.run(["scancel", blocker], check=True)
    finished(sweep)
    assert sweep.returncode == 0
    assert all("VERSION one" in path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log"))


def test_packed_runs_have_their_own_gpus_or_share_one(workspace: Path, labrun: Command) -> None:
    words = (*write_device_script(workspace), "compute=slurm_gpu", "compute.runs_per_job=2")
    done = labrun("-m", *words, "seed=1,2", "compute.runs_per_gpu=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({record.job.id for record in all_records(workspace)}) == 2
    first, shared, second, also_shared = devices(workspace)
    assert {first, second} == {"0", "1"} and shared == also_shared


def test_a_job_that_ends_before_its_run_is_reported(workspace: Path, labrun: Command) -> None:
    """Over 15 s: Slurm reports a failed job only after a while."""
    done = labrun(*SLURM, "compute.srun_args=[--foo]")
    assert done.returncode == 1 and "srun: unrecognized option '--foo'" in done.stderr, done.stderr
    assert "driver.log" not in done.stderr
    done = labrun(*SLURM, "compute.setup=[exit 3]")
    assert done.returncode == 1 and "compute.setup" in done.stderr


PRINTING = "import os\nprint('FOUND', os.environ.get('FIRST'), os.environ.get('OMP_NUM_THREADS'))\n"


def test_variables_reach_runs_under_any_export_and_interpreter(workspace: Path, labrun: Command) -> None:
    """The interpreter is this one, given by its path: it uses its own packages, not the submitter's import path."""
    words = write_script(workspace, PRINTING)
    done = labrun(
        *words,
        *SLURM,
        "+compute.extra.export=NONE",
        "+compute.environment.FIRST=its value",
        "compute.partition='main,low'",
        "compute.cpus_per_run=2",
        f"compute.python={sys.executable}",
        SBATCH_EXPORT="NONE",
    )
    assert done.returncode == 0 and "FOUND its value 2" in done.stdout, done.stdout + done.stderr
    assert "its value" not in json.dumps(single(workspace).config)


def test_a_job_can_submit_jobs(workspace: Path) -> None:
    """Slurm's variables of the outer job, such as its array index and memory, must not reach the inner one."""
    inner = shlex.join(program("labrun", *sleeping(workspace, 0), "compute.mem_gb=1", cold=True))
    command = ["sbatch", "--wait", "--array=3", "--mem-per-cpu=500", "--output=outer.txt", f"--wrap={inner}"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    said = (workspace / "outer.txt").read_text()
    assert done.returncode == 0, done.stderr + said
    record, outer = single(workspace), done.stdout.split()[-1]
    assert record.status == "completed" and not str(record.job.id).startswith(outer), record.job
