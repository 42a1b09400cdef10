"""The Python API: submit, inspect, control, register; also in a notebook, executed by nbconvert."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import labrun
from helpers import write_climber, write_model
from labrun.api import notebook
from labrun.api.handles import Sweep
from labrun.runs.record import Record
from labrun.runs.sweep_state import SweepState

pytestmark = pytest.mark.process
NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "mnist.ipynb"
PLAIN = ("tracking=none", "report=none", "dataset.max_samples=50")


def test_importing_labrun_loads_no_heavy_module() -> None:
    heavy = "[m for m in ('hydra', 'omegaconf', 'numpy', 'torch', 'mlflow', 'pandas', 'sklearn') if m in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, labrun; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_public_names_are_fixed() -> None:
    """Scripts and notebooks rely on these names; adding one is a decision."""
    assert sorted(labrun.__all__) == [
        "ActiveRun",
        "LabrunError",
        "Model",
        "Run",
        "Sweep",
        "get_run",
        "load_model",
        "log",
        "runs",
        "samples",
        "show",
        "start_run",
        "submit",
    ]
    assert all(callable(getattr(labrun, name)) for name in labrun.__all__)
    assert {*labrun._MODULES, "runs"} == set(labrun.__all__)


def test_samples_are_displayed_in_a_notebook(workspace: Path) -> None:
    shown = labrun.samples("digits", 12, seed=0)
    page = shown._repr_html_()
    assert shown.shown == 12 and "data:image/png;base64," in page
    assert all(text in page for text in ("1,438 train, 359 test", "1x8x8", "0 to 16"))
    with pytest.raises(labrun.LabrunError, match="no datastore 'nowhere'"):
        labrun.samples("digits", datastore="nowhere")
    assert labrun.runs.record.Record is Record, "labrun.runs is the package too"
    with pytest.raises(AttributeError, match="no attribute 'submitt'"):
        _ = labrun.submitt


def test_a_run_is_submitted_watched_and_read(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_climber(workspace)
    run = labrun.submit(["model=climber", "model.quality=0.8", "model.seconds=1", "tags={team: vision}", *PLAIN])
    assert run.status in ("queued", "running") and re.fullmatch("[a-f][0-9a-f]{7}", run.id)
    details = run.wait_for_completion(show_output=True)
    assert run.id in capsys.readouterr().out
    assert details["runId"] == run.id and details["status"] == run.status == "completed"
    assert run.get_metrics()["score"] == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8])
    assert run.get_metrics("accuracy") == {"accuracy": run.metrics["accuracy"]}
    assert run.tags == {"team": "vision"} and run.config["model"]["quality"] == 0.8
    run.tag("seen")
    assert labrun.get_run(run.id[:4]).tags == {"team": "vision", "seen": ""}
    frame = run.to_frame()
    assert list(frame.columns) == ["name", "step", "value", "time"] and (frame.name == "score").sum() == 5
    assert "driver.log" in run.get_file_names()
    copied = run.download_file("driver.log", output_file_path="copy.log")
    assert Path(copied).read_text() == run.log_text() != ""
    assert run.download_files("driver.log", output_directory="all") == ["all/driver.log"]
    with pytest.raises(labrun.LabrunError, match="no file 'drive.log'"):
        run.download_file("drive.log")
    assert run.get_portal_url().startswith("file://") and run.get_children() == [] and run.parent is None
    assert [found.id for found in labrun.runs(where="score>0.7", tags={"team": "vision"})] == [run.id]
    assert labrun.runs(status="failed") == [] and labrun.runs(experiment="none") == []


def test_failed_runs_and_refused_arguments_raise_errors(workspace: Path) -> None:
    write_model(workspace)
    run = labrun.submit(["model=sleeper", "model.number=-1", *PLAIN])
    with pytest.raises(labrun.LabrunError, match="number -1 is below zero"):
        run.wait_for_completion()
    assert run.wait_for_completion(raise_on_error=False)["error"]["type"] == "ValueError"
    with pytest.raises(labrun.LabrunError, match=r"^model\.regularizatoin.*model\.regularization"):
        labrun.submit(["model.regularizatoin=1"])
    with pytest.raises(labrun.LabrunError, match="list of arguments"):
        labrun.submit("seed=1")
    with pytest.raises(labrun.LabrunError, match="list of arguments"):
        labrun.submit(None)
    with pytest.raises(labrun.LabrunError, match="holds no sweep"):
        labrun.Sweep("nowhere")
    with pytest.raises(labrun.LabrunError, match="'bogus': expected one of queued"):
        labrun.runs(status="bogus")
    assert labrun.Run("last").id == labrun.Run(run.id[:5]).id == run.id
    with pytest.raises(labrun.LabrunError, match="no such folder"):
        labrun.submit([], root="/nowhere")
    assert len(labrun.runs()) == 1


def test_an_empty_python_path_is_not_passed_on(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control script of the SDK passes one, but its commands should share the warm interpreter with all others."""
    passed: dict[str, str] = {}

    def start(command: list[str], **options: Any) -> None:
        passed.update(options["env"])
        raise OSError("not started")

    monkeypatch.setattr(subprocess, "Popen", start)
    for given in ("", "/a"):
        with pytest.raises(OSError, match="not started"):
            labrun.submit([], environment={"PYTHONPATH": given})
        assert passed.get("PYTHONPATH") == (given or None)


