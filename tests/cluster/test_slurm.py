"""On a real Slurm cluster (`tests/cluster/start-slurm` starts one): everything that a person can ask of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import Command, Refused
from helpers import (
    PLAIN,
    SLEEPER,
    devices,
    lab,
    start,
    statuses,
    sweep_dir,
    wait_for,
    write_climber,
    write_device_model,
    write_model,
)
from labrun.launch import slurm
from labrun.runs import record as records
from labrun.runs.context import read_metrics
from slurm_jobs import NETWORK, SLURM, begin, finished, is_running, no_jobs_left, single, squeue, write_failing

__all__ = ["no_jobs_left"]


def test_one_run(workspace: Path, labrun: Command) -> None:
    done = labrun("compute=slurm", "tracking=none")
    assert done.returncode == 0, done.stderr
    record = single(workspace)
    assert record.status == "completed" and record.job is not None and record.job["node"].startswith("n")
    assert "Fitting logistic_regression" in done.stdout, "its log is shown here"


def test_an_array_with_different_needs_and_names_in_squeue(workspace: Path) -> None:
    write_model(workspace)
    sweep = start(workspace, "compute=slurm", "model=sleeper", "model.number=1,2,3", "compute.cpus_per_run=1,2",
                  "model.seconds=1", "compute.max_parallel=2", "name=nice")  # fmt: skip
    wait_for(lambda: bool(squeue()))
    names = subprocess.run(["squeue", "-h", "-o", "%.40j"], capture_output=True, text=True).stdout.split()
    assert any(name.startswith("nice-") for name in names)
    out, _ = finished(sweep)
    assert sweep.returncode == 0 and statuses(workspace) == ["completed"] * 6
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    arrays = {str((record.job or {})["id"]).split("_")[0]: record.config["compute"]["cpus_per_run"] for record in found}
    assert sorted(arrays.values()) == [1, 2] and "3 jobs" in out
    spans = [(str(record.started), str(record.ended)) for record in found]
    assert max(sum(a <= begun < b for a, b in spans) for begun, _ in spans) <= 2, "one limit for both arrays"


PLAIN_APPLICATION = """
import os
import hydra


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(config):
    print("x is", config.x, "in job", os.environ["SLURM_JOB_ID"])
    if config.x == 3:
        raise ValueError("three")
    if config.x > 3:
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    main()
"""


def test_an_application_that_knows_nothing_of_labrun(workspace: Path) -> None:
    (workspace / "app.py").write_text(PLAIN_APPLICATION)
    command = [sys.executable, "app.py", "-m", "hydra/launcher=labrun", "+x=1,2,3,4,5", "hydra.launcher.target=slurm"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert said.count("completed") == 2 and said.count("failed  (log") == 3 and done.returncode == 1, said
    printed = "".join(path.read_text() for path in workspace.glob("multirun/**/.submitit/**/*.out"))
    assert "x is 1 in job" in printed and "x is 2 in job" in printed


def test_such_an_application_on_several_nodes_with_lines_before_it(workspace: Path) -> None:
    (workspace / "app.py").write_text(PLAIN_APPLICATION.replace('"x is"', 'os.environ["SLURM_NNODES"], "nodes, x is"'))
    command = [sys.executable, "app.py", "-m", "hydra/launcher=labrun", "+x=1,2", "hydra.launcher.target=slurm",
               "hydra.launcher.nodes=2", "hydra.launcher.setup=[touch was-here]", "hydra.launcher.timeout_min=5",
               "hydra.launcher.cpus_per_run=2"]  # fmt: skip
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = "".join(path.read_text() for path in workspace.glob("multirun/**/.submitit/**/*.out"))
    assert printed.count("2 nodes, x is 1") == 2 and (workspace / "was-here").exists(), "on each of the nodes"


def test_such_an_application_that_is_late_fails_and_is_not_begun_again(workspace: Path) -> None:
    late = PLAIN_APPLICATION.replace(
        "    if config.x == 3", "    import time; time.sleep(400 * (config.x == 2))\n    if config.x == 3"
    )
    (workspace / "app.py").write_text(late)
    command = [sys.executable, "app.py", "-m", "hydra/launcher=labrun", "+x=1,2", "hydra.launcher.target=slurm",
               "hydra.launcher.timeout_min=0.2"]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "TimeoutError: ended by timeout_min=0.2" in said and "+x=1  completed" in said, said
    printed = "".join(path.read_text() for path in workspace.glob("multirun/**/.submitit/**/*.out"))
    assert printed.count("x is 2") == 1
    assert (time.monotonic() - began) < 90, "not when Slurm would have ended it, after three minutes"


def test_packed_runs_share_a_job(workspace: Path, labrun: Command) -> None:
    done = labrun("-m", "model.regularization=range(1,13)", "compute.runs_per_job=6", *SLURM)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert len(found) == 12 and {record.status for record in found} == {"completed"}
    assert len({(record.job or {})["id"] for record in found}) == 2


def test_edits_while_jobs_wait_change_nothing(workspace: Path) -> None:
    write_model(workspace)
    blocker = subprocess.run(["sbatch", "--parsable", "-N4", "--exclusive", "-o/dev/null", "--wrap", "sleep 60"],
                             capture_output=True, text=True).stdout.strip()  # fmt: skip
    wait_for(lambda: squeue().get(blocker) == "RUNNING")
    sweep = start(workspace, "compute=slurm", "model=sleeper", "model.number=1,2")
    wait_for(lambda: list(squeue().values()).count("PENDING") == 2)
    (workspace / "sleeper.py").write_text(SLEEPER.replace("one", "two"))
    (workspace / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nseconds: 99.0\nnumber: 0\n")
    subprocess.run(["scancel", blocker], check=True)
    finished(sweep)
    assert sweep.returncode == 0
    assert all("VERSION one" in path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log"))


def test_cancel_a_waiting_and_a_running_run(workspace: Path) -> None:
    write_model(workspace)
    sweep = start(workspace, "compute=slurm", "model=sleeper", "model.number=1,2,3", "model.seconds=60",
                  "compute.max_parallel=1", cold=True)  # fmt: skip
    wait_for(lambda: statuses(workspace).count("running") == 1)
    folder = sweep_dir(workspace)
    assert "canceled" in lab(workspace, "runs", "cancel", str(folder / "0")).stdout
    assert "canceled" in lab(workspace, "runs", "cancel", str(folder / "2")).stdout
    sweep.send_signal(signal.SIGINT)
    finished(sweep)
    assert sweep.returncode == 130 and statuses(workspace) == ["canceled"] * 3
    wait_for(lambda: not squeue())


def test_scancel_by_hand_of_a_part_that_waits(workspace: Path) -> None:
    write_model(workspace)
    sweep = start(workspace, "compute=slurm", "model=sleeper", "model.number=1,2", "model.seconds=10",
                  "compute.max_parallel=1", "+compute.extra.exclude=[n3,n4]")  # fmt: skip
    wait_for(lambda: "running" in statuses(workspace))
    (job,) = [job for job, state in squeue().items() if state == "PENDING"]
    subprocess.run(["scancel", job], check=True)
    finished(sweep)
    assert sorted(statuses(workspace)) == ["canceled", "completed"] and sweep.returncode == 1


def test_a_job_that_ends_before_its_run_begins_says_why(workspace: Path, labrun: Command) -> None:
    done = labrun(*SLURM, "compute.srun_args=[--foo]")
    assert done.returncode == 1 and "srun: unrecognized option '--foo'" in done.stderr, done.stderr
    assert "driver.log" not in done.stderr
    done = labrun(*SLURM, "compute.setup=[exit 3]")
    assert done.returncode == 1 and "compute.setup" in done.stderr


def test_only_networks_have_several_nodes(refused_here: Refused) -> None:
    said = refused_here("compute=slurm", "compute.nodes=2", "tracking=none")
    assert "model=logistic_regression" in said and not squeue()


def test_an_error_of_another_process_is_told(workspace: Path, labrun: Command) -> None:
    write_failing(workspace, 'batch_idx == 3 and os.environ["SLURM_PROCID"] == "1"', "an error of rank one")
    done = labrun(*SLURM, "model=failing", "compute.nodes=2", "trainer.batch_size=16")
    assert done.returncode == 1, done.stdout + done.stderr
    record = single(workspace)
    assert record.status == "failed" and "an error of rank one" in (record.error or {})["message"]


def test_scancel_by_hand_is_a_canceled_run(workspace: Path) -> None:
    run = begin(workspace, *NETWORK, "trainer.max_epochs=1000")
    wait_for(lambda: is_running(workspace))
    subprocess.run(["scancel", *squeue()], check=True)
    finished(run)
    record = single(workspace)
    assert run.returncode == 130 and record.status == "canceled"
    assert "was canceled" in (record.error or {})["message"] or "CANCELLED" in (record.error or {})["message"]


def test_preempted_it_goes_on_from_its_checkpoint(workspace: Path) -> None:
    run = begin(workspace, *NETWORK, "trainer.max_epochs=120", "compute.partition=low")
    wait_for(lambda: is_running(workspace))
    subprocess.run(["sbatch", "-p", "main", "-N4", "--exclusive", "-o/dev/null", "--wrap", "sleep 1"], check=True)
    finished(run, 240)
    record = single(workspace)
    assert run.returncode == 0 and record.status == "completed"
    assert [attempt["status"] for attempt in record.attempts] == ["preempted", "completed"]
    (folder,) = workspace.glob("outputs/[!.]*/*")
    assert "Going on from the last attempt's checkpoint" in (folder / "driver.log").read_text()
    lines = [(line["name"], line["step"]) for line in read_metrics(folder)]
    assert len(lines) == len(set(lines)) and ("train_loss", 120) in lines


def test_out_of_time_it_is_requeued_and_goes_on(workspace: Path) -> None:
    run = begin(workspace, *NETWORK, "trainer.max_epochs=1000000", "compute.timeout_min=1", cold=True)
    wait_for(lambda: is_running(workspace))
    wait_for(lambda: len(single(workspace).attempts) >= 2, 150)
    record = single(workspace)
    assert [attempt["status"] for attempt in record.attempts][:2] == ["preempted", "running"]
    assert (record.job or {})["restarts"] == 1
    run.send_signal(signal.SIGINT)
    finished(run)
    assert single(workspace).status == "canceled"


def time_limit() -> str:
    """Of the only job."""
    return subprocess.run(["squeue", "-h", "-o%l"], capture_output=True, text=True).stdout.strip()


def test_a_run_has_all_of_its_time(workspace: Path) -> None:
    """Slurm gets to know of a limit with the time to begin and to save on top, since it warns up to a minute early."""
    write_model(workspace)
    run = begin(workspace, "compute=slurm", "model=sleeper", "model.seconds=50", "compute.timeout_min=1", *PLAIN)
    wait_for(lambda: time_limit() == "3:00")
    finished(run)
    record = single(workspace)
    assert run.returncode == 0 and record.status == "completed" and len(record.attempts) == 1


@pytest.mark.parametrize("by", ["partition", "qos"])
def test_no_more_time_is_asked_for_than_may_be(workspace: Path, by: str) -> None:
    made = ["scontrol", "create", "partitionname=brief", "nodes=ALL", "maxtime=1", "priorityjobfactor=1"]
    gone = ["scontrol", "delete", "partitionname=brief"]
    if by == "qos":
        made, gone = (
            ["sacctmgr", "-i", "add", "qos", "brief", "maxwall=1"],
            ["sacctmgr", "-i", "delete", "qos", "brief"],
        )
    subprocess.run(made, check=True, capture_output=True)
    try:
        write_model(workspace)
        run = begin(
            workspace,
            "compute=slurm",
            "model=sleeper",
            "model.seconds=8",
            "compute.timeout_min=1",
            f"compute.{by}=brief",
            *PLAIN,
        )
        wait_for(lambda: time_limit() == "1:00")
        finished(run)
        assert run.returncode == 0 and single(workspace).status == "completed"
    finally:
        wait_for(lambda: subprocess.run(gone, capture_output=True).returncode == 0)  # not while a job is ending in it


def test_out_of_time_without_a_checkpoint_it_failed(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    done = labrun("model=sleeper", "model.seconds=300", "compute.timeout_min=1", "compute=slurm", *PLAIN)
    assert done.returncode == 1 and "compute.timeout_min=1" in done.stderr, done.stderr
    assert single(workspace).status == "failed"


def test_a_node_that_dies(workspace: Path) -> None:
    """Its slurmd is killed for real: unreachable, not lost, until Slurm requeues the job by itself."""
    write_model(workspace)
    run = begin(workspace, "compute=slurm", "model=sleeper", "model.seconds=8", *PLAIN)
    wait_for(lambda: bool(list(workspace.glob("outputs/*/*/run.json"))) and single(workspace).status == "running")
    node = str((single(workspace).job or {})["node"])
    daemon = Path(f"/var/lib/slurm-local/run/slurm/slurmd-{node}.pid")
    os.kill(int(daemon.read_text()), signal.SIGKILL)
    wait_for(lambda: not records.process_lives(single(workspace).process), 30)
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
    assert (record.job or {})["restarts"] == 1


def test_two_nodes_train_one_network(workspace: Path, labrun: Command) -> None:
    done = labrun(*NETWORK, "trainer.max_epochs=2", "compute.nodes=2")
    assert done.returncode == 0, done.stderr
    record = single(workspace)
    (folder,) = workspace.glob("outputs/[!.]*/*")
    assert record.status == "completed" and len(record.attempts) == 1
    assert "MEMBER: 1/2" in (folder / "driver.log").read_text()
    assert "MEMBER: 2/2" in (folder / "driver.1.log").read_text()
    lines = [(line["name"], line["step"]) for line in read_metrics(folder)]
    assert len(lines) == len(set(lines)), "both processes wrote"


def test_fake_gpus(workspace: Path, labrun: Command) -> None:
    write_device_model(workspace)
    done = labrun("-m", "model=shows", "model.number=1,2", "compute=slurm_gpu", "compute.runs_per_job=2", *PLAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(devices(workspace)) == ["0", "1"]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("compute.partition=nonsuch", "There are: main"),
        ("compute.cpus_per_run=64", "has 2 cores at most"),
        ("compute.gpus_per_run=9", "has 2 GPUs at most"),
        ("compute.mem_gb=500", "has 4.0 GB"),
        ("compute.nodes=99", "has 4 nodes"),
        ("+compute.extra.constraint=nonsuch", "compute.extra.constraint=nonsuch: sbatch refuses it: Invalid feature"),
        ("+compute.extra.gres='gpu:a100:1'", "compute.extra.gres=gpu:a100:1: sbatch refuses it: Requested node conf"),
        ("+compute.extra.no_such_option=1", "sbatch refuses it: unrecognized option '--no-such-option=1'"),
    ],
)
def test_what_the_cluster_has_not_is_refused(workspace: Path, labrun: Command, wish: str, words: str) -> None:
    done = labrun("compute=slurm", "model=mnist_dnn", wish, "tracking=none")
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not squeue()
    assert not list(workspace.glob("outputs/*/*"))


def test_detached_and_taken_over(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    done = labrun("-m", "compute=slurm", "model=sleeper", "model.number=1,2,3,4", "model.seconds=4",
                  "compute.detach=true", "compute.max_parallel=2", *PLAIN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    wait_for(lambda: "running" in statuses(workspace))
    holder = json.loads(max((sweep_dir(workspace) / ".launch" / "controllers").glob("?")).read_text())
    os.kill(holder["pid"], signal.SIGKILL)
    watched = lab(workspace, "runs", "watch")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert statuses(workspace) == ["completed"] * 4
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert [len(record.attempts) for record in found] == [1] * 4, "the jobs were found again, none was submitted twice"


def test_a_submission_whose_id_was_never_written_is_found_again(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    values = ("-m", "compute=slurm", "model=sleeper", "model.number=1,2", "model.seconds=6", *PLAIN)
    sweep = start(workspace, *values[1:5], cold=True)
    wait_for(lambda: len(squeue()) == 2)
    sweep.kill()
    sweep.communicate()
    ledger = sweep_dir(workspace) / ".launch" / "jobs.jsonl"
    ledger.write_text(ledger.read_text().splitlines()[0] + "\n")
    again = labrun(*values, "sweep.resume=last")
    assert again.returncode == 0, again.stdout + again.stderr
    assert statuses(workspace) == ["completed"] * 2
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert [len(record.attempts) for record in found] == [1, 1]


def test_resume_elsewhere_ends_the_jobs_first(workspace: Path, labrun: Command) -> None:
    """A job that Slurm might requeue by itself must not meet the run that was resumed on this machine."""
    write_model(workspace)
    values = ("model=sleeper", "model.number=1,2", "model.seconds=30")
    sweep = start(workspace, "compute=slurm", *values, cold=True)
    wait_for(lambda: statuses(workspace).count("running") == 2)
    sweep.kill()
    sweep.communicate()
    quick = ("-m", "model=sleeper", "model.number=1,2", "model.seconds=30", *PLAIN, "compute=local")
    resumed = begin(workspace, *quick, "sweep.resume=last", cold=True)
    wait_for(lambda: not squeue() and statuses(workspace).count("running") == 2, 90)
    found = [records.read(path.parent) for path in workspace.glob("multirun/*/*/*/run.json")]
    assert all(len(record.attempts) == 2 for record in found)
    resumed.send_signal(signal.SIGINT)
    finished(resumed)


def test_a_job_that_was_submitted_again_leaves_the_run_alone(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    run = begin(workspace, "compute=slurm", "model=sleeper", "model.seconds=5", *PLAIN)
    wait_for(lambda: bool(list(workspace.glob("outputs/*/*/run.json"))) and single(workspace).status == "running")
    (folder,) = workspace.glob("outputs/[!.]*/*")
    (manifest,) = (folder / ".launch" / "slurm").glob("*.json")
    content: dict[str, Any] = json.loads(manifest.read_text())
    rival = manifest.with_name("rival.json")
    rival.write_text(json.dumps({**content, "token": "rival"}))
    script = Path(slurm.__file__).with_name("cluster_job.py")
    beside = subprocess.run(
        ["srun", "-n1", sys.executable, "-P", str(script), str(rival)], capture_output=True, text=True
    )
    assert beside.returncode == 0 and "leaves it alone" in beside.stdout, beside.stderr
    finished(run)
    assert single(workspace).status == "completed" and len(single(workspace).attempts) == 1


def test_another_interpreter(workspace: Path, labrun: Command) -> None:
    """Here this one, by its path: its own packages are used, not the submitter's import path."""
    done = labrun("compute=slurm", f"compute.python={sys.executable}", "tracking=none", "report=none")
    assert done.returncode == 0, done.stdout + done.stderr
    assert single(workspace).status == "completed"


