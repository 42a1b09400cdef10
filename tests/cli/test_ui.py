"""`lab ui` with real runs of the real commands, viewed in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from forked_lab import ForkedLab, Forks, forks
from helpers import copy_database, lab, processes_of, run_labrun, wait_for
from labrun.runs import store
from labrun.runs.workspace import Workspace
from labrun.tracking.mlflow import client, ui_state
from pages import blocks, compare

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MLFLOW_STORE = "mlflow.store.tracking.sqlalchemy_store"
PAGE_MS = 120_000
"""How long a browser may take on a busy machine to load and run MLflow's megabytes of JavaScript."""


def labrun(workspace: Path, *arguments: str) -> str:
    done = run_labrun(*arguments, cwd=workspace, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Forks]:
    """The interpreter whose forks are `lab ui`: it has loaded MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client.ENVIRONMENT.items():  # MLflow reads some on import
            patch.setenv(name, value)
        with forks("labrun.cli.ui", "mlflow.tracking", MLFLOW_STORE) as found:
            yield found


def start_ui(interpreter: Forks, workspace: Path, *arguments: str) -> tuple[ForkedLab, str]:
    """`lab ui`, and the address that it printed."""
    process = interpreter.start(workspace, "ui", *arguments)
    page = re.compile(
        r"^MLflow: (http://[^/\s]+)/#/experiments(?:/\d+/runs)?\?workflowType=machine_learning$", re.MULTILINE
    )
    wait_for(lambda: page.search(process.said()[0]) is not None or process.poll() is not None)
    found = page.search(process.said()[0])
    assert found is not None, process.said()
    return process, found[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, interpreter: Forks) -> Iterator[tuple[Path, str, ForkedLab]]:
    """A workspace with a run, a registered model, and a `lab ui` that is up."""
    workspace = tmp_path_factory.mktemp("shown").resolve()
    assert "lab ui" in labrun(workspace, "model=mnist_dnn", "trainer.max_epochs=3", "name=digits")
    done = lab(workspace, "models", "register", "last", "--name", "digits-net", "--alias", "champion", timeout=300)
    assert done.returncode == 0, done.stderr
    process, address = start_ui(interpreter, workspace)
    yield workspace, address, process
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    wait_for(lambda: not processes_of(workspace), 30)


@pytest.fixture(scope="module")
def shown(started: tuple[Path, str, ForkedLab]) -> tuple[Path, str]:
    """The workspace and the address of `started`."""
    return started[:2]


def test_lab_ui_prints_what_the_tutorial_shows(started: tuple[Path, str, ForkedLab]) -> None:
    command, output = (block for block in blocks("tutorial.md") if block.mark == "mlflow")
    assert command.commands == ["lab ui"]
    printed, told = started[2].said()
    compare(output.text, told + printed, "docs/tutorial.md")


def test_a_browser_shows_the_pages_of_a_run(shown: tuple[Path, str], tmp_path: Path) -> None:
    """The run's page, its curves, its pictures, and the registered model, as a user sees them.

    Over 15 s: MLflow's server and a browser start.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium: tests/ui/install fetches it")
    from playwright.sync_api import Error as PlaywrightError
    from playwright.sync_api import sync_playwright

    workspace, address = shown
    (run_dir,) = store.run_dirs(workspace)
    # A page does not refresh itself, and the run is sent before its model: wait for the end of a whole round.
    wait_for(lambda: any(Workspace(workspace).state.glob("round*.json")), 120)
    page = ui_state.page(workspace, run_dir)
    assert page is not None and page.startswith(f"{address}/#/experiments/")
    own = page.partition("?")[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 1400, "height": 1000})
        view.set_default_timeout(PAGE_MS)
        wrong: list[str] = []
        view.on("pageerror", lambda error: wrong.append(str(error)))

        def look(name: str, url: str, *texts: str) -> None:
            view.goto(url)
            try:
                for text in texts:
                    view.get_by_text(text, exact=False).first.wait_for()
            except PlaywrightError:
                view.screenshot(path=tmp_path / f"{name}.png")
                raise

        look("run", page, run_dir.name, "Finished", "model.units", "digits-net")
        look("curves", f"{own}/model-metrics", "train_loss", "train_accuracy")
        view.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for(state="attached")
        look("pictures", f"{own}/artifacts", "curves.png", "confusion_matrix.png", "model.pt")
        view.get_by_text("confusion_matrix.png").first.click()
        picture = view.locator("img[src^='blob:'], img[src*='get-artifact']").first
        picture.wait_for()
        assert picture.evaluate("image => image.complete && image.naturalWidth") > 100
        (record,) = [record for _, record in store.runs(workspace) if record.name == "digits"]
        first = ui_state.first_page(workspace, address, run_dir)
        look("runs", first, "Model registry", f"model=mnist_dnn max_epochs=3 ({record.id})")
        assert view.get_by_text("Prompts", exact=True).count() == 0, "that is for language models"
        look("models", f"{address}/#/models", "digits-net", "champion")
        look("version", f"{address}/#/models/digits-net/versions/1", "champion", "metric.accuracy", "labrun.run")
        browser.close()
    assert wrong == []


