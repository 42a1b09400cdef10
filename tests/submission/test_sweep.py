"""Sweeps from the command line: frozen at submission, reported as they progress, interrupted cleanly."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Command, Refused
from helpers import PLAIN, SLEEPER, program, start, start_labrun, statuses, sweep_dir, wait_for, write_model
from labrun.backends.local.supervisor import GRACE_S
from labrun.runs.record import process_lives, read_record, shown_status


def test_edits_while_runs_wait_change_nothing(workspace: Path) -> None:
    write_model(workspace)
    sweep = start(workspace, "model=sleeper", "model.number=1,2,3", "model.seconds=1.0", "compute.max_parallel=1")
    wait_for(lambda: "running" in statuses(workspace))
    (workspace / "sleeper.py").write_text(SLEEPER.replace("one", "two"))
    (workspace / "conf" / "model" / "sleeper.yaml").write_text("_target_: sleeper.Sleeper\nseconds: 99.0\nnumber: 0\n")
    _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, err
    logs = [path.read_text() for path in workspace.glob("multirun/*/*/*/driver.log")]
    assert len(logs) == 3 and all("VERSION one" in log for log in logs)


def start_sleeping(workspace: Path, runs: int, cold: bool) -> subprocess.Popen[str]:
    """Start a sweep of scripts that sleep, two at a time."""
    (workspace / "sleeps.py").write_text("import time\ntime.sleep(60)\n")
    seeds = ",".join(map(str, range(runs)))
    words = ("experiment=script", "script.path=sleeps.py", f"seed={seeds}", "compute.max_parallel=2")
    return start_labrun("-m", *words, "tracking=none", "report=none", cwd=workspace, cold=cold)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_every_run(workspace: Path, number: signal.Signals) -> None:
    sweep = start_sleeping(workspace, 4, cold=number == signal.SIGINT)
    wait_for(lambda: statuses(workspace).count("running") == 2)
    sweep.send_signal(number)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "Traceback" not in err
    assert statuses(workspace) == ["canceled"] * 4


def test_a_second_interrupt_kills_runs_that_ignore_the_first(workspace: Path) -> None:
    write_model(workspace)
    deaf = SLEEPER.replace("time.sleep(self.seconds)", "signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)")
    (workspace / "sleeper.py").write_text(deaf.replace("import time", "import signal\nimport time"))
    sweep = start(workspace, "model=sleeper", "model.number=1,2,3", "compute.max_parallel=2")

    def fitting() -> list[Path]:
        return [log.parent for log in workspace.glob("multirun/*/*/*/driver.log") if "VERSION" in log.read_text()]

    wait_for(lambda: len(fitting()) == 2)
    found = [read_record(folder) for folder in fitting()]
    sweep.send_signal(signal.SIGINT)
    time.sleep(1)
    assert sweep.poll() is None, "they ignore the request"
    sweep.send_signal(signal.SIGINT)
    asked = time.monotonic()
    _, err = sweep.communicate(timeout=60)
    assert time.monotonic() - asked < GRACE_S - 2 and sweep.returncode == 130 and "Traceback" not in err
    assert statuses(workspace) == ["canceled"] * 3
    assert not any(process_lives(record.process) for record in found)


def test_runs_completed_before_an_interrupt_are_reported(workspace: Path) -> None:
    write_model(workspace)
    sweep = start(workspace, "model=sleeper", "model.number=1,2", "model.seconds=0,60", "compute.max_parallel=1")
    wait_for(lambda: "completed" in statuses(workspace) and "running" in statuses(workspace))
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "Traceback" not in err
    assert re.search(r"^  0 +completed ", out, re.M) and "None s" not in out and "canceled: canceled" not in out
    assert (sweep_dir(workspace) / "results.csv").read_text().count("canceled") == 3


def test_a_later_override_wins(labrun: Command, workspace: Path) -> None:
    done = labrun("-m", "model.regularization=1,2", "model={regularization: 5}", *PLAIN)
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text())["config"]["model"] for path in workspace.glob("multirun/*/*/*/run.json")]
    assert [model["regularization"] for model in found] == [5, 5]


def test_kill_9_of_the_controller_ends_its_runs(workspace: Path) -> None:
    sweep = start_sleeping(workspace, 3, cold=True)
    wait_for(lambda: statuses(workspace).count("running") == 2)
    sweep.kill()
    sweep.communicate(timeout=60)
    runs = [path.parent for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]

    def shown() -> list[str]:
        return sorted(shown_status(run, read_record(run)) for run in runs)

    wait_for(lambda: shown() == ["lost", "lost", "queued"])


MEDDLING = """
import os, shutil
import numpy as np
from pathlib import Path

