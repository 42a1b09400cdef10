"""The command `labrun`, in a separate process, as users run it."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Command, Refused, Runner
from helpers import imported, processes_of, program, start_labrun, submitted
from labrun import _io, app
from labrun.app import command_line
from labrun.errors import ConfigError

HEAVY = ("torch", "pytorch_lightning", "sklearn", "matplotlib", "mlflow", "pandas")
FAILING_READER = """
from labrun.data.reader import Reader

class Failing(Reader):
    def find(self, root):
        if root.name == "conf":
            return False
        raise RuntimeError("no such volume")
    def read(self, root):
        return open(root / "missing")
"""


def test_a_run_that_is_interrupted_before_it_begins_is_canceled(tmp_path: Path) -> None:
    run_dir = submitted(tmp_path)
    for end in (KeyboardInterrupt(), SystemExit(130)):
        with pytest.raises(type(end)), app._taken_back(run_dir, None):
            raise end
        record = json.loads((run_dir / "run.json").read_text())
        assert record["status"] == "canceled" and record["error"]["message"] == "canceled before it began"
        (run_dir / "run.json").write_text(json.dumps({**record, "status": "queued", "ended": None, "error": None}))


def test_a_default_run_completes_without_mlflow(workspace: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "labrun"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sklearn" in imported(done.stderr) and "mlflow" not in imported(done.stderr)
    assert processes_of(workspace) == [], "it is over when it ends"
    assert [path.name for path in (workspace / "outputs" / ".labrun").iterdir() if "track" in path.name] == []
    assert not (workspace / "outputs" / ".labrun" / "mlflow.db").exists() and "lab ui shows it" in done.stdout
    assert "accuracy" in done.stdout and "digits" in done.stdout
    assert "Mount" not in done.stdout, "the digits ship inside scikit-learn"
    (run_dir,) = (workspace / "outputs" / "digits-logistic_regression").iterdir()
    record = json.loads((run_dir / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["metrics"]["accuracy"] > 0.95
    assert record["metrics"]["regularization rate"] == 0.01
    assert record["config"]["model"]["regularization"] == 0.01
    assert record["data"][0]["digest"] and record["signature"] and record["packages"]["scikit-learn"]
    assert record["attempts"][0]["status"] == "completed" and record["host"]["cpus"] >= 1
    assert run_dir.name.endswith(record["id"])
    names = {path.name for path in (run_dir / "outputs").iterdir()}
    assert {"model.skops", "model.json", "samples.png", "confusion_matrix.png", "weights.png"} <= names
    for name in ("config.yaml", "overrides.yaml", "hydra.yaml"):
        assert (run_dir / ".hydra" / name).is_file()
    assert "Fitting logistic_regression" in (run_dir / "driver.log").read_text()


def test_cfg_job_is_quick_and_writes_nothing(workspace: Path) -> None:
    code = (
        "import sys; from labrun import app\n"
        "sys.argv = ['labrun', '--cfg', 'job']\n"
        "app.main()\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=workspace)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "regularization: 0.01" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5, "many times the usual time"
    assert list(workspace.iterdir()) == []


def test_help_shows_labruns_groups(labrun_here: Command) -> None:
    text = labrun_here("--help").stdout
    for part in ("labrun -m model.regularization", "cifar10_cnn", "model/optimizer", "Flags:", "regularization: 0.01"):
        assert part in text


def test_completion_offers_groups_and_options(labrun_here: Command) -> None:
    script = labrun_here("-sc", "install=bash")
    assert "complete" in script.stdout
    asked = labrun_here("-sc", "query=bash", COMP_LINE="labrun model=", COMP_POINT="13")
    assert {"model=cifar10_cnn", "model=mnist_dnn", "model=logistic_regression"} <= set(asked.stdout.split())


MISTAKES = {
    "key": (["trainer.max_epoch=3"], "Did you mean 'trainer.max_epochs'?"),
    "type": (["model.regularization=abc"], "model.regularization='abc': expected a number above 0"),
    "range": (["model.regularization=-1"], "model.regularization=-1: expected a number above 0"),
    "choice": (["model=resnet"], "cifar10_cnn"),
    "missing data": (["dataset=cifar10", "dataset.download=false"], "cifar-10-batches-py/data_batch_1"),
    "no network": (["dataset=mnist"], "Copy the files there"),
    "reference": (["task=evaluate", "from=abc"], "no run is called 'abc'"),
    "no reference": (["task=evaluate"], "from=last"),
    "resume nothing": (["model=mnist_dnn", "trainer.resume=last"], "no run with a checkpoint yet"),
    "name": (["name=a/b"], "contain a slash"),
    "environment": (["notes=${oc.env:LABRUN_NO_SUCH_VARIABLE}"], "LABRUN_NO_SUCH_VARIABLE"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_in_one_message_and_leaves_no_files(
    name: str, refused_here: Refused, workspace: Path
) -> None:
    arguments, message = MISTAKES[name]
    assert message in refused_here(*arguments, http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert list(workspace.glob("outputs/*/*/.hydra")) == []


def test_a_mistake_ends_the_process_with_exit_code_2(labrun: Command) -> None:
    done = labrun("model.regularization=-1", cold=True)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "model.regularization=-1: expected a number above 0" in done.stderr


def test_a_search_without_m_is_reported(labrun_here: Command) -> None:
    done = labrun_here("sweep=random")
    assert done.returncode == 0 and "sweep=random: a search needs -m" in done.stderr


def test_debug_shows_the_traceback(labrun: Command) -> None:
    done = labrun("--debug", "model.regularization=-1")
    assert done.returncode == 2 and "Traceback" in done.stderr


@pytest.mark.parametrize("refused", ["compute=inline compute.mem_gb=3", "-m sweep.resume=last"])
def test_debug_executes_nothing_that_is_refused_otherwise(labrun: Command, workspace: Path, refused: str) -> None:
    done = labrun("--debug", "tracking=none", *refused.split())
    assert done.returncode == 2 and "Traceback" in done.stderr and done.stdout == ""
    assert not list(workspace.glob("outputs/*/*")) and not list(workspace.glob("multirun/*/*"))


def test_a_failure_of_the_checks_ends_the_command(labrun: Command, workspace: Path) -> None:
    (workspace / "failing.py").write_text(FAILING_READER)
    (workspace / "conf" / "dataset").mkdir(parents=True)
    (workspace / "conf" / "dataset" / "failing.yaml").write_text("_target_: failing.Failing\nname: failing\n")
    done = labrun("dataset=failing", "tracking=none", "datastore.root=.")
    assert done.returncode == 1 and "in find" in done.stderr and "RuntimeError: no such volume" in done.stderr
    assert not list(workspace.glob("outputs/*/*"))
    done = labrun("dataset=failing", "tracking=none", f"datastore.root={workspace / 'conf'}")
    missing = f"dataset=failing: Failing finds no data in {workspace / 'conf'}: set datastore.root"
    assert done.returncode == 2 and missing in done.stderr and "Traceback" not in done.stderr
    assert not list(workspace.glob("outputs/*/*"))


def test_data_too_small_for_a_network_are_refused_with_both_sizes(labrun: Command, workspace: Path) -> None:
    done = labrun("model=cifar10_cnn", "tracking=none")
    assert done.returncode == 2
    assert "at least 16x16" in done.stderr and "1x8x8" in done.stderr and "Traceback" not in done.stderr
    (record,) = workspace.glob("outputs/*/*/run.json")
    assert json.loads(record.read_text())["status"] == "failed"


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="root writes everywhere")
def test_an_unwritable_workspace_is_one_clear_error(refused_here: Refused, workspace: Path) -> None:
    (workspace / "outputs").write_text("a file where the folder should be")
    assert "cannot write to" in refused_here()


def test_two_runs_in_the_same_second_never_share_a_folder(labrun: Command, workspace: Path) -> None:
    commands = [
        start_labrun("tracking=none", "report=none", cwd=workspace, stdout=subprocess.DEVNULL, stderr=None)
        for _ in range(2)
    ]
    assert [command.wait(timeout=120) for command in commands] == [0, 0]
    assert len(list(workspace.glob("outputs/*/*/run.json"))) == 2


def test_a_sweep_continues_after_a_failure_and_reports_it(labrun: Command, workspace: Path) -> None:
    done = labrun(
        "-m", "model.regularization=0.01,100", "model.solver=lbfgs,newton-cg", "model.max_iter=20", "tracking=none"
    )
    assert done.returncode == 0, done.stderr
    (results,) = workspace.glob("multirun/*/*/results.csv")
    assert len(results.read_text().splitlines()) == 5
    pictures = list(workspace.glob("multirun/*/*/*/outputs/*.png"))
    assert pictures and len({path.parent for path in pictures}) == 1, "only the best run has pictures"


def test_a_sweep_with_a_mistake_starts_no_run(refused_here: Refused) -> None:
    said = refused_here("-m", "model.regularization=0.01,-1,abc")
    assert "run 1" in said and "run 2" in said


def test_a_sweep_with_a_failing_run_exits_with_code_1(labrun: Command, workspace: Path) -> None:
    done = labrun("-m", "model=cifar10_cnn,logistic_regression", "tracking=none", "report=none")
    assert done.returncode == 1
    statuses = sorted(json.loads(path.read_text())["status"] for path in workspace.glob("multirun/*/*/*/run.json"))
    assert statuses == ["completed", "failed"]
    assert "Traceback" not in done.stderr


def test_the_users_conf_folder_takes_precedence_and_adds_options(labrun_here: Command, workspace: Path) -> None:
    (workspace / "conf" / "model").mkdir(parents=True)
    (workspace / "conf" / "experiment").mkdir()
    (workspace / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nmodel: {regularization: 7.5}\n")
    done = labrun_here("experiment=mine", "--cfg", "job")
    assert "regularization: 7.5" in done.stdout, done.stderr


def test_personal_settings_take_precedence(labrun_here: Command, workspace: Path) -> None:
    (workspace / "conf" / "local").mkdir(parents=True)
    (workspace / "conf" / "local" / "default.yaml").write_text("seed: 7\nmodel: {regularization: 3.0}\n")
    shown = labrun_here("--cfg", "job").stdout
    assert "seed: 7" in shown and "regularization: 3.0" in shown


def test_labrun_root_sets_the_workspace_and_a_folder_holds_one_run(labrun: Command, workspace: Path) -> None:
    elsewhere = workspace / "a place with spaces é"
    options = ("tracking=none", "report=none", "dataset.max_samples=100")
    assert labrun(*options, LABRUN_ROOT=str(elsewhere)).returncode == 0
    assert len(list(elsewhere.glob("outputs/*/*/run.json"))) == 1
    assert not (workspace / "outputs").exists()
    assert labrun(*options, "hydra.run.dir=here").returncode == 0
    first = (workspace / "here" / "run.json").read_text()
    again = labrun(*options, "hydra.run.dir=here", "seed=1")
    assert again.returncode == 2 and "already holds a run" in again.stderr
    assert (workspace / "here" / "run.json").read_text() == first
    assert "seed=1" not in (workspace / "here" / ".hydra" / "overrides.yaml").read_text()


BROKEN = {
    "not yaml": ("model: {a: [1,\n", "is not YAML"),
    "a list": ("- a\n- b\n", "holds a list"),
    "null as a key": ("# @package _global_\ntags: {a: [{null: 1}]}\n", "tags.a[0] has the key null"),
    "a set": ("# @package _global_\ntags: !!set {a, b}\n", "tags is a set"),
    "latin-1": (b"notes: \xe9\n", "is not YAML"),
    "no package": ("seed: 3\n", "# @package _global_"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_file_is_named(name: str, refused_here: Refused, workspace: Path) -> None:
    content, message = BROKEN[name]
    (workspace / "conf" / "experiment").mkdir(parents=True)
    path = workspace / "conf" / "experiment" / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused_here("experiment=mine", "tracking=none")


def test_a_config_file_is_checked_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = command_line._checked_text
    monkeypatch.setattr(command_line, "_checked_text", lambda path: (checked.append(path.name), check(path))[1])
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    assert command_line.checked_texts(tmp_path) == command_line.checked_texts(tmp_path)
    assert checked == ["a.yaml"] * 2, "it may change again within a tick of the clock"
    monkeypatch.setattr(_io, "TRUSTED_AGE_NS", 0)
    for _ in range(2):
        assert command_line.checked_texts(tmp_path) == {tmp_path / "a.yaml": "seed: 1\n"}
    assert len(checked) == 3
    (tmp_path / "a.yaml").write_text("seed: [\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"a\.yaml is not YAML"):
            command_line.checked_texts(tmp_path)
    (tmp_path / "a.yaml").unlink()
    assert command_line.checked_texts(tmp_path) == {}


def test_runs_complete_with_closed_streams(workspace: Path) -> None:
    (workspace / "train.py").write_text("print('here')\n")
    command = shlex.join(program("labrun", "experiment=script", "script.path=train.py", "tracking=none", cold=True))
    for redirection in ("<&-", ">&-", "2>&-", ">&- 2>&- <&-"):
        done = subprocess.run(
            ["bash", "-c", f"{command} {redirection}"], cwd=workspace, capture_output=True, check=False
        )
        assert done.returncode == 0
    found = [json.loads(path.read_text())["status"] for path in workspace.glob("outputs/*/*/run.json")]
    assert found == ["completed"] * 4


def test_tags_are_words_or_pairs(run_here: Runner) -> None:
    assert run_here("dataset.max_samples=100", "tags=[a,b]")[0].tags == {"a": "", "b": ""}
    assert run_here("dataset.max_samples=100", "tags={team:vision}")[0].tags == {"team": "vision"}


def test_a_full_disk_is_one_clear_error(refused_here: Refused, workspace: Path) -> None:
    (workspace / "small").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "small"], cwd=workspace, check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        assert "No space left" in refused_here("tracking=none", LABRUN_ROOT=str(workspace / "small"))
        subprocess.run(["mount", "-o", "remount,ro", "small"], cwd=workspace, check=True)
        assert "Read-only" in refused_here("tracking=none", LABRUN_ROOT=str(workspace / "small"))
    finally:
        subprocess.run(["umount", "small"], cwd=workspace, check=False)


def test_cfg_is_refused_for_a_sweep(refused_here: Refused) -> None:
    assert "leave out -m" in refused_here("-m", "seed=1,2", "--cfg", "job")


@pytest.mark.parametrize(
    "arguments, files, may",
    [
        ([], {}, False),
        (["seed=1", "model=mnist_dnn", "-m"], {}, False),
        (["experiment=automl_digits"], {}, True),
        (["hydra.mode=MULTIRUN"], {}, True),
        (["hydra/launcher=basic"], {}, True),
        (["-cd", "team"], {}, True),
        (["--config-dir=team"], {}, True),
        ([], {"local/default.yaml": "# @package _global_\nhydra:\n  mode: MULTIRUN\n"}, True),
        (["experiment=grid_7"], {"experiment/grid_7.yaml": "# @package _global_\nhydra:\n  mode: MULTIRUN\n"}, True),
        (["seed=1"], {"experiment/grid_7.yaml": "# @package _global_\nhydra:\n  mode: MULTIRUN\n"}, False),
        (
            ["seed=1"],
            {"experiment/grid_7.yaml": "hydra: {mode: 1}", "local/default.yaml": "defaults: [/x: grid_7]"},
            True,
        ),
        (["seed=1"], {"local/default.yaml": "hydra:\n  searchpath: [pkg://team]\n"}, True),
        (["seed=1"], {"parts/far.yaml": "mode: MULTIRUN", "local/default.yaml": "defaults: [/parts@hydra: far]"}, True),
    ],
)
def test_the_mode_is_looked_up_only_if_a_config_may_set_it(
    arguments: list[str], files: dict[str, str], may: bool, workspace: Path
) -> None:
    for name, text in files.items():
        (workspace / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / "conf" / name).write_text(text)
    assert command_line.may_set_mode(arguments, command_line.check_yaml()) is may