def test_a_run_is_canceled(workspace: Path) -> None:
    (workspace / "sleeps.py").write_text("import time\ntime.sleep(60)\n")
    run = labrun.submit(["experiment=script", "script.path=sleeps.py", "tracking=none", "report=none"])
    while run.status != "running":
        time.sleep(0.05)
    with pytest.raises(TimeoutError, match="it is still running"):
        run.wait_for_completion(timeout_s=0.1)
    run.cancel()
    assert run.status == "canceled" and run.wait_for_completion()["status"] == "canceled"


@pytest.mark.parametrize("detach", [False, True])
def test_only_detached_runs_outlive_the_interpreter(workspace: Path, detach: bool) -> None:
    (workspace / "sleeps.py").write_text("import time\ntime.sleep(3)\n")
    words = ["experiment=script", "script.path=sleeps.py", "tracking=none", "report=none"]
    code = (
        f"import labrun, time\nrun = labrun.submit({words!r}, detach={detach})\n"
        "while run.status != 'running': time.sleep(0.05)\nprint(run.folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    run = labrun.Run(done.stdout.strip())
    run.wait_for_completion(timeout_s=60)
    assert run.status == ("completed" if detach else "canceled")
    pid = run.record.process.pid if run.record.process else 0
    end = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid)


def test_a_sweep_is_submitted_watched_and_read(workspace: Path) -> None:
    write_climber(workspace)
    sweep = labrun.submit(["-m", "model=climber", "model.quality=0.2,0.9,0.5", "sweep.metric=score", *PLAIN])
    assert isinstance(sweep, labrun.Sweep)
    sweep.wait_for_completion()
    children = sweep.get_children()
    assert sweep.status == "completed" and [child.config["model"]["quality"] for child in children] == [0.2, 0.9, 0.5]
    assert sweep.get_best_child().id == children[1].id
    assert sweep.get_best_child("cost").id == children[1].id and sweep.metric == "score"
    assert sweep.get_best_child("cost:max").id == children[0].id
    frame = sweep.to_frame()
    assert list(frame["model.quality"]) == ["0.2", "0.9", "0.5"] and list(frame["status"]) == ["completed"] * 3
    assert labrun.get_run(sweep.folder).id == sweep.id and repr(children[0].parent) == repr(sweep)
    page = sweep._repr_html_()
    assert page.count('type="radio"') >= 5 and "script src" not in page and "http" not in page
    assert all(child.id in page for child in children) and "model.quality=0.9" in page and "data:image/png" in page


def test_a_sweep_is_not_over_before_its_plan_is_written(tmp_path: Path) -> None:
    state = SweepState(tmp_path / "multirun" / "climber" / "2026-01-01_00-00-00-abcd")
    state.make()
    assert not Sweep(state.folder).is_over and Sweep(state.folder).status == "queued"
    state.controllers.mkdir()
    (state.controllers / "1.ended").write_text("{}")
    assert Sweep(state.folder).is_over, "its controller ended before it wrote what there is to run"


def test_a_search_ends_even_if_a_trial_crashes(workspace: Path) -> None:
    write_climber(workspace)
    way = ["model.way=choice(crash,climb)", "model.quality=interval(0,1)", "sweep.seed=1", "sweep.metric=score"]
    sweep = labrun.submit(["-m", "model=climber", "sweep=random", "sweep.max_trials=3", *way, *PLAIN])
    sweep.wait_for_completion(raise_on_error=False)
    assert sweep.is_over and len(sweep.get_children()) == 3


def test_names_are_escaped_in_the_page(workspace: Path) -> None:
    write_climber(workspace)
    with open(workspace / "climber.py", "a") as file:
        file.write("\nprint('<script>alert(1)</script>')\n")
    run = labrun.submit(["model=climber", "notes='<b>bold</b>'", *PLAIN])
    run.wait_for_completion()
    page = notebook.run_page(run)
    assert "<script>alert" not in page and "<b>bold</b>" not in page and "&lt;script&gt;alert" in page


def test_the_example_notebook_executes(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last, and its outputs are kept.

    Up to a minute on a busy machine: a kernel of its own, with PyTorch and every command of the page.
    """
    import nbformat  # here: each worker would import them otherwise
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    monkeypatch.setenv("LABRUN_TEST_DATA", str(real_data))
    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = book["cells"]
    pages = [
        "".join(output["data"]["text/html"])
        for cell in cells
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    shown = [page for page in pages if 'class="labrun"' in page]
    assert len(shown) == 3 and all("completed" in page for page in shown)
    assert "data:image/png" in shown[1], "the network's curves"
    text = json.dumps(cells)
    assert "mnist-logreg/1" in text and "Warning" not in text
    assert 'class="labrun"' in HTMLExporter().from_notebook_node(book)[0]


def test_the_example_notebook_is_committed_without_output() -> None:
    assert not any(cell.get("outputs") for cell in json.loads(NOTEBOOK.read_text())["cells"])
