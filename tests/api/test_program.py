"""Runs started by a program with `start_run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import labrun
from labrun.runs.record import COMPLETED

PROGRAM = """
import os, signal, sys
import labrun

run = labrun.start_run(sys.argv[1])
assert not {"hydra", "omegaconf", "numpy"} & set(sys.modules), "it composes nothing"
run.log("loss", 1)
print("begun")
if sys.argv[1] == "raises":
    raise ValueError("bad")
if sys.argv[1] == "exits":
    sys.exit(3)
if sys.argv[1] == "goes_on":
    try:
        sys.exit(3)
    except SystemExit:
        run.log("loss", 2)
def nested(code):
    raise SystemExit(code)
if sys.argv[1] == "raises_exit":
    nested(4)
if sys.argv[1] == "exits_well":
    raise SystemExit(nested.__doc__)
if sys.argv[1] == "caught":
    try:
        sys.exit(3)
    except SystemExit:
        pass
if sys.argv[1] == "untold":
    raise SystemExit(0)
if sys.argv[1] == "at_once":
    os._exit(0)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "interrupted":
    raise KeyboardInterrupt
"""
ENDS = {
    "ends": "completed",
    "raises": "failed",
    "exits": "failed",
    "goes_on": "completed",
    "raises_exit": "failed",
    "exits_well": "completed",
    "caught": "completed",
    "untold": "lost",
    "at_once": "lost",
    "killed": "lost",
    "interrupted": "canceled",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    return tmp_path


def test_a_run_that_its_program_does_not_end_gets_a_status(workspace: Path) -> None:
    """Takes up to 40 s: eleven programs, since each ends only once. `-m` gives no exit code of `SystemExit`."""
    (workspace / "program.py").write_text(PROGRAM)
    how = {name: ["-m", "program"] if name == "untold" else ["program.py"] for name in ENDS}
    programs = {name: subprocess.Popen([sys.executable, *how[name], name]) for name in ENDS}
    for program in programs.values():
        program.wait()
    found = {run.name: run for run in labrun.runs()}
    assert {name: run.status for name, run in found.items()} == ENDS
    assert found["raises"].record.reason == "bad" and "ValueError: bad" in found["raises"].log_text()
    assert "exit code 3" in found["exits"].record.reason
    assert "exit code 4" in found["raises_exit"].record.reason
    assert "was not ended" in found["untold"].log_text()
    quiet = ("killed", "at_once")
    assert all(run.log_text().startswith("begun") for run in found.values() if run.name not in quiet)
    record = found["ends"].record
    assert record.command.endswith("program.py ends") and (Path(str(record.code.folder)) / "program.py").is_file()
    assert (found["ends"].folder / "heartbeat").exists()


def test_with_blocks_end_runs_and_nest(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with labrun.start_run("outer", tags={"a": 1}) as run:
        labrun.log("loss", 0.5)
        with pytest.raises(ValueError, match="bad"), run.start_run("inner") as inner:
            labrun.log("own", 1)
            raise ValueError("bad")
        labrun.log("loss", 0.25)
        (run.outputs / "x.txt").write_text("x")
        assert run.status == "running" and run.is_open and not inner.is_open
        with pytest.raises(labrun.LabrunError, match="is running: its files may still change"):
            run.register_model("early", "outputs/x.txt")
    assert run.status == "completed" and run.tags == {"a": "1"} and run.get_metrics() == {"loss": [0.5, 0.25]}
    assert run.record.metrics == {"loss": 0.25} and "outputs/x.txt" in run.get_file_names()
    assert [child.id for child in run.get_children()] == [inner.id] and inner.parent.id == run.id
    assert (inner.status, inner.get_metrics(), inner.record.reason) == ("failed", {"own": 1}, "bad")
    with pytest.raises(labrun.LabrunError, match="has ended"):
        run.log("loss", 1)
    run.fail("too late")
    assert run.status == "completed"
    labrun.log("printed", 1)
    assert "printed: 1" in capfd.readouterr().out
    for name in ("", "a/b", ".hidden", "a\nb"):
        with pytest.raises(labrun.LabrunError, match="becomes a folder"):
            labrun.start_run(name)


def test_a_folder_is_registered_as_one_model(workspace: Path) -> None:
    with labrun.start_run("net", capture=False) as run:
        (run.outputs / "net" / "variables").mkdir(parents=True)
        (run.outputs / "net" / "variables" / "a.bin").write_text("a")
        (run.outputs / "net" / "b.txt").write_text("b")
    model = run.register_model("net", "outputs/net")
    again = run.register_model("net", "outputs/net")
    content = workspace / "outputs" / ".labrun" / "models" / "net" / "1" / "data" / "model" / "net"
    assert (model.version, again.version) == (1, 1)
    assert (content / "variables" / "a.bin").read_text() == "a" and (content / "b.txt").read_text() == "b"
    assert run.record.status == COMPLETED
    (run.outputs / "empty").mkdir()
    with pytest.raises(labrun.LabrunError, match="no files to register"):
        run.register_model("net", "outputs/empty")


def test_restarting_a_kernel_cancels_its_run_and_ending_it_does_not(workspace: Path) -> None:
    """Over 15 s on a busy machine: two kernels."""
    from jupyter_client.manager import start_new_kernel

    begin = "import labrun\nrun = labrun.start_run('{}', code=None)\nrun.log('a', 1)"
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive(begin.format("restarted"), timeout=120)
        client.stop_channels()
        manager.restart_kernel(now=False)
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=120)
        client.execute_interactive(begin.format("ended"), timeout=120)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)
    found = {run.name: run for run in labrun.runs()}
    assert {name: run.status for name, run in found.items()} == {"restarted": "canceled", "ended": "completed"}
    assert found["restarted"].record.reason == "the notebook's kernel was restarted"