def test_a_run_during_the_ui_is_sent_and_prints_its_page(shown: tuple[Path, str]) -> None:
    workspace, address = shown
    printed = labrun(workspace, "report=none", "name=meanwhile", "notes=seen")
    assert re.search(rf"MLflow +{re.escape(address)}", printed)
    run_dir = next(d for d, r in store.runs(workspace) if r.name == "meanwhile")
    wait_for(lambda: ui_state.page(workspace, run_dir) is not None, 60)
    page = str(ui_state.page(workspace, run_dir))
    mlflow_id = page.partition("?")[0].rsplit("/", 1)[1]

    def status() -> str:
        with urllib.request.urlopen(f"{address}/ajax-api/2.0/mlflow/runs/get?run_id={mlflow_id}", timeout=30) as answer:
            return str(json.load(answer)["run"]["info"]["status"])

    wait_for(lambda: status() == "FINISHED", 60)
    context_note = lab(workspace, "runs", "note", "last", "said afterwards")
    assert context_note.returncode == 0


def test_a_second_ui_names_the_address_of_the_first(shown: tuple[Path, str], interpreter: Forks) -> None:
    workspace, address = shown
    again = lab(workspace, "ui")
    assert again.returncode == 0 and address in again.stdout
    other = lab(workspace, "ui", "--port", str(free_port()))
    assert other.returncode == 2 and f"shows this workspace at {address}" in other.stderr
    command, output = (block for block in blocks("howto/inspect-runs.md") if block.mark == "mlflow")
    assert command.commands == ["lab runs sync"]
    sync = interpreter.start(workspace, "runs", "sync")
    assert sync.wait() == 0  # though `lab ui` holds the lock
    compare(output.text, sync.said()[0], "docs/howto/inspect-runs.md")


def test_requests_by_another_host_name_are_refused(shown: tuple[Path, str]) -> None:
    _, address = shown
    for path in ("/", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"):
        asked = urllib.request.Request(f"{address}{path}", headers={"Host": "rebound.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=30)
        assert refused.value.code == 403, path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_ui_ends_without_leaving_processes_or_a_taken_port(
    tmp_path: Path, empty_mlflow: Path, interpreter: Forks, number: int
) -> None:
    """SIGTERM is tested by the fixture `shown`, which ends its UI with it."""
    workspace = tmp_path.resolve()
    copy_database(empty_mlflow, workspace)
    port = free_port()
    process, address = start_ui(interpreter, workspace, "--port", str(port))
    assert address == f"http://127.0.0.1:{port}" and ui_state.ui_address(workspace) == address
    with urllib.request.urlopen(f"{address}/version", timeout=30) as answer:
        assert answer.status == 200
    memory = sum(one.memory_info().rss for one in processes_of(workspace))
    assert memory < 2 * 2**30
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
    wait_for(lambda: not processes_of(workspace), 30)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    assert ui_state.ui_address(workspace) is None


def test_a_taken_port_is_refused_or_by_default_the_next_is_used(tmp_path: Path) -> None:
    workspace = tmp_path.resolve()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        done = lab(workspace, "ui", "--port", str(port))
        assert done.returncode == 2 and f"--port {port} is taken" in done.stderr
        assert time.monotonic() - began < 5 and not client.database_path(workspace).exists()
    bad = lab(workspace, "ui", "--port", "99999999")
    assert bad.returncode == 2 and "is not a port" in bad.stderr
    from labrun.cli import ui

    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ui.HOST, 0))
        taken.listen()
        ui_first = taken.getsockname()[1]
        before, ui.FIRST_PORT = ui.FIRST_PORT, ui_first
        try:
            assert ui._free_port(None) > ui_first
        finally:
            ui.FIRST_PORT = before


def test_ui_and_models_are_loaded_without_mlflow() -> None:
    code = "import sys; from labrun.cli import ui, models; assert not {'mlflow', 'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
