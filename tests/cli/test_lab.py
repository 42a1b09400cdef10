"""The command `lab`: its output, and its answers to mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from conftest import Command
from helpers import lab, new, submitted
from labrun import cli
from labrun.backends.local.backend import Local
from labrun.runs.context import RunContext
from labrun.runs.record import CANCELED, read_record, timestamp, write_record


def ended(root: Path, run_id: str, status: str = "completed", **values: object) -> Path:
    run_dir = submitted(root, run_id, **values)
    record = read_record(run_dir)
    record.status, record.started, record.ended, record.duration_s = status, timestamp(), timestamp(), 1.5
    write_record(run_dir, record)
    return run_dir


Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def run(capsys: Capture, monkeypatch: Patch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.fixture
def runs(workspace: Path) -> Path:
    chosen = {"allowed": 2, "training": {"count": 1, "why": "small"}, "scoring": {"count": 2, "why": "large"}}
    ended(workspace, "a1111111", overrides=["model=mnist_dnn"], metrics={"accuracy": 0.91}, threads=chosen)
    error = {"type": "ValueError", "message": "no\nreally", "traceback": "Traceback: here\n"}
    run_dir = ended(workspace, "b2222222", "failed", name="other", error=error)
    (run_dir / "driver.log").write_text("what it printed\n")
    return workspace


def test_ls_shows_each_run_with_its_status_and_result(runs: Path, capsys: Capture, monkeypatch: Patch) -> None:
    code, out, _ = run(capsys, monkeypatch, "runs", "ls")
    lines = out.splitlines()
    assert (
        code == 0
        and len(lines) == 3
        and lines[0].split()
        == [
            "id",
            "experiment",
            "status",
            "age",
            "duration",
            "accuracy",
            "overrides",
        ]
    )
    assert lines[1].startswith("b2222222") and "0.9100" in lines[2] and "model=mnist_dnn" in lines[2]
    assert "a1111111" not in run(capsys, monkeypatch, "runs", "ls", "--status", "failed")[1]
    assert "b2222222" not in run(capsys, monkeypatch, "runs", "ls", "--experiment", "test")[1]
    rows = [json.loads(line) for line in run(capsys, monkeypatch, "runs", "ls", "--json")[1].splitlines()]
    assert rows[1]["accuracy"] == 0.91 and rows[0]["status"] == "failed"
    assert "no runs match" in run(capsys, monkeypatch, "runs", "ls", "--status", "queued")[1]


def test_show_and_logs_describe_one_run(runs: Path, capsys: Capture, monkeypatch: Patch) -> None:
    code, out, _ = run(capsys, monkeypatch, "runs", "show", "b2")
    assert code == 0 and "ValueError: no " in out and "lab runs show b2222222 --error" in out
    assert (
        "1 of 2 for training (small), 2 of 2 for scoring (large)" in run(capsys, monkeypatch, "runs", "show", "a1")[1]
    )
    assert run(capsys, monkeypatch, "runs", "show", "b2", "--error")[1] == "Traceback: here\n\n"
    assert run(capsys, monkeypatch, "runs", "show", "a1", "--error")[0] == 1
    assert json.loads(run(capsys, monkeypatch, "runs", "show", "a1", "--json")[1])["id"] == "a1111111"
    assert run(capsys, monkeypatch, "runs", "logs", "b2")[1] == "what it printed\n"
    assert run(capsys, monkeypatch, "runs", "logs", "-f", "last")[1] == "what it printed\n"
    code, _, err = run(capsys, monkeypatch, "runs", "logs", "a1")
    assert code == 2 and "has printed nothing yet" in err


@pytest.mark.parametrize("action", ["show", "logs", "watch", "cancel"])
def test_an_unknown_run_is_refused_with_the_known_ones(
    runs: Path, action: str, capsys: Capture, monkeypatch: Patch
) -> None:
    code, _, err = run(capsys, monkeypatch, "runs", action, "zzz")
    assert code == 2 and "no run is called 'zzz'" in err and "b2222222" in err


def test_canceling_an_ended_run_does_nothing(runs: Path, capsys: Capture, monkeypatch: Patch) -> None:
    assert "nothing to cancel" in run(capsys, monkeypatch, "runs", "cancel", "a1")[1]


def test_a_run_without_a_controller_can_be_canceled(runs: Path, capsys: Capture, monkeypatch: Patch) -> None:
    waiting = submitted(runs, "c3333333")
    assert "c3333333  canceled" in run(capsys, monkeypatch, "runs", "cancel", "c3")[1]
    assert read_record(waiting).status == CANCELED


def test_an_empty_workspace_has_no_runs(workspace: Path, capsys: Capture, monkeypatch: Patch) -> None:
    assert "no runs in" in run(capsys, monkeypatch, "runs", "ls")[1]
    code, _, err = run(capsys, monkeypatch, "--root", "/no/such", "runs", "ls")
    assert code == 2 and "no such folder" in err


def test_root_names_another_workspace(runs: Path, capsys: Capture, monkeypatch: Patch) -> None:
    (runs / "elsewhere").mkdir()
    monkeypatch.chdir(runs / "elsewhere")
    assert "a1111111" in run(capsys, monkeypatch, "--root", "..", "runs", "ls")[1]


def test_compute_ls_shows_targets_and_free_resources(workspace: Path, capsys: Capture, monkeypatch: Patch) -> None:
    code, out, _ = run(capsys, monkeypatch, "compute", "ls")
    assert code == 0 and {line.split()[0] for line in out.splitlines()} == {
        "auto",
        "inline",
        "local",
        "gpu",
        "slurm",
        "slurm_gpu",
    }
    assert out.count(" cores, ") >= 3 and "${" not in out, "auto, inline and local know this machine"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    _, out, _ = run(capsys, monkeypatch, "compute", "ls")
    assert "Here: 2 GPUs (4, 5)" in out, "what each finds"
    code, out, _ = run(capsys, monkeypatch, "compute", "status")
    assert code == 0 and "cores" in out and "GPUs" in out and "Slurm" in out


def test_a_broken_backend_hides_no_other(workspace: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def broken(self: Local, *settings: object) -> NoReturn:
        raise ZeroDivisionError("not here")

    monkeypatch.setattr(Local, "summary", broken)
    monkeypatch.setattr(Local, "status", broken)
    code, out, _ = run(capsys, monkeypatch, "compute", "ls")
    assert code == 0 and "its summary fails: ZeroDivisionError: not here" in out and "slurm" in out
    code, out, _ = run(capsys, monkeypatch, "compute", "status")
    assert code == 0 and "local: its status fails: ZeroDivisionError: not here" in out and "Slurm" in out


def test_a_thousand_runs_are_listed_without_heavy_imports(workspace: Path) -> None:
    for number in range(1000):
        folder = workspace / "outputs" / "many" / f"now-{number:08d}"
        folder.mkdir(parents=True)
        write_record(folder, new(f"e{number:07d}", packages={f"package-{n}": "1.2.3" for n in range(170)}))
    RunContext(folder).log("accuracy", 0.5)
    done = lab(workspace, "runs", "ls")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1001
    heavy = "torch", "pytorch_lightning", "sklearn", "mlflow", "matplotlib"
    code = (
        "import sys; sys.argv = ['lab', 'runs', 'ls']\nfrom labrun.cli import main\n"
        f"try: main()\nexcept SystemExit: print('HEAVY', [n for n in {heavy} if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "HEAVY []"


def test_a_subfolder_uses_the_datastores_and_configs_of_its_workspace(
    workspace: Path, lab_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "outputs" / ".labrun").mkdir(parents=True)
    (workspace / "conf" / "datastore").mkdir(parents=True)
    (workspace / "conf" / "datastore" / "mine.yaml").write_text(
        "_target_: labrun.data.stores.local.LocalDatastore\nname: mine\nroot: stuff\n"
    )
    below = workspace / "notebooks" / "deep"
    below.mkdir(parents=True)
    (below / "table.csv").write_text("x,y\n1,a\n")
    monkeypatch.chdir(below)
    for name, folder in (("local", workspace / "data"), ("mine", workspace / "stuff")):
        sent = lab_here("data", "upload", "table.csv", "--name", "tables", "--datastore", name)
        assert sent.returncode == 0, sent.stderr
        assert (folder / "tables" / "table.csv").is_file()
        assert "tables" in lab_here("data", "ls", "--datastore", name).stdout
        got = lab_here("data", "download", "tables", "copy", "--datastore", name, "--overwrite")
        assert got.returncode == 0 and (below / "copy" / "table.csv").is_file(), got.stderr
    assert sorted(path.name for path in below.iterdir()) == ["copy", "table.csv"]
    typed = lab_here("data", "ls", "/", "--set", "root=copy")
    assert "table.csv" in typed.stdout, "what is typed is relative to where it is typed"
    (below / "conf").mkdir()
    assert "no datastore 'mine'" in lab_here("data", "ls", "--datastore", "mine").stderr, "a project of its own"