def test_setup_lines_run_before_the_work(workspace: Path, labrun: Command) -> None:
    done = labrun("compute=slurm", "compute.setup=[touch was-here]", "tracking=none", "report=none")
    assert done.returncode == 0 and (workspace / "was-here").exists()


def test_a_search_with_early_termination(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    done = labrun("-m", "model=climber", "model.quality=1,0.9,0.8,0.2,0.1", "model.seconds=8", "model.steps=16", *SLURM,
                  "sweep.metric=score", "sweep.max_concurrent=1", "sweep/early_termination=bandit",
                  "sweep.early_termination.delay_evaluation=2", "dataset.max_samples=50")  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = sweep_dir(workspace)
    found = [records.read(folder / str(number)) for number in range(5)]
    assert [record.status for record in found] == ["completed"] * 3 + ["stopped"] * 2 or found[1].status == "stopped"
    for record in found[3:]:
        assert record.status == "stopped" and record.job is not None
        assert (record.error or {})["message"].startswith("Bandit at report ") and (record.duration_s or 9) < 7
    assert (folder / "best.yaml").exists() and len({(record.job or {})["id"] for record in found}) == 5


def test_a_search_goes_on_after_kill_9_of_its_controller(workspace: Path, labrun: Command) -> None:
    write_climber(workspace)
    asked = ("compute=slurm", "model=climber", "model.quality=interval(0,1)", "model.seconds=2", "sweep=tpe",
             "sweep.metric=score", "sweep.max_trials=6", "sweep.max_concurrent=3")  # fmt: skip
    search = start(workspace, *asked, cold=True)
    wait_for(lambda: statuses(workspace).count("completed") >= 1 and "running" in statuses(workspace), 120)
    search.kill()
    search.communicate(timeout=60)
    again = labrun("-m", *asked, *PLAIN, "sweep.resume=last")
    assert again.returncode == 0, again.stderr
    assert statuses(workspace) == ["completed"] * 6
    for number in range(6):
        assert [a["status"] for a in records.read(sweep_dir(workspace) / str(number)).attempts].count("completed") == 1


def test_without_accounting_a_job_that_dies_is_noticed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no database is kept, sacct says so and fails: squeue and the heartbeat must do."""
    tools = workspace / "tools"
    tools.mkdir()
    for name in ("sacct", "sacctmgr"):
        (tools / name).write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    write_model(workspace)
    sweep = start(workspace, "compute=slurm", "model=sleeper", "model.number=1,2", "model.seconds=8")
    wait_for(lambda: statuses(workspace) == ["running"] * 2, 120)
    run_dir = sweep_dir(workspace) / "0"
    server = psutil.Process((records.read(run_dir).process or {})["pid"]).parent()
    supervisor = None if server is None else server.parent()
    assert supervisor is not None
    supervisor.kill()  # and with it all the rest of the job
    began = time.monotonic()
    finished(sweep)
    assert sweep.returncode == 1 and sorted(statuses(workspace)) == ["completed", "failed"]
    assert time.monotonic() - began < 60, "a job's death is noticed soon, not after minutes"
    assert records.read(run_dir).status == "failed" and "job" in records.read(run_dir).reason
