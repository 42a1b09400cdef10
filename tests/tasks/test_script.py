"""The user's own scripts: arguments, working folder, metrics, exit codes, sweeps, interpreters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from conftest import Command, Refused
from helpers import lab, start_labrun, statuses, sweep_dir, wait_for
from labrun.api.program import start_run
from labrun.runs import context, definition, model_journal, store
from labrun.runs.record import RunPaths
from labrun.runs.recording import PREEMPT_SIGNAL, Preempted
from labrun.submission import pythons
from labrun.tasks.script import ranks, script
from labrun.tasks.script.script import Ended

TRAIN = """
import argparse, os, sys, time
import helper
p = argparse.ArgumentParser()
p.add_argument("--learning_rate", type=float, default=0.1)
p.add_argument("--data_path")
p.add_argument("--layers", nargs="*")
p.add_argument("--seconds", type=float, default=0.0)
p.add_argument("--verbose", action="store_true")
p.add_argument("--way", default="")
p.add_argument("-k", type=int, default=0)
p.add_argument("where", nargs="?")
a = p.parse_args()
print("GIVEN", sys.argv[1:], helper.NAME, flush=True)
import labrun
for step in range(4):
    labrun.log("loss", a.learning_rate / (step + 1), step=step)
    print(f"step {step}: error={a.learning_rate * 2:.3f}", flush=True)
    time.sleep(a.seconds / 4)
open("outputs/model.txt", "w").write("model")
open("logs/notes.txt", "w").write("notes")
if a.way == "raise":
    raise ValueError("no more data")
if a.way == "exit":
    sys.exit(3)
if a.way == "kill":
    os.kill(os.getpid(), 9)
"""
SCRIPT = ("experiment=script", "script.path=src/train.py", "tracking=none")


@pytest.fixture
def source(workspace: Path) -> Path:
    """A folder with a script, a module beside it, and a large file that is not copied."""
    (workspace / "src").mkdir()
    (workspace / "src" / "train.py").write_text(TRAIN)
    (workspace / "src" / "helper.py").write_text("NAME = 'beside it'\n")
    (workspace / "src" / "large.bin").write_bytes(bytes(6 * 2**20))
    (workspace / "src" / ".env").write_text("SECRET=1\n")
    return workspace


def test_arguments_become_a_command_line() -> None:
    given = {"lr": 0.1, "C": 3, "names": ["a b", "c"], "flag": True, "off": False, "none": None, "-z": 1}
    assert definition.words(["one", 2], given) == [
        "one",
        "2",
        "--lr",
        "0.1",
        "--C",
        "3",
        "--names",
        "a b",
        "c",
        "--flag",
        "-z",
        "1",
    ]
    assert definition.words([], {"text": "$(rm -rf /); `x`"}) == ["--text", "$(rm -rf /); `x`"]


def test_how_a_script_ended_is_reported() -> None:
    tail = ["before", "Traceback (most recent call last):", '  File "a.py"', "ValueError: no"]
    assert Ended(1, tail).message("a.py") == "a.py ended with exit code 1: ValueError: no"
    assert Ended(1, tail).trace.startswith("Traceback") and "before" not in Ended(1, tail).trace
    assert Ended(-9, []).message("a.py") == "a.py was ended by SIGKILL"


def test_an_unmodified_script_runs(source: Path, labrun: Command) -> None:
    (source / "data" / "set").mkdir(parents=True)
    (source / "data" / "set" / "numbers.txt").write_text("1 2 3")
    done = labrun(
        *SCRIPT,
        "script.arguments.learning_rate=0.5",
        "script.arguments.data_path=${mount:set}",
        "script.arguments.layers=[1,2]",
        "script.arguments.verbose=true",
        "script.positional=['a b; c']",
        "script.metrics.error='step (?P<step>[0-9]+): error=([0-9.]+)'",
        "datastore.root=data",
    )
    assert done.returncode == 0, done.stderr
    run_dir, record = store.find(source, "last")
    log = (run_dir / "driver.log").read_text()
    assert "--data_path '${mount:set}'" in log and f"--data_path {source}/data/set" in log and "numbers.txt" in log
    assert "beside it" in log and "'a b; c'" in log and "'--layers', '1', '2', '--verbose'" in log
    assert record.status == "completed" and record.name == "train" and record.metrics == {"loss": 0.125, "error": 1.0}
    assert [line["step"] for line in context.read_metrics(run_dir) if line["name"] == "loss"] == [0, 1, 2, 3]
    assert (run_dir / "outputs/model.txt").read_text() == "model" and (run_dir / "logs/notes.txt").exists()
    assert (run_dir / "work/large.bin").is_symlink() and not (run_dir / "work/helper.py").is_symlink()
    assert not (run_dir / "work/.env").exists() and not (source / "src/outputs").exists()
    assert record.code and record.code.script and record.code.script.files == 2
    assert (run_dir / "outputs/curves.png").is_file()


@pytest.mark.parametrize(
    "way, message",
    [
        ("raise", "train.py ended with exit code 1: ValueError: no more data"),
        ("exit", "train.py ended with exit code 3"),
        ("kill", "train.py was ended by SIGKILL"),
    ],
)
def test_a_failed_script_fails_its_run(source: Path, labrun: Command, way: str, message: str) -> None:
    done = labrun(*SCRIPT, f"script.arguments.way={way}")
    assert done.returncode == 1 and message in done.stderr and "src/labrun" not in done.stderr
    _, record = store.find(source, "last")
    assert record.status == "failed" and record.reason.startswith(message) and record.metrics["loss"] == 0.025
    if way == "raise":
        assert "no more data" in lab(source, "runs", "show", "last", "--error").stdout


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["script.path=src/trian.py"], "script.path=src/trian.py: there is no such file"),
        (["script.python=/nowhere/python"], "neither an interpreter nor"),
        (["script.requirements=none.txt"], "there is no such file"),
        (["script.metrics.loss='loss [0-9]+'"], "a group, ( )"),
        (["script.metrics.loss='('"], "not a regular expression"),
        (["dataset=digits"], "dataset: a script brings its own"),
        (["model=mnist_dnn"], "model: a script brings its own"),
        (["script.arguments.x={a:1}"], "script.arguments.x={'a': 1}: an argument is text"),
        (["script.path=/etc/hostname"], "/etc is not a source folder"),
        (["script.path=."], "there is no such file"),
        (["script.arguments.data='${mount:nothing}'"], "nothing"),
        (["trainer.resume=last"], "./checkpoints"),
    ],
)
def test_mistakes_in_the_arguments_of_a_script_are_refused(
    source: Path, refused_here: Refused, wrong: list[str], said: str
) -> None:
    assert said in refused_here("experiment=script", "script.path=src/train.py", *wrong)


def test_a_missing_script_path_is_refused(refused_here: Refused) -> None:
    assert "script.path" in refused_here("experiment=script")


FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("outputs/pids", "w").write(f"{__import__('os').getpid()} {child.pid}")
try:
    time.sleep(600)
except KeyboardInterrupt:
    open("outputs/told", "w").write("interrupted")
    raise
"""


