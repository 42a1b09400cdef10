"""Ends of runs on a real Slurm cluster: canceled, preempted, timed out, or lost with their node."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from conftest import Command
from helpers import lab, statuses, sweep_dir, wait_for
from labrun.runs.context import read_metrics
from labrun.runs.record import RunPaths, process_lives, read_record
from slurm_jobs import (
    NETWORK,
    SLURM,
    begin,
    finished,
    has_begun,
    is_running,
    no_jobs_left,
    release_requeued,
    single,
    sleeping,
    squeue,
    write_script,
)

__all__ = ["no_jobs_left"]

ASKED = """
import time
from pathlib import Path
from pytorch_lightning import Callback

class StopWhenAsked(Callback):
    def on_train_epoch_end(self, trainer, module):
        time.sleep(0.3)  # the cluster's other jobs may keep it running for minutes: it leaves them the processors
        trainer.should_stop = Path("stop").exists()
"""


def test_cancel_ends_running_and_waiting_runs(workspace: Path) -> None:
    sweep = begin(workspace, "-m", *sleeping(workspace, 60), "seed=1,2,3", "compute.max_parallel=1")
    wait_for(lambda: statuses(workspace).count("running") == 1)
    folder = sweep_dir(workspace)
    assert "canceled" in lab(workspace, "runs", "cancel", str(folder / "0")).stdout
    assert "canceled" in lab(workspace, "runs", "cancel", str(folder / "2")).stdout
    sweep.send_signal(signal.SIGINT)
    finished(sweep)
    assert sweep.returncode == 130 and statuses(workspace) == ["canceled"] * 3
    wait_for(lambda: not squeue())


def test_scancel_of_a_waiting_array_task_cancels_only_its_run(workspace: Path) -> None:
    limits = ("compute.max_parallel=1", "+compute.extra.exclude=[n3,n4]")
    sweep = begin(workspace, "-m", *sleeping(workspace, 5), "seed=1,2", *limits)
    wait_for(lambda: "running" in statuses(workspace))
    (job,) = [job for job, state in squeue().items() if state == "PENDING"]
    subprocess.run(["scancel", job], check=True)
    finished(sweep)
    assert sorted(statuses(workspace)) == ["canceled", "completed"] and sweep.returncode == 1


def test_scancel_cancels_the_run(workspace: Path) -> None:
    run = begin(workspace, *sleeping(workspace, 60))
    wait_for(lambda: has_begun(workspace))
    subprocess.run(["scancel", *squeue()], check=True)
    finished(run)
    record = single(workspace)
    assert run.returncode == 130 and record.status == "canceled"
    assert "was canceled" in record.error.message or "CANCELLED" in record.error.message


def has_attempts(workspace: Path, *statuses: str) -> bool:
    """Whether the attempts of the single run have these statuses; a requeued job is released."""
    release_requeued()
    return [attempt.status for attempt in single(workspace).attempts] == [*statuses]


def test_a_preempted_network_resumes_from_its_checkpoint(workspace: Path) -> None:
    """Over 15 s: two jobs that import PyTorch."""
    (workspace / "asked.py").write_text(ASKED)
    endless = ("trainer.max_epochs=1000000", "+callbacks.asked._target_=asked.StopWhenAsked")
    run = begin(workspace, *NETWORK, *endless, "compute.partition=low")
    wait_for(lambda: is_running(workspace))
    (node,) = set(squeue("%N").values())
    subprocess.run(["sbatch", "-pmain", f"-w{node}", "--exclusive", "-o/dev/null", "--wrap=sleep 1"], check=True)
    (folder,) = workspace.glob("outputs/[!.]*/*")
    wait_for(lambda: single(workspace).status == "preempted", 60)
    assert list(RunPaths(folder).checkpoints.glob("*")), "this counts as progress when a run is out of time, too"
    wait_for(lambda: has_attempts(workspace, "preempted", "running"), 240)
    (workspace / "stop").touch()
    finished(run)
    record = single(workspace)
    assert run.returncode == 0 and record.status == "completed"
    assert [attempt.status for attempt in record.attempts] == ["preempted", "completed"]
    assert "Resuming from the last attempt's checkpoint" in (folder / "driver.log").read_text()
    lines = [(line["name"], line["step"]) for line in read_metrics(folder)]
    assert len(lines) == len(set(lines))


def test_preempted_packed_runs_restart_unless_completed(workspace: Path) -> None:
    """Over 15 s: a run of ten seconds starts twice."""
    words = write_script(workspace, "import sys, time\ntime.sleep(float(sys.argv[1]))\n")
    sweep = begin(workspace, "-m", *words, "+script.positional=[1],[10]", "compute.runs_per_job=2", *SLURM)
    wait_for(lambda: sorted(statuses(workspace)) == ["completed", "running"], 120)
    subprocess.run(["scontrol", "requeue", next(iter(squeue()))], check=True)
    wait_for(lambda: release_requeued() or statuses(workspace) == ["completed"] * 2)
    finished(sweep)
    assert sweep.returncode == 0 and statuses(workspace) == ["completed"] * 2
    found = [read_record(path.parent) for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]
    assert [len(record.attempts) for record in found] == [1, 2]


SAVING = """
import signal, sys, time
from pathlib import Path