def get_data():
    run = Path(os.environ["LABRUN_RUN_DIR"])
    {meddle}
    return {{"X": np.random.default_rng(0).random((60, 4)), "y": np.tile([0, 1], 30)}}
"""


def test_canceling_one_run_of_an_inline_sweep_keeps_the_others(labrun: Command, workspace: Path) -> None:
    meddle = "run.name == '0' and (run.parent / '1/requests/cancel').write_text('not needed')"
    (workspace / "get_data.py").write_text(MEDDLING.format(meddle=meddle))
    labrun("-m", "dataset=get_data", "seed=1,2,3", "compute=inline", *PLAIN)
    assert sorted(statuses(workspace)) == ["canceled", "completed", "completed"]


def test_a_run_removed_during_a_sweep_is_left_out_of_its_results(labrun: Command, workspace: Path) -> None:
    meddle = "run.name == '2' and shutil.rmtree(run.parent / '0')"
    (workspace / "get_data.py").write_text(MEDDLING.format(meddle=meddle))
    done = labrun("-m", "dataset=get_data", "seed=1,2,3", "compute.max_parallel=1", *PLAIN)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "Left out: " in done.stdout + done.stderr and done.stdout.count("  completed  ") >= 2
    assert len((sweep_dir(workspace) / "results.csv").read_text().splitlines()) == 3


def test_an_interpreter_without_labrun_is_refused(refused_here: Refused) -> None:
    python = Path(sys.base_prefix, "bin", "python3")
    assert "has no labrun" in refused_here("-m", "seed=1,2", f"compute.python={python}", *PLAIN)


def test_tasks_per_node_is_refused_for_scripts(refused_here: Refused, workspace: Path) -> None:
    (workspace / "train.py").write_text("print('here')\n")
    said = refused_here("experiment=script", "script.path=train.py", "compute=slurm", "compute.tasks_per_node=2")
    assert "compute.tasks_per_node=2: script.processes=N starts N processes" in said


def test_inline_and_local_sweeps_give_the_same_results(labrun: Command, workspace: Path) -> None:
    for target in ("inline", "local"):
        done = labrun("-m", "model.regularization=0.1,10", f"compute={target}", "tracking=none", "report=none")
        assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text())["metrics"] for path in sorted(workspace.glob("multirun/*/*/*/run.json"))]
    assert found[:2] == found[2:]


def test_resources_that_the_machine_lacks_are_refused(refused_here: Refused) -> None:
    for wish, words in (
        ("compute.mem_gb=100000", "GB of memory"),
        ("compute.cpus_per_run=4096", f"{os.cpu_count()} cores"),
    ):
        assert words in refused_here("-m", "model.regularization=0.1,10", wish)


def test_an_unwritable_run_folder_affects_no_other_run(workspace: Path, labrun: Command) -> None:
    """One run's folder becomes read-only while the run waits."""
    write_model(workspace)
    sweep = start(workspace, "model=sleeper", "model.number=1,2,3", "model.seconds=3", "compute.max_parallel=1")
    wait_for(lambda: "running" in statuses(workspace))
    folder = sweep_dir(workspace) / "2"
    if subprocess.run(["mount", "--bind", "-o", "ro", str(folder), str(folder)], check=False).returncode:
        sweep.kill()
        pytest.skip("needs the right to mount")
    try:
        out, err = sweep.communicate(timeout=120)
        assert sweep.returncode == 1 and "Traceback" not in err
        assert statuses(workspace) == ["completed", "completed", "queued"]
        assert "cannot write" in out + err
    finally:
        subprocess.run(["umount", str(folder)], check=False)
    again = labrun("-m", "model=sleeper", "model.number=1,2,3", "model.seconds=3", *PLAIN, "sweep.resume=last")
    assert again.returncode == 0 and statuses(workspace) == ["completed"] * 3