def family(workspace: Path) -> list[int]:
    """The processes of the script in FAMILY, once it has begun."""
    wait_for(lambda: any(path.read_text() for path in workspace.glob("outputs/*/*/outputs/pids")))
    (path,) = workspace.glob("outputs/*/*/outputs/pids")
    return [int(pid) for pid in path.read_text().split()]


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.parametrize("target", ["inline", "local"])
@pytest.mark.parametrize("how", ["interrupt", "request", "kill"])
def test_no_process_of_a_script_outlives_its_run(workspace: Path, target: str, how: str) -> None:
    (workspace / "family.py").write_text(FAMILY)
    command = ["experiment=script", "script.path=family.py", "tracking=none", f"compute={target}"]
    run = start_labrun(*command, cwd=workspace, cold=how != "request")
    pids = family(workspace)
    if how == "interrupt":
        run.send_signal(signal.SIGINT)
    elif how == "request":
        assert lab(workspace, "runs", "cancel", "last").returncode == 0
    else:
        run.kill()
    run.communicate(timeout=60)
    wait_for(lambda: gone(pids), 20)
    run_dir, record = store.find(workspace, "last")
    if how != "kill":
        assert record.status == "canceled" and (run_dir / "outputs/told").read_text() == "interrupted"
        assert run.returncode == 130


def test_a_sweep_of_scripts_is_resumed(source: Path, labrun: Command) -> None:
    asked = ("-m", *SCRIPT, "script.arguments.learning_rate=0.1,0.2,0.4")
    done = labrun(*asked)
    assert done.returncode == 0, done.stderr
    assert statuses(source) == ["completed"] * 3
    (source / "src/helper.py").write_text("NAME = 'edited'\n")
    found = sorted(path for path in source.glob("multirun/*/*/*/run.json"))
    record = json.loads(found[1].read_text())
    found[1].write_text(json.dumps({**record, "status": "failed"}))
    again = labrun(*asked, "sweep.resume=last")
    assert again.returncode == 0 and "2 of 3 runs are done" in again.stdout, again.stdout + again.stderr
    assert "beside it" in (found[1].parent / "driver.log").read_text().split("second attempt")[-1].split("again")[-1]


