"""`lab models` on real runs of the real command: register, show, predict, serve, remove."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import copy_database, lab, mlflow_sync, processes_of, run_labrun
from labrun import load_model
from labrun.runs import model_journal, store
from labrun.tracking.mlflow import client as mlflow_client


def labrun(workspace: Path, *arguments: str) -> str:
    done = run_labrun(*arguments, "report=none", "tracking=none", cwd=workspace, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(workspace: Path, *arguments: str) -> str:
    """What `lab models` says where all is well: nothing on standard error."""
    done = lab(workspace, "models", *arguments, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def mistake(workspace: Path, *arguments: str) -> str:
    done = lab(workspace, "models", *arguments, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two runs, and the logistic regression registered."""
    workspace = tmp_path_factory.mktemp("models").resolve()
    labrun(workspace, "name=lr", "tags={team: vision}")
    labrun(workspace, "name=dnn", "model=mnist_dnn", "trainer.max_epochs=8", "trainer.batch_size=16")
    told = said(
        workspace, "register", "best:accuracy", "--name", "digits", "--tag", "team=vision", "--alias", "champion"
    )
    assert re.search(r"registered digits/1: outputs/model\.\w+ of run \w{8}", told)
    return workspace


def digits_csv(path: Path, header: bool = True, target: bool = True, count: int = 30) -> np.ndarray[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow([*(f"pixel{n}" for n in range(64)), *(["digit"] if target else [])])
        writer.writerows([*row, *([label] if target else [])] for row, label in zip(x[:count], y[:count], strict=True))
    return np.asarray(y[:count])


def test_registering_again_is_reported_and_changes_nothing(place: Path) -> None:
    run = model_journal.find(place, "digits/1").run
    assert "already registered" in said(place, "register", run, "--name", "digits")
    assert len(model_journal.chosen(place, "digits")) == 1


COMMANDS = """
import json, os, resource, sys
from labrun.cli import main

def cpu_s():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

began = cpu_s()
for arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        told_to = os.dup(1)
        os.dup2(2, 1)
        sys.argv[:] = ["lab", "models", *arguments]
        try:
            exec(arguments[1]) if arguments[0] == "python" else main()
        finally:
            told = {"imported": sorted({name.partition(".")[0] for name in sys.modules}), "cpu_s": began + cpu_s()}
            os.write(told_to, json.dumps(told).encode() + b"\\n")
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, arguments
"""
"""Runs `lab models` with each list of arguments, or `python CODE`, in forks that have imported nothing else."""


def test_the_registry_answers_without_any_heavy_import(place: Path) -> None:
    """From the command line and from Python."""
    heavy = {"mlflow", "torch", "pytorch_lightning", "sklearn", "pandas", "numpy", "omegaconf", "sqlalchemy"}
    dnn = next(record.id for _, record in store.runs(place) if record.name == "dnn")
    commands = [
        ("register", dnn, "--name", "light", "--alias", "first"),
        ("ls",),
        ("show", "light"),
        ("alias", "light", "second"),
        ("alias", "light@second", "--remove"),
        ("rm", "light", "--yes", "--force"),
        ("python", "import labrun; print(labrun.get_run('last').register_model('from-python'))"),
        ("rm", "from-python", "--yes"),
    ]
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "\nModel(from-python/1)\n" in done.stderr, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for arguments, one in zip(commands, told, strict=True):
        assert not heavy & set(one["imported"]), (arguments, heavy & set(one["imported"]))
        assert one["cpu_s"] < 1, arguments
    assert not mlflow_client.database_path(place).exists() and processes_of(place) == []


def test_python_loads_a_registered_model_without_mlflow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert load_model("digits@champion", root=place).predict([[0.0] * 64]).shape == (1,)


def test_a_network_is_loaded_without_lightning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes twice as long as PyTorch's."""
    monkeypatch.delitem(sys.modules, "labrun.tasks.networks.lightning", raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    dnn = next(record.id for _, record in store.runs(place) if record.name == "dnn")
    assert load_model(f"run:{dnn}", root=place).predict([[0.0] * 64]).shape == (1,)


def test_models_are_listed_and_shown_in_tables(place: Path) -> None:
    told = said(place)
    assert re.search(r"digits +1 +champion: 1 +\w{8} +(lr|dnn) +accuracy 0\.\d+", told)
    assert re.search(r"digits +1 +champion ", said(place, "ls", "digits"))
    one = json.loads(said(place, "ls", "--json"))
    assert one["name"] == "digits" and one["aliases"] == ["champion"] and one["metrics"]["accuracy"] > 0.8
    shown = said(place, "show", "digits@champion")
    for text in ("digits/1", "SHA-256", "data digits", "tag team", "load_model('digits/1')", "mlflow models serve"):
        assert text in shown
    assert json.loads(said(place, "show", "digits", "--json"))["number"] == 1


def test_tables_with_and_without_header_and_target_are_predicted(place: Path, tmp_path: Path) -> None:
    for header in (True, False):
        for target in (True, False):
            file = tmp_path / f"digits-{header}-{target}.csv"
            y = digits_csv(file, header, target)
            told = said(place, "predict", "digits", str(file))
            assert ("was left out" in told) == target
            with open(f"{file}.predictions.csv") as table:
                rows = list(csv.DictReader(table))
            assert len(rows) == len(y) and list(rows[0]) == ["prediction", *(f"probability_{n}" for n in range(10))]
            assert np.mean([int(row["prediction"]) == label for row, label in zip(rows, y, strict=True)]) > 0.9
            assert sum(float(rows[0][f"probability_{n}"]) for n in range(10)) == pytest.approx(1)


def test_arrays_and_images_are_predicted(place: Path, tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    np.save(tmp_path / "x.npy", x[:9])
    np.savez(tmp_path / "x.npz", X=x[:9].reshape(-1, 8, 8), y=y[:9])
    (tmp_path / "pictures").mkdir()
    for number in range(9):
        pixels = np.round(x[number].reshape(8, 8) / 16 * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    answers = []
    for name in ("x.npy", "x.npz", "pictures"):
        said(place, "predict", "digits/1", str(tmp_path / name), "-o", str(tmp_path / "out" / f"{name}.csv"))
        with open(tmp_path / "out" / f"{name}.csv") as table:
            rows = list(csv.DictReader(table))
        answers.append([row["prediction"] for row in rows])
    assert answers[0] == answers[1] == answers[2] == [str(label) for label in y[:9]]
    assert rows[3]["file"] == "3.png"
    single = said(place, "predict", "digits", str(tmp_path / "pictures" / "4.png"))
    assert "1 predictions" in single and "were scaled to 0 to 16" in single


def test_mistakes_are_refused_in_one_message(place: Path, tmp_path: Path) -> None:
    (tmp_path / "narrow.csv").write_text("a,b\n1,2\n")
    (tmp_path / "words.csv").write_text(",".join(f"c{n}" for n in range(64)) + "\n" + ",".join(["x"] * 64) + "\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "file.xyz").write_bytes(b"?")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    from PIL import Image

    Image.new("RGB", (28, 28)).save(tmp_path / "large.png")
    (tmp_path / "none").mkdir()
    for name, message in (
        ("narrow.csv", "has 2 columns, but model digits/1 takes 64"),
        ("words.csv", "hold text"),
        ("empty.csv", "is not a readable CSV file"),
        ("bad.npz", "cannot be read as arrays"),
        ("objects.npy", "cannot be read as arrays"),
        ("bad.png", "cannot be read as an image"),
        ("large.png", "is 28 high and 28 wide"),
        ("file.xyz", "labrun predicts for .csv"),
        ("none", "holds no image"),
        ("absent.csv", "there is no file"),
    ):
        assert message in mistake(place, "predict", "digits", str(tmp_path / name)), name
    assert "Did you mean 'digits'" in mistake(place, "show", "digitz")
    assert "no run is called 'nothing'" in mistake(place, "register", "nothing", "--name", "x")
    assert "is not a valid model name" in mistake(place, "register", "last", "--name", "a/b")
    assert "use KEY=VALUE" in mistake(place, "register", "last", "--name", "a", "--tag", "=b")
    assert "has no file outputs/none.npz" in mistake(place, "register", "last", "outputs/none.npz", "--name", "a")
    assert "use --yes" in mistake(place, "rm", "digits", "--force")


def test_a_model_is_registered_aliased_downloaded_and_removed(place: Path, tmp_path: Path) -> None:
    """The run stays, and can then be removed, too."""
    dnn = next(record.id for _, record in store.runs(place) if record.name == "dnn")
    for file in ("outputs/model.npz", "outputs/model.pt"):
        said(place, "register", dnn, file, "--name", "net")
    assert "net@best is version 2" in said(place, "alias", "net/2", "best")
    assert "net@best is version 1" in said(place, "alias", "net/1", "best")
    assert "model.npz" in said(place, "download", "net@best", "-o", str(tmp_path / "fetched"))
    original, _ = store.find(place, dnn)
    assert (tmp_path / "fetched" / "model.npz").read_bytes() == (original / "outputs" / "model.npz").read_bytes()
    assert "already exists" in mistake(place, "download", "net@best", "-o", str(tmp_path / "fetched"))
    kept = lab(place, "runs", "rm", dnn, "--yes")
    assert kept.returncode == 1 and "registered as net/1, net/2" in kept.stderr
    assert "net/1 is net@best" in mistake(place, "rm", "net/1", "--yes")
    assert "net@best is removed" in said(place, "alias", "net@best", "--remove")
    assert "removed net/1, net/2" in said(place, "rm", "net", "--yes")
    assert "no model is registered as 'net'" in mistake(place, "show", "net")
    assert not (model_journal.folder(place, "net", 1)).exists()


def test_models_appear_in_mlflow_on_demand(place: Path, empty_mlflow: Path) -> None:
    for _ in range(2):  # also once more, where another database is in the place of the first
        copy_database(empty_mlflow, place / "another")
        os.replace(mlflow_client.database_path(place / "another"), mlflow_client.database_path(place))
        assert mlflow_sync(place).left_out == []
        client = mlflow_client.connect(place, mlflow_client.database_uri(place))
        assert int(client.get_model_version_by_alias("digits", "champion").version) == 1
    mlflow_client.database_path(place).unlink()
    assert "digits" in said(place, "ls")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("model", ["lr", "dnn"])
def test_the_printed_command_serves_the_model(place: Path, model: str) -> None:
    """`mlflow models serve`, and a request as its manual has it.

    Over 15 s: MLflow's own server starts, with PyTorch.
    """
    from sklearn.datasets import load_digits

    run = next(record.id for _, record in store.runs(place) if record.name == model)
    told = said(place, "register", run, "--name", f"served-{model}", "--alias", "live")
    command = re.search(r"serve it: +(.*)", told)
    assert command is not None and not mlflow_client.database_path(place).exists(), "it works without a sync"
    port = free_port()
    with open(place / f"{model}.log", "wb") as output:
        server = subprocess.Popen(
            command[1].replace("--port 5001", f"--port {port}"),
            shell=True,
            cwd=place,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    x, y = load_digits(return_X_y=True)

    def ask(body: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None and time.monotonic() < end, (place / f"{model}.log").read_text()
                time.sleep(0.3)
        found = ask({"inputs": x[:20].reshape(-1, 1, 8, 8).tolist()})["predictions"]
        assert np.mean([int(one["prediction"]) == label for one, label in zip(found, y[:20], strict=True)]) > 0.8
        assert sum(found[0][f"probability_{n}"] for n in range(10)) == pytest.approx(1)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask({"inputs": [[1.0, 2.0]]})
        assert refused.value.code == 400
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_version_is_where_azureml_expects_it(place: Path) -> None:
    """That is where `azureml.core.Model` looks for it."""
    folder = place / "outputs" / ".labrun" / "models" / "digits" / "1"
    assert (folder / "MLmodel").is_file() and (folder / "data" / "model" / "model.json").is_file()