@pytest.fixture
def two_scripts(workspace: Path) -> tuple[str, ...]:
    """The arguments of a sweep of two scripts, which import no library."""
    (workspace / "says.py").write_text("print('said')\n")
    return "-m", "experiment=script", "script.path=says.py", "seed=1,2", "tracking=none", "report=none"


def test_a_sweep_runs_with_its_standard_streams_closed(workspace: Path, two_scripts: tuple[str, ...]) -> None:
    """`labrun ... >&-`, as from a badly made cron job."""
    command = shlex.join(program("labrun", *two_scripts, cold=True)) + " >&- 2>&- <&-"
    done = subprocess.run(["sh", "-c", command], cwd=workspace, timeout=120, check=False)
    assert done.returncode == 0 and statuses(workspace) == ["completed"] * 2


def test_a_run_that_dies_at_start_is_not_retried_forever(workspace: Path) -> None:
    write_model(workspace)
    sweep = start(workspace, "model=sleeper", "model.number=1,2", "model.seconds=2", "compute.max_parallel=1")
    wait_for(lambda: "running" in statuses(workspace))
    log = sweep_dir(workspace) / "1" / "driver.log"
    log.mkdir()
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1 and statuses(workspace) == ["completed", "failed"], out


def test_compute_targets_cannot_differ_within_a_sweep(refused_here: Refused) -> None:
    for values in ("compute=inline,local", "compute.detach=true,false"):
        assert "applies to the whole sweep" in refused_here("-m", values, "tracking=none")


def test_processes_that_a_run_leaves_behind_are_ended(workspace: Path, labrun: Command) -> None:
    """A child process, and a fork of the run that also returns from `fit`."""
    (workspace / "forks.py").write_text(
        "import os, subprocess, time\nimport numpy as np\n\n"
        "class Forks:\n    def __init__(self, number=0):\n        pass\n"
        "    def fit(self, x, y):\n        self.child = subprocess.Popen(['sleep', '987.6']).pid\n"
        "        if os.fork() == 0:\n            time.sleep(0.2)\n        return self\n"
        "    def predict(self, x):\n        time.sleep(0.5)\n        return np.zeros(len(x), int)\n"
    )
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "model" / "forks.yaml").write_text("_target_: forks.Forks\nnumber: 0\n")
    done = labrun("-m", "model=forks", "model.number=1,2", *PLAIN)
    assert statuses(workspace) == ["completed", "completed"], done.stdout
    for path in workspace.glob("multirun/*/*/*/metrics.jsonl"):
        assert path.read_text().count('"accuracy"') == 1
    assert subprocess.run(["pgrep", "-f", "sleep 987.6"], capture_output=True, check=False).returncode == 1


def test_a_removed_run_is_executed_again_on_resume(labrun: Command, workspace: Path) -> None:
    assert labrun("-m", "seed=1,2,3", *PLAIN).returncode == 0
    shutil.rmtree(sweep_dir(workspace) / "1")
    (sweep_dir(workspace) / "2" / "run.json").write_text("{")
    again = labrun("-m", "seed=1,2,3", *PLAIN, "sweep.resume=last")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 3 runs are done" in again.stdout and "Left out" in again.stdout + again.stderr