def test_a_search_over_a_script_ends_trials_early(source: Path, labrun: Command) -> None:
    done = labrun(
        "-m",
        *SCRIPT,
        "sweep=random",
        "sweep/early_termination=bandit",
        "sweep.metric=loss",
        "sweep.early_termination.slack_amount=0.01",
        "sweep.early_termination.slack_factor=null",
        "sweep.max_trials=6",
        "sweep.max_concurrent=2",
        "script.arguments.seconds=2",
        "script.arguments.learning_rate=choice(0.01,1.0,0.8,0.9,0.7,0.95)",
    )
    assert done.returncode == 0, done.stderr
    assert len(statuses(source)) == 6 and set(statuses(source)) == {"completed", "stopped"}
    assert (sweep_dir(source) / "best.yaml").is_file()


def test_a_script_runs_under_another_interpreter(source: Path, labrun: Command) -> None:
    """The interpreter has its own packages but no labrun; `import labrun` works all the same."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(source / "venv")], check=True)
    shown = "print('PREFIX', sys.prefix, u.find_spec('numpy'))"
    (source / "src/train.py").write_text(f"import sys, importlib.util as u, labrun\n{shown}\nlabrun.log('x', 1)\n")
    done = labrun(*SCRIPT, "script.python=venv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PREFIX {source}/venv None" in done.stdout and store.find(source, "last")[1].metrics == {"x": 1.0}


def test_an_environment_of_requirements_is_built_once(source: Path, labrun: Command) -> None:
    (source / "requirements.txt").write_text("six==1.17.0\n")
    (source / "src/train.py").write_text("import sys, six, labrun\nlabrun.log('x', float(sys.argv[2]))\n")
    asked = ("-m", *SCRIPT, "script.requirements=requirements.txt", "script.arguments.v=1,2")
    done = labrun(*asked)
    assert done.returncode == 0, done.stdout + done.stderr
    built = list((source / "outputs/.labrun/environments").glob("*/.complete"))
    assert len(built) == 1 and done.stdout.count("Building the environment") == 1
    first = built[0].stat().st_mtime_ns
    assert labrun(*asked).returncode == 0 and built[0].stat().st_mtime_ns == first
    run_dir, _ = store.find(source, "last")
    assert "six" in (run_dir / "logs/environment.log").read_text()
    (source / "requirements.txt").write_text("no-such-package-of-labrun==1.0\n")
    done = labrun(*asked)
    assert done.returncode == 2 and "could not be built" in done.stderr and "Traceback" not in done.stderr
    assert len(list(source.glob("multirun/*/*"))) <= 3 and not [
        record for _, record in store.runs(source) if record.status == "queued"
    ]


def test_a_conda_file_is_built_with_its_python_version(source: Path, labrun: Command) -> None:
    """The oldest one installed here; most of Azure's samples use 3.6."""
    python = next(filter(None, (pythons.find(f"3.{minor}") for minor in range(6, 11))), None)
    if python is None:
        pytest.skip("there is no Python 3.6 to 3.10 here (pyenv install 3.6, or uv python install 3.9)")
    minor = Path(python).resolve().name.removeprefix("python")
    (source / "env.yml").write_text(f"dependencies: [python={minor}, pip: [azureml-sdk, six]]\n")
    text = "import six, sys\nfrom azureml.core import Run\nRun.get_context().log('minor', sys.version_info[1])\n"
    (source / "src/train.py").write_text(text)
    done = labrun(*SCRIPT, "script.azureml=true", "script.requirements=env.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"env.yml for {python}, once" in done.stdout
    assert f"3.{store.find(source, 'last')[1].metrics['minor']:.0f}" == minor


RANK = """
import os, sys, labrun
labrun.log("rank" + os.environ["RANK"], float(os.environ["WORLD_SIZE"]))
assert os.environ["MASTER_PORT"] and os.environ["LOCAL_RANK"] == os.environ["RANK"] and sys.argv[1:] == ["--lr", "0.1"]
"""


def test_a_command_runs_in_place_of_a_script(source: Path, labrun: Command) -> None:
    (source / "src/rank.py").write_text(RANK)
    (source / "src/has space").mkdir()
    command = "script.command='test -d \"has space\" && false || python rank.py'"
    told = labrun("experiment=script", "script.source=src", command, "script.arguments.lr=0.1", "script.processes=2")
    assert told.returncode == 0, told.stdout + told.stderr
    assert 'Script: test -d "has space" && false || python rank.py --lr 0.1' in told.stdout
    _, record = store.find(source, "last")
    assert record.metrics == {"rank0": 2.0, "rank1": 2.0} and record.name == "script"
    again = lab(source, "runs", "rerun", "last")
    assert again.returncode == 0 and len(list(store.runs(source))) == 2, again.stdout + again.stderr


def test_all_processes_end_with_the_exit_code_of_the_first_failure() -> None:
    code = "import os, sys, time; time.sleep(0 if os.environ['RANK'] == '1' else 60); sys.exit(7)"
    begun = time.monotonic()
    done = subprocess.run([sys.executable, ranks.__file__, "3x1", sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 7 and time.monotonic() - begun < 30
    assert done.stderr == b"labrun: process 1 of 3 ended with exit code 7; the others are ended\n"


def test_workers_of_tensorflow_find_each_other() -> None:
    code = "import os; os.write(1, (os.environ.get('TF_CONFIG', 'none') + chr(10)).encode())"
    command = [sys.executable, ranks.__file__, "2x1", sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, env={**os.environ, ranks.TF_VARIABLE: "worker"}, check=True)
    found = [json.loads(line) for line in told.stdout.splitlines()]
    assert sorted(one["task"]["index"] for one in found) == [0, 1] and found[0]["cluster"] == found[1]["cluster"]
    assert len(set(found[0]["cluster"]["worker"])) == 2
    assert subprocess.run(command, capture_output=True, check=True).stdout.split() == [b"none", b"none"]


def test_mlflow_calls_of_a_script_are_recorded(source: Path, labrun: Command) -> None:
    """Over 15 s: each of its runs imports MLflow."""
    (source / "src/train.py").write_text("""
import mlflow
mlflow.set_experiment("anything")
with mlflow.start_run():
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"a": 1, "b": 2})
    mlflow.log_params({"lr": 0.1})
    mlflow.set_tag("team", "vision")
    mlflow.log_text("hello", "notes/hello.txt")
    with mlflow.start_run(nested=True):
        mlflow.log_metric("inner", 7)
    with mlflow.start_run(nested=True):
        mlflow.log_metric("inner", 6)
earlier = mlflow.search_runs(filter_string="metrics.loss > 8")
print("earlier", earlier["metrics.loss"].tolist(), mlflow.get_run(earlier["run_id"][0]).data.metrics)
print([m.value for m in mlflow.MlflowClient().get_metric_history(earlier["run_id"][0], "loss")])
best = mlflow.search_runs(filter_string="metrics.inner > 1", order_by=["metrics.inner ASC"])
print("inner", best["metrics.inner"].tolist(), len(mlflow.search_runs(max_results=1)))
for wrong in (lambda: mlflow.search_runs(filter_string="loss ="), lambda: mlflow.get_run("0" * 32)):
    try:
        wrong()
    except mlflow.exceptions.MlflowException as error:
        print(error)
from sklearn.linear_model import LogisticRegression
model = LogisticRegression().fit([[0], [1]], [0, 1])
requirements = ["scikit-learn"]
logged = mlflow.sklearn.log_model(model, "model", serialization_format="cloudpickle", pip_requirements=requirements)
print("version", mlflow.register_model(logged.model_uri, "fit", tags={"c": "d"}).version)
from azureml.core import Run
print("its", mlflow.register_model(f"runs:/{Run.get_context().id}/model", "fit").version)
""")
    with start_run("train", root=source) as before:
        before.log("loss", 8, step=1)
        before.log("loss", 9, step=2)
    done = labrun(*SCRIPT, "script.azureml=true", "name=train")
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, record = store.find(source, "last")
    assert record.metrics == {"loss": 1 / 3, "a": 1, "b": 2, "inner": 6} and record.tags == {"team": "vision"}
    assert (run_dir / "outputs/notes/hello.txt").read_text() == "hello"
    assert json.loads((run_dir / "logs/mlflow_params.json").read_text()) == {"lr": "0.1"}
    assert (run_dir / "outputs/model/MLmodel").is_file()
    version, second = model_journal.every(model_journal.read(source))
    assert (version.name, version.number, version.tags, version.run) == ("fit", 1, {"c": "d"}, record.id)
    assert (second.number, second.run, second.file) == (2, record.id, version.file)
    text = (run_dir / "driver.log").read_text()
    assert "version 1\n" in text and "Registered fit/1: outputs/model" in text and "its 2\n" in text
    assert "earlier [9.0] {'loss': 9.0}\n[8.0, 9.0]\ninner [6.0, 7.0] 1\n" in text
    assert "RESOURCE_DOES_NOT_EXIST: no run is called '00000000'" in text
    assert "INVALID_PARAMETER_VALUE: runs/search: Invalid" in text


def test_a_sweep_of_scripts_draws_the_curves_of_its_best_run(workspace: Path, labrun: Command) -> None:
    (workspace / "t.py").write_text(
        "import labrun, sys\nfor n in range(3): labrun.log('accuracy', float(sys.argv[2]) * n, n)\n"
    )
    done = labrun("-m", "experiment=script", "script.path=t.py", "script.arguments.C=0.1,0.3", "tracking=none")
    assert done.returncode == 0 and "could not be drawn" not in done.stdout + done.stderr
    assert (sweep_dir(workspace) / "1/outputs/curves.png").is_file()
    again = lab(workspace, "runs", "rerun", "best:accuracy")  # the script is still where it was
    assert again.returncode == 0, again.stderr


def test_the_working_folder_links_large_files_and_holds_no_secrets(tmp_path: Path) -> None:
    source, snapshot, run = tmp_path / "source", tmp_path / "snapshot", tmp_path / "run"
    for folder in (source / "data", source / ".git", snapshot, run):
        folder.mkdir(parents=True)
    for name in ("data/x.bin", "id_rsa", "key.pem", ".env", "notes.txt"):
        (source / name).write_text("x")
    (snapshot / "train.py").write_text("pass")
    work = script.make_work_folder(RunPaths(run), snapshot, source)
    assert sorted(path.name for path in work.iterdir()) == [
        "checkpoints",
        "data",
        "logs",
        "notes.txt",
        "outputs",
        "train.py",
    ]
    assert os.readlink(work / "outputs") == "../outputs"
    again = script.make_work_folder(RunPaths(run), snapshot, source)  # a second attempt
    assert again == work and time.time() > 0


def test_a_run_of_a_script_is_repeated_with_its_original_code(source: Path, labrun: Command) -> None:
    assert labrun(*SCRIPT, "script.arguments.learning_rate=0.5", "compute=local").returncode == 0
    (source / "src" / "helper.py").write_text("NAME = 'edited'\n")
    again = lab(source, "runs", "rerun", "last", "script.arguments.learning_rate=1.0")
    assert again.returncode == 0, again.stderr
    run_dir, record = store.find(source, "last")
    assert record.metrics["loss"] == 0.25 and "beside it" in (run_dir / "driver.log").read_text()
    assert (run_dir / "work" / "large.bin").is_symlink()
    assert lab(source, "runs", "export", "last", "-o", "one.tar.gz").returncode == 0
    other = source / "other"
    other.mkdir()
    assert lab(other, "--root", ".", "runs", "import", "../one.tar.gz").returncode == 0
    again = lab(other, "runs", "rerun", record.id)
    assert again.returncode == 0 and "beside it" in (store.find(other, "last")[0] / "driver.log").read_text()
    again = lab(source, "runs", "rerun", "last", "--code", "new")
    assert again.returncode == 0, again.stderr
    assert "edited" in (store.find(source, "last")[0] / "driver.log").read_text()


@pytest.mark.parametrize("reason", [Preempted, KeyboardInterrupt])
def test_a_script_ended_by_a_signal_to_its_job_gets_the_jobs_reason(
    tmp_path: Path, reason: type[BaseException]
) -> None:
    """A Slurm job's supervisor needs time to find out why it was signaled; meanwhile the script exits with 0."""

    def decide(number: int, frame: object) -> None:
        raise reason

    before = signal.signal(PREEMPT_SIGNAL, decide)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as in a job
    here = threading.get_ident()
    signal.pthread_kill(here, signal.SIGTERM)
    supervisor = threading.Timer(1.0, signal.pthread_kill, (here, PREEMPT_SIGNAL))
    supervisor.start()
    try:
        with pytest.raises(reason):
            script.Watched([sys.executable, "-IS", "-c", ""], tmp_path, os.environ, {}).wait()
    finally:
        supervisor.cancel()
        signal.sigwait({signal.SIGTERM})
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(PREEMPT_SIGNAL, before)
