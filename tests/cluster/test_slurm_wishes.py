"""On a real Slurm cluster: jobs that submit jobs, runs of several processes, packed runs, wishes that contradict."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Command, Refused
from helpers import PLAIN, lab, program, statuses, wait_for, write_device_model
from labrun.runs import record as records
from slurm_jobs import NETWORK, SLURM, begin, finished, no_jobs_left, single, squeue, write_failing

__all__ = ["no_jobs_left"]


def write_script(workspace: Path, text: str) -> tuple[str, str]:
    (workspace / "train.py").write_text(text)
    return ("experiment=script", "script.path=train.py")


def test_submitted_from_inside_of_a_job(workspace: Path) -> None:
    """What Slurm tells the outer job of itself is not for the inner one: its place in an array, its memory."""
    inner = shlex.join(program("labrun", *SLURM, "compute.mem_gb=1", cold=True))
    command = ["sbatch", "--wait", "--array=3", "--mem-per-cpu=500", "--output=outer.txt", f"--wrap={inner}"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    said = (workspace / "outer.txt").read_text()
    assert done.returncode == 0, done.stderr + said
    record, outer = single(workspace), done.stdout.split()[-1]
    assert record.status == "completed" and not str((record.job or {})["id"]).startswith(outer), record.job


def test_a_run_of_several_processes_is_tried_again(workspace: Path, labrun: Command) -> None:
    first = 'os.environ["SLURM_PROCID"] == "0" and os.environ["LABRUN_ATTEMPT"] == "1"'
    write_failing(workspace, f"batch_idx == 1 and {first}", "the first attempt fails")
    done = labrun(*SLURM, "model=failing", "compute.tasks_per_node=2", "trainer.batch_size=64", "trainer.max_epochs=1",
                  "compute.retries=1")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = single(workspace)
    assert [attempt["status"] for attempt in record.attempts] == ["failed", "completed"]
    assert "the first attempt fails" in record.attempts[0]["reason"]


def test_canceled_before_it_trains_it_leaves_no_node(workspace: Path) -> None:
    """The other processes would wait at their meeting for the first one, and keep the job alive."""
    run = begin(workspace, *NETWORK, "compute.nodes=2", "trainer.max_epochs=1000")
    wait_for(lambda: "RUNNING" in squeue().values(), 120)
    lab(workspace, "runs", "cancel", "last")
    finished(run)
    assert run.returncode == 130 and single(workspace).status == "canceled"
    wait_for(lambda: not squeue(), 60)


LEAVING = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; open('../beats', 'a').write('1'); time.sleep(600)"])
time.sleep(2 if "--ends" in sys.argv else 600)
"""


@pytest.mark.parametrize("how", ["over its time", "by itself"])
def test_what_a_packed_run_leaves_behind_is_ended_with_it(workspace: Path, how: str) -> None:
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


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (["compute.mem_gb=1", "+compute.extra.mem_per_cpu=500"], "mutually exclusive"),
        (["+compute.extra.ntasks=2"], "compute.extra.ntasks: labrun sets this option"),
        (["+compute.extra.test-only=null"], "compute.extra.test-only: labrun sets this option"),
        (["compute.partition='main,nowhere'"], "there is no such partition"),
    ],
)
def test_wishes_that_do_not_go_together_leave_nothing(refused_here: Refused, wishes: list[str], words: str) -> None:
    assert words in refused_here(*SLURM, *wishes)


PRINTING = "import os\nprint('FOUND', os.environ.get('FIRST'), os.environ.get('OMP_NUM_THREADS'))\n"


def test_variables_arrive_whatever_else_is_exported(workspace: Path, labrun: Command) -> None:
    words = write_script(workspace, PRINTING)
    done = labrun(*words, *SLURM, "+compute.extra.export=NONE", "+compute.environment.FIRST=its value",
                  "compute.partition='main,low'", "compute.cpus_per_run=2", SBATCH_EXPORT="NONE")  # fmt: skip
    assert done.returncode == 0 and "FOUND its value 2" in done.stdout, done.stdout + done.stderr
    assert "its value" not in json.dumps(single(workspace).config)


def test_runs_of_a_job_share_its_gpus(workspace: Path, labrun: Command) -> None:
    write_device_model(workspace)
    done = labrun("-m", "model=shows", "model.number=1,2", "compute=slurm_gpu", "compute.runs_per_job=2",
                  "compute.runs_per_gpu=2", *PLAIN)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log")]
    shown = {line for text in logs for line in text.splitlines() if line.startswith("DEVICES")}
    assert len(shown) == 1, "one GPU was asked for, and both runs have it"


def test_preempted_packed_runs_begin_again_or_stay_done(workspace: Path) -> None:
    words = write_script(workspace, "import sys, time\ntime.sleep(float(sys.argv[1]))\n")
    sweep = begin(workspace, "-m", *words, "+script.positional=[1],[20]", "compute.runs_per_job=2", *SLURM)
    wait_for(lambda: sorted(statuses(workspace)) == ["completed", "running"], 120)
    subprocess.run(["scontrol", "requeue", next(iter(squeue()))], check=True)
    finished(sweep)
    assert sweep.returncode == 0 and statuses(workspace) == ["completed"] * 2
    found = [records.read(path.parent) for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]
    assert [len(record.attempts) for record in found] == [1, 2]


def test_a_pickle_of_somebody_else_is_not_loaded(workspace: Path) -> None:
    """Here this user's own, but open to others, in the place of the one that was submitted."""
    (workspace / "app.py").write_text(
        "import hydra, time\n\n\n@hydra.main(version_base='1.3', config_path=None, config_name=None)\n"
        "def main(config):\n    print('ran')\n\n\nif __name__ == '__main__':\n    main()\n"
    )
    command = [sys.executable, "app.py", "-m", "hydra/launcher=labrun", "+x=1", "hydra.launcher.target=slurm",
               "+hydra.launcher.extra.begin=now+8"]  # fmt: skip
    run = subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: bool(list(workspace.glob("multirun/**/.submitit/*_submitted.pkl"))), 60)
    (pickled,) = workspace.glob("multirun/**/.submitit/*_submitted.pkl")
    pickled.chmod(0o666)
    pickled.parent.chmod(0o777)
    said, _ = run.communicate(timeout=180)
    assert run.returncode == 1 and "is not loaded: it is not your own" in said, said