def test_a_sweep_continues_when_its_output_pipe_closes(workspace: Path, two_scripts: tuple[str, ...]) -> None:
    command = shlex.join(program("labrun", *two_scripts, cold=True)) + " | head -1"
    done = subprocess.run(
        ["sh", "-c", command], cwd=workspace, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr and "Logging error" not in done.stderr
    assert statuses(workspace) == ["completed"] * 2


ODD = """
import os, time
from sklearn.dummy import DummyClassifier
class Odd(DummyClassifier):
    def __init__(self, how="well"): super().__init__(); self.how = how
    def fit(self, X, y):
        if self.how == "signal": os.kill(os.getpid(), 40)
        if self.how == "silent": raise ValueError()
        if self.how == "key": raise KeyError("lr")
        if self.how == "name": raise OSError("no file \\udcff")
        if self.how == "server": os.kill(os.getppid(), 9); time.sleep(60)
        return super().fit(X, y)
"""


def write_odd(workspace: Path, **modules: str) -> None:
    """A model that ends in many ways, and models whose modules have these texts."""
    models = workspace / "conf" / "model"
    models.mkdir(parents=True)
    for name, text in {"odd": ODD, **modules}.items():
        (workspace / f"{name}.py").write_text(text)
        (models / f"{name}.yaml").write_text(f"_target_: {name}.Odd\n" + ("how: well\n" if name == "odd" else ""))


def test_a_module_that_ends_its_process_fails_its_own_runs(labrun: Command, workspace: Path) -> None:
    leaves = "import sys\nsys.exit('needs a licence')\nclass Odd: ...\n"
    write_odd(workspace, leaves=leaves, crashes="import ctypes\nctypes.string_at(0)\nclass Odd: ...\n")
    done = labrun("-m", "model=odd,leaves,crashes", "seed=1,2", *PLAIN)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert statuses(workspace) == ["completed"] * 2 + ["failed"] * 4
    assert "exit code 'needs a licence'" in done.stdout and "ended by SIGSEGV" in done.stdout


def test_each_odd_ending_is_reported_by_its_run_alone(labrun: Command, workspace: Path) -> None:
    write_odd(workspace)
    done = labrun("-m", "model=odd", "model.how=signal,silent,key,name,well", *PLAIN)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    folder = sweep_dir(workspace)
    found = {name: read_record(folder / str(place)) for place, name in enumerate(("signal", "silent", "key", "name"))}
    assert {name: record.reason for name, record in found.items()} == {
        "signal": "the run's process was ended by signal 40",
        "silent": "ValueError",
        "key": "KeyError: 'lr'",
        "name": "no file \\udcff",
    }
    assert all(
        f"{record.reason}  ({folder / str(n)}/driver.log)" in done.stdout for n, record in enumerate(found.values())
    )
    assert read_record(folder / "4").status == "completed"


def test_a_run_that_kills_its_server_fails_alone(labrun: Command, workspace: Path) -> None:
    write_odd(workspace)
    done = labrun("-m", "model=odd", "model.how=server,well", "seed=1,2,3", *PLAIN)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert statuses(workspace) == ["failed"] * 3 + ["completed"] * 3
    assert "the pool's fork server died 4 times while this run was active" in done.stdout


def test_a_mistake_shared_by_many_runs_is_one_line(refused_here: Refused) -> None:
    said = refused_here("-m", "seed=range(0,20)", "compute.cpus_per_run=999")
    assert len(said.splitlines()) == 1
    assert "run 0 (seed=0, compute.cpus_per_run=999) and 19 more: compute.cpus_per_run=999" in said
    said = refused_here("-m", "seed=1,2", "trainer.max_epochs=0", "trainer.batch_size=0")
    assert said.count("mistakes in the configuration:") == 1, "no list within a list"
    assert said.count("- run 0 (") == said.count(" and 1 more: ") == 2


def test_a_sweep_continues_when_standard_output_is_full(workspace: Path, two_scripts: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        sweep = start_labrun(*two_scripts, cwd=workspace, cold=True, stdout=full)
        _, err = sweep.communicate(timeout=120)
    assert "standard output cannot be written: No space left" in err and "Traceback" not in err
    assert statuses(workspace) == ["completed"] * 2 and (sweep_dir(workspace) / "results.csv").exists()