saved = Path("checkpoints/saved")
print("FOUND", saved.read_text() if saved.exists() else "", flush=True)

def save(number, frame):
    with saved.open("a") as file:
        file.write("+")
    sys.exit()  # as if it had completed

signal.signal(signal.SIGTERM, save)
time.sleep(600)
"""


@pytest.mark.parametrize("ends", ["out of time", "requeued"])
def test_a_script_whose_job_ends_early_saves_its_state_and_resumes(workspace: Path, ends: str) -> None:
    """labrun signals the script: at its own time limit, or because Slurm has signaled the job.

    Over 15 s: the time limit itself, and two jobs.
    """
    limit = ("compute.timeout_min=0.1",) if ends == "out of time" else ()
    run = begin(workspace, *write_script(workspace, SAVING), *SLURM, *limit)
    wait_for(lambda: has_begun(workspace))
    (log,) = workspace.glob("outputs/[!.]*/*/driver.log")

    def found() -> list[list[str]]:
        return [line.split()[1:] for line in log.read_text().splitlines() if "FOUND" in line]

    wait_for(lambda: found() == [[]])
    if not limit:
        subprocess.run(["scontrol", "requeue", next(iter(squeue()))], check=True)
    wait_for(lambda: has_attempts(workspace, "preempted", "running"), 150)
    assert single(workspace).job.more["restarts"] == 1
    wait_for(lambda: len(found()) == 2)
    run.send_signal(signal.SIGINT)
    finished(run)
    assert single(workspace).status == "canceled"
    assert found()[1], "the state of the first attempt"


def test_a_run_out_of_time_without_a_checkpoint_fails(workspace: Path, labrun: Command) -> None:
    """Over 15 s: the time limit itself."""
    done = labrun(*sleeping(workspace, 300), "compute.timeout_min=0.1")
    assert done.returncode == 1 and "compute.timeout_min=0.1" in done.stderr, done.stderr
    assert single(workspace).status == "failed"


def test_a_run_gets_its_whole_time_limit(workspace: Path) -> None:
    """Slurm gets a limit that includes time to start and to save, since it warns up to a minute early.

    Over 15 s: the time limit itself.
    """
    run = begin(workspace, *sleeping(workspace, 9), "compute.timeout_min=0.2")
    wait_for(lambda: list(squeue("%l").values()) == ["2:00"])
    finished(run)
    record = single(workspace)
    assert run.returncode == 0 and record.status == "completed" and len(record.attempts) == 1


def test_a_run_completes_even_if_slurm_warns_at_once(workspace: Path) -> None:
    """In a partition of one minute there is no time to spare."""
    name = f"short{os.getpid()}"
    made = ["scontrol", "create", f"partitionname={name}", "nodes=ALL", "maxtime=1", "priorityjobfactor=1"]
    subprocess.run(made, check=True, capture_output=True)
    try:
        run = begin(workspace, *sleeping(workspace, 5), "compute.timeout_min=1", f"compute.partition={name}")
        wait_for(lambda: list(squeue("%l").values()) == ["1:00"])
        finished(run)
        assert run.returncode == 0 and single(workspace).status == "completed"
    finally:
        gone = ["scontrol", "delete", f"partitionname={name}"]
        wait_for(lambda: subprocess.run(gone, capture_output=True).returncode == 0)  # not while a job is ending in it


def test_a_run_is_requeued_when_its_node_dies(workspace: Path) -> None:
    """Its slurmd is killed for real: unreachable, not lost, until Slurm requeues the job by itself.

    Slurm takes half a minute to end the job's steps and to take the node back.
    """
    run = begin(workspace, *sleeping(workspace, 5))
    wait_for(lambda: has_begun(workspace))
    node = str(single(workspace).job.node)
    daemon = Path(f"/var/lib/slurm-local/run/slurm/slurmd-{node}.pid")
    os.kill(int(daemon.read_text()), signal.SIGKILL)
    wait_for(lambda: not process_lives(single(workspace).process), 30)
    assert "unreachable" in lab(workspace, "runs", "ls").stdout
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)
    try:
        finished(run, 200)
    finally:
        subprocess.run([Path(__file__).with_name("start-slurm")], check=True, capture_output=True)
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False, capture_output=True)
        wait_for(lambda: "down" not in subprocess.run(["sinfo", "-h", "-o%t"], capture_output=True, text=True).stdout)
    record = single(workspace)
    assert run.returncode == 0 and record.status == "completed" and len(record.attempts) == 2
    assert record.job.more["restarts"] == 1


def test_a_dead_job_is_noticed_without_accounting(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accounting database sacct fails, so squeue and the heartbeat must suffice.

    Over 15 s: the heartbeat has to be old first.
    """
    tools = workspace / "tools"
    tools.mkdir()
    for name in ("sacct", "sacctmgr"):
        (tools / name).write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    sweep = begin(workspace, "-m", *sleeping(workspace, 5), "seed=1,2")
    wait_for(lambda: statuses(workspace) == ["running"] * 2, 120)
    run_dir = sweep_dir(workspace) / "0"
    server = psutil.Process(read_record(run_dir).process.pid).parent()
    supervisor = None if server is None else server.parent()
    assert supervisor is not None
    supervisor.kill()  # and with it all the rest of the job
    began = time.monotonic()
    finished(sweep)
    assert sweep.returncode == 1 and sorted(statuses(workspace)) == ["completed", "failed"]
    assert time.monotonic() - began < 60, "a job's death is noticed soon, not after minutes"
    assert read_record(run_dir).status == "failed" and "job" in read_record(run_dir).reason


