"""Sweeps that continue after a crash, in the background, or under another controller; runs in other processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from conftest import Command
from helpers import (
    PLAIN,
    SLEEPER,
    copy_database,
    lab,
    mlflow_sync,
    start,
    start_labrun,
    statuses,
    sweep_dir,
    wait_for,
    write_model,
)
from labrun.control import controller, lease
from labrun.errors import LabrunError, RecordError
from labrun.runs.context import read_metrics
from labrun.runs.record import process_identity, read_record
from labrun.runs.sweep_state import SweepState

SCRIPT = ("experiment=script", "script.path=train.py", "tracking=none", "report=none")
"""Runs a script where a model does not matter, as a detached pool imports scikit-learn for a model."""


def attempts(workspace: Path) -> list[int]:
    return [len(read_record(path.parent).attempts) for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]


def test_a_folder_has_one_controller_at_a_time(tmp_path: Path) -> None:
    state = SweepState(tmp_path)
    first = lease.Lease(state)
    with pytest.raises(RecordError, match=f"controlled by process {os.getpid()}"):
        lease.Lease(state)
    first.release()
    second = lease.Lease(state)
    assert second.number == 2
    (state.controllers / "3").write_text(json.dumps(process_identity().as_json()))
    second._next_beat = 0.0
    with pytest.raises(lease.OvertakenError, match="this one stops"):
        second.beat()


def test_the_lease_of_a_dead_controller_is_taken_over(tmp_path: Path) -> None:
    state = SweepState(tmp_path)
    (state.controllers).mkdir(parents=True)
    gone = {**process_identity().as_json(), "pid": 2**22 - 1}
    (state.controllers / "1").write_text(json.dumps(gone))
    assert lease.Lease(state).number == 2


def test_a_detached_controller_that_cannot_start_is_reported(tmp_path: Path) -> None:
    SweepState(tmp_path).make()
    with pytest.raises(LabrunError, match=rf"^the runs could not be started: {tmp_path} holds no sweep.*\(log: "):
        controller.detach(tmp_path, {})
    assert not SweepState(tmp_path).refusal.exists()


def test_resume_after_kill_9_of_the_controller_runs_only_missing_runs(workspace: Path, labrun: Command) -> None:
    script = "import time\nprint('VERSION one', flush=True)\ntime.sleep(1.5)\nprint('accuracy 0.5')\n"
    (workspace / "train.py").write_text(script)
    values = ("-m", *SCRIPT, "script.metrics.accuracy='accuracy (.*)'", "seed=1,2,3,4,5", "compute.max_parallel=2")
    sweep = start_labrun(*values, cwd=workspace, cold=True)
    wait_for(lambda: statuses(workspace).count("completed") >= 2 and "running" in statuses(workspace))
    sweep.kill()
    sweep.communicate(timeout=60)
    done = statuses(workspace)
    (workspace / "train.py").write_text(script.replace("one", "two"))
    again = labrun(*values, "sweep.resume=last")
    assert again.returncode == 0, again.stderr
    assert statuses(workspace) == ["completed"] * 5 and len(list(workspace.glob("multirun/*/*"))) == 1
    kept = [tries for tries, status in zip(attempts(workspace), done, strict=True) if status == "completed"]
    assert kept == [1] * done.count("completed")
    assert "The code has changed since (train.py)" in again.stdout
    logs = [path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log")]
    assert all("VERSION one" in log and "VERSION two" not in log for log in logs)
    for path in workspace.glob("multirun/*/*/*/metrics.jsonl"):
        names = [line["name"] for line in read_metrics(path.parent)]
        assert names.count("accuracy") == 1


def test_failed_runs_are_retried_with_new_code_on_request(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    values = ("model=sleeper", "model.number=-1,1", *PLAIN)
    first = labrun("-m", *values)
    assert first.returncode == 1 and "number -1 is below zero" in first.stdout
    assert statuses(workspace) == ["failed", "completed"]
    (workspace / "sleeper.py").write_text(SLEEPER.replace("number < 0", "number < -5"))
    same = labrun("-m", *values, "sweep.resume=last")
    assert same.returncode == 1 and statuses(workspace) == ["failed", "completed"]
    new = labrun("-m", *values, "sweep.resume=last", "sweep.resume_code=new")
    assert new.returncode == 0, new.stdout + new.stderr
    assert statuses(workspace) == ["completed", "completed"] and attempts(workspace) == [3, 1]
    more = labrun("-m", "model=sleeper", "model.number=1,7", *PLAIN, f"sweep.resume={sweep_dir(workspace)}")
    assert more.returncode == 0 and len(statuses(workspace)) == 3 and attempts(workspace) == [3, 1, 1]


def test_resume_repeats_removed_runs(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    values = ("-m", "model=sleeper", "model.number=1,2,3,-4", *PLAIN)
    labrun(*values)
    folder = sweep_dir(workspace)
    for number in (0, 1):
        assert lab(workspace, "runs", "rm", str(folder / str(number)), "--yes").returncode == 0
    again = labrun(*values, "sweep.resume=last", "compute.retries=1")
    assert again.returncode == 1 and sorted(statuses(workspace)) == ["completed"] * 3 + ["failed"]
    (failed,) = [read_record(path.parent) for path in folder.glob("*/run.json") if "below zero" in path.read_text()]
    assert len(failed.attempts) == 3, "one retry of this session, whatever earlier ones tried"
    assert "compute.retries=1" in failed.overrides
    fewer = labrun("-m", "model=sleeper", "model.number=1", *PLAIN, "sweep.resume=last")
    assert (
        "1 of 1 runs are done" in fewer.stdout
        and "1 run of the sweep that this command does not include" not in fewer.stdout
    )
    other = labrun("-m", "model.regularization=1,2", *PLAIN, f"sweep.resume={folder}")
    assert other.returncode == 2 and "is of digits-sleeper" in other.stderr and "Traceback" not in other.stderr


def test_a_second_controller_is_refused_and_cancel_ends_the_sweep(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    values = ("model=sleeper", "model.number=1,2,3", "model.seconds=60", "compute.max_parallel=2")
    sweep = start(workspace, *values)
    wait_for(lambda: statuses(workspace).count("running") == 2)
    second = labrun("-m", *values, *PLAIN, "sweep.resume=last")
    assert second.returncode == 2 and "still running" in second.stderr and "Traceback" not in second.stderr
    done = lab(workspace, "runs", "cancel", str(sweep_dir(workspace)))
    assert done.returncode == 0 and done.stdout.count("canceled") == 3, done.stdout + done.stderr
    sweep.communicate(timeout=60)
    assert sweep.returncode == 1 and statuses(workspace) == ["canceled"] * 3
    again = labrun("-m", "model=sleeper", "model.number=1,2,3", "model.seconds=0", *PLAIN, "sweep.resume=last")
    assert again.returncode == 0 and statuses(workspace) == ["canceled"] * 3 + ["completed"] * 3


def test_a_sweep_is_canceled_after_max_failures(workspace: Path, labrun: Command) -> None:
    write_model(workspace)
    numbers = ",".join(str(-n) for n in range(1, 11))
    done = labrun(
        "-m", "model=sleeper", f"model.number={numbers}", *PLAIN, "compute.max_failures=2", "compute.max_parallel=1"
    )
    assert done.returncode == 1
    found = statuses(workspace)
    assert found.count("failed") in (3, 4) and set(found) == {"failed", "canceled"}
    assert "compute.max_failures=2" in done.stdout


def test_detached_runs_outlive_their_command_and_are_watched(workspace: Path, labrun: Command) -> None:
    script = "import sys, time\nprint('VERSION one', flush=True)\ntime.sleep(float(sys.argv[1]))\n"
    option = "# @package _global_\ndefaults: [/experiment/script]\nscript: {path: train.py, positional: [1.0]}\n"
    sleeps = workspace / "conf" / "experiment" / "sleeps.yaml"
    sleeps.parent.mkdir(parents=True)
    sleeps.write_text(option)
    (workspace / "train.py").write_text(script)
    done = labrun("-m", "experiment=sleeps", *SCRIPT[2:], "seed=1,2,3", "compute.detach=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lab runs watch" in done.stdout and "completed" not in statuses(workspace)
    (workspace / "train.py").write_text(script.replace("one", "two"))
    sleeps.write_text(option.replace("1.0", "none"))
    watched = lab(workspace, "runs", "watch")
    assert watched.returncode == 0 and statuses(workspace) == ["completed"] * 3
    assert (sweep_dir(workspace) / "results.csv").read_text().count("completed") == 3
    assert all("VERSION one" in path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log"))


def test_watch_takes_over_from_a_dead_controller(workspace: Path, labrun: Command) -> None:
    (workspace / "train.py").write_text("import time\ntime.sleep(2)\n")
    values = (*SCRIPT, "seed=1,2,3,4", "compute.max_parallel=1")
    assert labrun("-m", *values, "compute.detach=true").returncode == 0
    wait_for(lambda: "completed" in statuses(workspace))
    holder = lease.living(SweepState(sweep_dir(workspace)))
    assert holder is not None
    refused = lab(workspace, "runs", "rm", str(sweep_dir(workspace) / "0"), "--yes")
    assert refused.returncode == 1 and "its sweep is still running" in refused.stderr
    os.kill(holder.pid, signal.SIGKILL)
    watched = lab(workspace, "runs", "watch", str(sweep_dir(workspace)))
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "continuing them from here" in watched.stderr
    assert statuses(workspace) == ["completed"] * 4 and max(attempts(workspace)) <= 2


def test_a_single_run_in_the_pool_shows_its_log(workspace: Path, labrun: Command) -> None:
    done = labrun("compute=local", "tracking=none")
    assert done.returncode == 0, done.stderr
    assert "Fitting logistic_regression" in done.stdout and "accuracy" in done.stdout
    (record,) = (read_record(path.parent) for path in workspace.glob("outputs/*/*/run.json"))
    assert record.status == "completed" and record.sweep is None
    assert list(workspace.glob("outputs/*/*/outputs/confusion_matrix.png"))
    write_model(workspace)
    failed = labrun("compute=local", "model=sleeper", "model.number=-3", *PLAIN)
    assert failed.returncode == 1 and "number -3 is below zero" in failed.stderr


def test_variables_reach_the_runs_and_are_recorded_by_name_only(
    workspace: Path, labrun: Command, empty_mlflow: Path
) -> None:
    """Over 15 s: the runs are shown in MLflow."""
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "shows.py").write_text(
        "import os\nimport numpy as np\n\nclass Shows:\n    def __init__(self, number=0):\n        pass\n"
        "    def fit(self, x, y):\n        assert len(os.environ['TOKEN']) == 9, 'not there'\n        return self\n"
        "    def predict(self, x):\n        return np.zeros(len(x), int)\n"
    )
    (workspace / "conf" / "model" / "shows.yaml").write_text("_target_: shows.Shows\nnumber: 0\n")
    secret = "+compute.environment.TOKEN=sesame-42"
    copy_database(empty_mlflow, workspace)
    for arguments in (("-m", "model.number=1,2"), ("-m", "model.number=1,2", "compute=inline"), ("compute=local",), ()):
        done = labrun(*arguments, "model=shows", secret, "report=none", "dataset.max_samples=50")
        assert done.returncode == 0, done.stdout + done.stderr
    (workspace / "train.py").write_text("import os\nassert len(os.environ['TOKEN']) == 9, 'not there'\n")
    detached = labrun("-m", *SCRIPT, "seed=1,2", secret, "compute.detach=true")
    assert detached.returncode == 0 and lab(workspace, "runs", "watch").returncode == 0
    mlflow_sync(workspace)
    holding = [path for path in workspace.rglob("*") if path.is_file() and b"sesame-42" in path.read_bytes()]
    assert holding == []
    assert "TOKEN" in read_record(next(iter(workspace.glob("multirun/*/*/0")))).config["compute"]["environment"]


def test_the_last_sweep_is_the_latest_even_if_the_clock_changes(
    workspace: Path, labrun_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "work.py").write_text("print('done')\n")
    sweep = ("-m", "experiment=script", "script.path=work.py", "compute=inline", "tracking=none", "report=none")

    def run(zone: str, *arguments: str) -> str:
        with monkeypatch.context() as there:
            there.setenv("TZ", zone)
            time.tzset()
            done = labrun_here(*sweep, *arguments)
        time.tzset()
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("Asia/Kolkata", "seed=1,2")
    run("UTC", "seed=7,8")
    assert "2 of 2 runs are done" in run("UTC", "seed=7,8", "sweep.resume=last")
    last = max(workspace.glob("multirun/*/*"), key=lambda folder: folder.name)
    assert read_record(last / "0").config["seed"] == 1, "by the name of its folder it would be the first one"