LEAVING = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; open('../beats', 'a').write('1'); time.sleep(600)"])
time.sleep(2 if "--ends" in sys.argv else 600)
"""


@pytest.mark.parametrize("how", ["over its time", "by itself"])
def test_processes_that_a_packed_run_leaves_behind_are_ended(workspace: Path, how: str) -> None:
    """Over 15 s: the run's time, or the job's, has to pass."""
    words = write_script(workspace, LEAVING)
    limit = ["compute.timeout_min=0.1"] if how == "over its time" else ["+script.positional=[--ends]"]
    sweep = begin(
        workspace, "-m", *words, *limit, "seed=1,2", "compute.runs_per_job=2", "compute.cpus_per_job=1", *SLURM
    )

    def left() -> int:
        listed = subprocess.run(["pgrep", "-fc", "open..../beats"], capture_output=True, text=True)
        return int(listed.stdout or 0)

    wait_for(lambda: left() == 1, 120)
    wait_for(lambda: len([s for s in statuses(workspace) if s in ("failed", "completed")]) == 1, 60)
    time.sleep(1.5)
    assert left() <= 1, "the first one's is gone when the second one's is there"
    finished(sweep)
    assert statuses(workspace) == ["failed" if limit[0].startswith("compute") else "completed"] * 2 and left() == 0
