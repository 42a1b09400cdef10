"""The model registry: version numbers, journal, MLflow; kills, deletions and concurrent use."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers import copy_database, mlflow_sync, submitted
from labrun._io import file_sha256
from labrun.compat.azureml.exceptions import ModelNameException
from labrun.compat.azureml.training import registered
from labrun.errors import ConfigError, CorruptDataError, LabrunError, RecordError
from labrun.registry import model_folder, models
from labrun.runs import context, model_journal
from labrun.runs.cards import Card, CardKind
from labrun.runs.groups import DataEntry
from labrun.runs.record import COMPLETED, read_record
from labrun.runs.recording import Recording
from labrun.runs.workspace import Workspace
from labrun.tracking.mlflow import client as mlflow_client

DATA = [{"name": "digits", "digest": "d" * 64, "asset": "numbers", "version": "v" * 64}]


def run_with(root: Path, run_id: str, content: bytes = b"weights", **config: Any) -> Path:
    """A finished run with a model in `outputs/`, and two other files."""
    run_dir = submitted(root, run_id, config={"model": {"lr": 0.1}, **config})
    with Recording(run_dir, capture=False) as recording:
        context.log("accuracy", 0.5)
        recording.record.data = [DataEntry.of(one) for one in DATA]
        outputs = run_dir / "outputs"
        (outputs / "model.skops").write_bytes(content)
        (outputs / "trained.pkl").write_bytes(content + b"pickle")
        card = {
            "format": 1,
            "name": "net",
            "kind": "estimator",
            "file": "model.skops",
            "input_shape": [4],
            "class_names": ["a", "b"],
            "sha256": file_sha256(outputs / "model.skops"),
        }
        (outputs / "model.json").write_text(json.dumps(card))
    return run_dir


def client(root: Path, uri: str | None = None) -> Any:
    from mlflow.tracking import MlflowClient

    uri = uri or mlflow_client.database_uri(root)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def in_mlflow(root: Path, uri: str | None = None) -> dict[str, dict[int, str]]:
    """Names, numbers and runs, as MLflow has them after a sync."""
    if uri is None:
        assert mlflow_sync(root).left_out == []
    found: dict[str, dict[int, str]] = {}
    for model in client(root, uri).search_registered_models():
        versions = client(root, uri).search_model_versions(f"name='{model.name}'")
        found[model.name] = {int(one.version): one.tags["labrun.run"] for one in versions}
    return found


def aliases(root: Path, name: str) -> dict[str, int]:
    return {alias: int(number) for alias, number in client(root).get_registered_model(name).aliases.items()}


@pytest.fixture
def root(tmp_path: Path, empty_mlflow: Path, read_migrations_once: None) -> Path:
    mlflow_client.quiet()
    root = tmp_path.resolve()
    copy_database(empty_mlflow, root)
    return root


def test_versions_count_up_and_have_their_run_metrics_and_data(root: Path) -> None:
    first, is_new = models.register(root, run_with(root, "aaaa0000"), "net", tags={"team": "a"})
    second, _ = models.register(root, run_with(root, "bbbb0000", b"others"), "net")
    other, _ = models.register(root, run_with(root, "cccc0000"), "other", "outputs/trained.pkl")
    assert is_new and [one.title for one in (first, second, other)] == ["net/1", "net/2", "other/1"]
    assert client(root).search_registered_models() == []
    assert in_mlflow(root) == {"net": {1: "aaaa0000", 2: "bbbb0000"}, "other": {1: "cccc0000"}}
    shown = client(root).get_model_version("net", "1")
    assert shown.tags["metric.accuracy"] == "0.5" and shown.tags["team"] == "a"
    assert shown.tags["data.numbers"] == "v" * 64 and shown.tags["labrun.sha256"] == first.sha256
    run = client(root).get_run(shown.run_id)
    assert run.data.tags["labrun.id"] == "aaaa0000" and run.data.metrics["accuracy"] == 0.5
    assert model_journal.registered_runs(root) == {
        "aaaa0000": ["net/1"],
        "bbbb0000": ["net/2"],
        "cccc0000": ["other/1"],
    }
    assert (model_journal.model_folder(root, "net") / "MLmodel").is_file()
    assert model_journal.model_folder(root, "models:/net/1") == model_journal.model_folder(root, "net/1")
    # Later changes of a version arrive too, and so does a file of no run.
    models.describe(root, "net/1", lambda told: models.About({"team": "b"}, told.properties, "better"))
    (root / "own.bin").write_bytes(b"own")
    models.register_local(root, root / "own.bin", "own")
    assert in_mlflow(root)["own"] == {1: "local file"}
    assert client(root).get_model_version("net", "1").tags["team"] == "b"
    assert model_journal.find(root, "net/1").description == "better" and "" not in model_journal.registered_runs(root)


def test_a_versions_folder_equals_one_written_by_mlflow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    # MLflow adds the uv.lock and pyproject.toml of the working folder to a model, if both are there.
    monkeypatch.chdir(root)
    version, _ = models.register(root, run_with(root, "aaaa0000"), "net")
    ours, theirs = model_journal.folder(root, "net", 1), root / "theirs"
    pins = (ours / "requirements.txt").read_text().split()
    assert [pin.partition("==")[0] for pin in pins] == ["mlflow", "labrun", "numpy", "pandas", "scikit-learn", "skops"]
    save_model(
        path=str(theirs),
        loader_module="labrun.tasks.saved",
        data_path=str(model_journal.content(root, version)),
        signature=ModelSignature(Schema([TensorSpec(np.dtype(np.float64), (-1, 4))])),
        pip_requirements=pins[1:],
        metadata={"labrun.run": "aaaa0000", "labrun.experiment": "test", "labrun.sha256": version.sha256},
    )
    assert pins == (theirs / "requirements.txt").read_text().split()
    assert {path.relative_to(ours) for path in ours.rglob("*")} == {
        path.relative_to(theirs) for path in theirs.rglob("*")
    }
    for name in ("MLmodel", "python_env.yaml", "conda.yaml"):
        found = [yaml.safe_load((folder / name).read_text()) for folder in (ours, theirs)]
        for one in found if name == "MLmodel" else []:
            one["signature"]["inputs"] = json.loads(one["signature"]["inputs"])
            assert one.pop("model_uuid") and one.pop("utc_time_created")
        assert found[0] == found[1], name
    columns = {"age": True, "town": False}
    schema = Schema([ColSpec(AnyType() if number else "string", name, False) for name, number in columns.items()])
    card = Card({}, "model.skops", "0" * 64, CardKind.ESTIMATOR, columns=columns)
    assert json.loads(str(model_folder._inputs(card))) == json.loads(schema.to_json())
    # An older run's card says nothing of the columns: the model looks at the table itself.
    card = Card({}, "model.skops", "0" * 64, CardKind.ESTIMATOR, arguments={"preprocess": True}, input_shape=(3,))
    assert model_folder._inputs(card) is None


def test_the_same_file_is_registered_once(root: Path) -> None:
    run_dir = run_with(root, "aaaa0000")
    models.register(root, run_dir, "net")
    again, is_new = models.register(root, run_dir, "net")
    assert again.number == 1 and not is_new
    assert models.register(root, run_dir, "another")[1]
    assert models.register(root, run_dir, "net", "outputs/trained.pkl")[0].number == 2


def test_a_version_survives_its_run(root: Path) -> None:
    run_dir = run_with(root, "aaaa0000")
    version, _ = models.register(root, run_dir, "net")
    shutil.rmtree(run_dir)  # the database is still empty, as one that is made anew
    assert model_journal.check(root, version).joinpath("model.skops").read_bytes() == b"weights"
    assert in_mlflow(root) == {"net": {1: "aaaa0000"}}


def test_aliases_are_moved_and_removed(root: Path) -> None:
    models.register(root, run_with(root, "aaaa0000"), "net")
    models.register(root, run_with(root, "bbbb0000", b"others"), "net")
    models.alias(root, "net/1", "champion")
    models.alias(root, "net/1", "first")
    models.alias(root, "net/2", "champion")
    mlflow_sync(root)
    assert model_journal.find(root, "net@champion").number == 2 and aliases(root, "net") == {"champion": 2, "first": 1}
    models.unalias(root, "net@first")
    mlflow_sync(root)
    assert aliases(root, "net") == {"champion": 2}
    with pytest.raises(RecordError, match="no alias 'first'"):
        models.unalias(root, "net@first")


def test_a_deleted_database_is_rebuilt_with_its_versions_and_aliases(root: Path, no_migrations: None) -> None:
    for place, content in enumerate((b"a", b"b", b"c", b"d")):
        models.register(root, run_with(root, f"{place}aaa0000", content), "net")
    models.register(root, run_with(root, "eeee0000"), "gone")
    models.alias(root, "net/2", "champion")
    models.alias(root, "net/4", "challenger")
    models.remove(root, [model_journal.find(root, "net/1"), model_journal.find(root, "net/3")])
    models.remove(root, [model_journal.find(root, "gone")])
    before = in_mlflow(root)
    assert before == {"net": {2: "1aaa0000", 4: "3aaa0000"}}
    mlflow_client.database_path(root).unlink()
    assert mlflow_sync(root).news == 5
    assert in_mlflow(root) == before and aliases(root, "net") == {"champion": 2, "challenger": 4}
    assert client(root).get_run(client(root).get_model_version("net", "2").run_id).data.tags["labrun.id"] == "1aaa0000"
    # Numbers of what was removed are not given again.
    assert models.register(root, run_with(root, "ffff0000", b"f"), "gone")[0].number == 2
    assert in_mlflow(root)["gone"] == {2: "ffff0000"}
    assert sorted(path.name for path in model_journal.folder(root, "net", 0).parent.iterdir()) == ["2", "4"]


def test_changes_in_mlflows_pages_are_taken_over(root: Path) -> None:
    """Even if the journal has changed since the last sync; if both have changed, the journal's value stays."""
    for place, content in enumerate((b"a", b"b", b"c")):
        models.register(root, run_with(root, f"{place}aaa0000", content), "net")
    for title, alias in (("net/1", "champion"), ("net/1", "both"), ("net/1", "first"), ("net/2", "old")):
        models.alias(root, title, alias)
    mlflow_sync(root)
    pages = client(root)
    pages.set_registered_model_alias("net", "champion", "2")
    pages.set_registered_model_alias("net", "fresh", "2")
    pages.set_registered_model_alias("net", "both", "2")
    pages.delete_registered_model_alias("net", "old")
    pages.delete_model_version("net", "1")
    pages.delete_model_version("net", "3")
    models.alias(root, "net/3", "both")
    models.alias(root, "net/2", "meanwhile")
    mlflow_sync(root)
    mlflow_sync(root)
    assert model_journal.read(root).aliases["net"] == {"champion": 2, "fresh": 2, "both": 3, "meanwhile": 2, "first": 1}
    # A version deleted there stays deleted there, and stays here; later numbers are not disturbed.
    assert in_mlflow(root) == {"net": {2: "1aaa0000"}} and model_journal.find(root, "net/1").run == "0aaa0000"
    assert aliases(root, "net") == {"champion": 2, "fresh": 2, "meanwhile": 2, "both": 2}
    assert models.register(root, run_with(root, "3aaa0000", b"d"), "net")[0].number == 4
    assert in_mlflow(root) == {"net": {2: "1aaa0000", 4: "3aaa0000"}}


def test_versions_created_in_mlflow_are_left_alone(root: Path) -> None:
    models.register(root, run_with(root, "aaaa0000"), "net")
    mlflow_sync(root)
    pages = client(root)
    pages.create_model_version("net", "file:///somewhere/else")
    pages.set_registered_model_alias("net", "theirs", "2")
    assert models.register(root, run_with(root, "bbbb0000", b"b"), "net")[0].number == 2
    fed = mlflow_sync(root)
    assert fed.left_out == ["model net/2: MLflow has another version of that number, which labrun did not create"]
    assert models.register(root, run_with(root, "cccc0000", b"c"), "net")[0].number == 3
    mlflow_sync(root)
    there = {int(one.version): one.tags.get("labrun.run") for one in pages.search_model_versions("name='net'")}
    assert there == {1: "aaaa0000", 2: None, 3: "cccc0000"}
    assert aliases(root, "net") == {"theirs": 2} and model_journal.read(root).aliases["net"] == {}
    models.remove(root, model_journal.chosen(root, "net"))
    mlflow_sync(root)
    assert [int(one.version) for one in pages.search_model_versions("name='net'")] == [2]
    assert models.register(root, run_with(root, "dddd0000", b"d"), "net")[0].number == 4


class Registering:
    """A fork of this process that registers a run's model."""

    def __init__(self, root: Path, run_dir: Path, name: str = "net") -> None:
        self._answer, there = FORKS.Pipe(duplex=False)
        self._process = FORKS.Process(target=_register, args=(there, root, run_dir, name))
        self._process.start()
        there.close()

    def answer(self) -> tuple[int, bool]:
        """Wait for its end; return the version's number, and whether it is new."""
        number, is_new = self._answer.recv()
        self._process.join(60)
        return number, is_new

    def kill(self) -> bool:
        """End it with kill -9; return whether it was still running."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL


FORKS = multiprocessing.get_context("fork")


def _register(answer: Connection, root: Path, run_dir: Path, name: str) -> None:
    version, is_new = models.register(root, run_dir, name)
    answer.send((version.number, is_new))


def test_concurrent_registrations_get_different_numbers(root: Path) -> None:
    runs = [run_with(root, f"{place}aaa0000", b"%d" % place) for place in range(3)]
    processes = [Registering(root, run_dir) for run_dir in runs]
    assert sorted(process.answer()[0] for process in processes) == [1, 2, 3]
    assert sorted(in_mlflow(root)["net"]) == [1, 2, 3]
    one_run = [Registering(root, runs[0], "twice") for _ in range(2)]
    assert sorted(process.answer() for process in one_run) == [(1, False), (1, True)]


def test_a_kill_at_any_moment_leaves_a_consistent_registry(root: Path) -> None:
    """The registration is killed with -9 repeatedly, at random moments."""
    draw = random.Random(7)
    began = time.monotonic()
    assert Registering(root, run_with(root, "zzzz0000", b"first")).answer() == (1, True)
    whole_s = time.monotonic() - began
    killed = 0
    for place in range(16):
        run_dir = run_with(root, f"{place:x}aaa0000", b"%d" % place)
        process = Registering(root, run_dir)
        time.sleep(whole_s * draw.uniform(0.0, 1.05))
        killed += process.kill()
        for version in model_journal.every(model_journal.read(root)):
            model_journal.check(root, version)
    assert killed
    mlflow_sync(root)
    said = {number: one.run for number, one in model_journal.read(root).versions["net"].items()}
    assert in_mlflow(root) == {"net": said}
    last, _ = models.register(root, run_with(root, "ffff0001", b"last"), "net")
    assert last.number == max(said) + 1 and in_mlflow(root)["net"] == {**said, last.number: "ffff0001"}
    left = sorted(path.name for path in model_journal.folder(root, "net", 0).parent.iterdir())
    assert left == sorted(str(number) for number in [*said, last.number])


def test_a_torn_line_of_the_journal_is_left_out(root: Path) -> None:
    models.register(root, run_with(root, "aaaa0000"), "net")
    models.register(root, run_with(root, "bbbb0000", b"others"), "net")
    model_journal.append(root, model_journal.Event.ALIAS, "net", 2, alias="champion")
    with open(model_journal.path(root), "ab") as file:
        file.write(b'{"event": "alias", "name": "net", "numb')  # torn
    mlflow_sync(root)
    assert in_mlflow(root) == {"net": {1: "aaaa0000", 2: "bbbb0000"}} and aliases(root, "net") == {"champion": 2}
    models.alias(root, "net/1", "old")
    assert model_journal.read(root).aliases["net"] == {"champion": 2, "old": 1}


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "a b", "models:x", "x" * 101, "ä", "a@b"])
def test_invalid_model_names_are_refused(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid model name") as refused:
        models.register(root, run_with(root, "aaaa0000"), name)
    assert not model_journal.path(root).exists()
    with pytest.raises(ModelNameException) as by_sdk:
        registered.check_name(name)
    assert by_sdk.value.message == str(refused.value), "one wording"


@pytest.mark.parametrize("name", ["latest", "v1", "V22", "1", "a/b", "", "a b"])
def test_invalid_aliases_are_refused(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid alias"):
        models.alias(root, "net/1", name)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("outputs/absent.npz", "has no file outputs/absent.npz"),
        ("../../../etc/passwd", "is not a file of run"),
        ("/etc/passwd", "is not a file of run"),
        ("outputs", "leads out of the run.s folder"),
        ("outputs/link", "is not a file of run"),
    ],
)
def test_files_outside_the_run_are_not_registered(root: Path, file: str, message: str) -> None:
    run_dir = run_with(root, "aaaa0000")
    (run_dir / "outputs" / "link").symlink_to("/etc/passwd")
    with pytest.raises(LabrunError, match=message):
        models.register(root, run_dir, "net", file)
    assert not model_journal.path(root).exists()


def test_changed_models_and_versions_are_reported(root: Path) -> None:
    run_dir = run_with(root, "aaaa0000")
    version, _ = models.register(root, run_dir, "net")
    (run_dir / "outputs" / "model.skops").write_bytes(b"other")
    with pytest.raises(CorruptDataError, match="was changed since it was saved"):
        models.register(root, run_dir, "net")
    (model_journal.content(root, version) / "model.skops").write_bytes(b"other")
    with pytest.raises(CorruptDataError, match="was changed since it was registered"):
        model_journal.check(root, version)


def test_runs_that_are_running_or_without_a_model_are_refused(root: Path) -> None:
    run_dir = submitted(root, "aaaa0000", config={})
    with pytest.raises(RecordError, match="its files may still change"):
        models.register(root, run_dir, "net")
    with Recording(run_dir, capture=False):
        pass
    with pytest.raises(RecordError, match="has saved no model with a card"):
        models.register(root, run_dir, "net")


def test_unknown_models_are_refused_with_the_registered_ones(root: Path) -> None:
    with pytest.raises(RecordError, match="Registered: none .lab models register"):
        model_journal.find(root, "net")
    with pytest.raises(RecordError, match="A run's own model is run:last"):
        model_journal.find(root, "last")
    models.register(root, run_with(root, "aaaa0000"), "mnist-net")
    for reference, message in (
        ("mnist-nett", "Did you mean 'mnist-net'"),
        ("mnist-net/2", "no version '2'. Its versions: 1"),
        ("mnist-net/x", "no version 'x'"),
        ("mnist-net@best", "no alias 'best'"),
    ):
        with pytest.raises(RecordError, match=message):
            model_journal.find(root, reference)


def test_the_journal_is_read_without_mlflow() -> None:
    code = "import sys; from labrun.registry import models; assert not {'mlflow', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_models_are_registered_with_the_server_of_their_run(root: Path, mlflow_server: str) -> None:
    """Over 15 s beside other tests: MLflow's server is a new interpreter."""
    server = mlflow_server
    run_dir = run_with(root, "aaaa0000", tracking={"kind": "mlflow", "uri": server})
    version, is_new = models.register(root, run_dir, "net", tags={"team": "a"})
    assert (version.number, version.uri, is_new) == (1, server, True)
    assert not models.register(root, run_dir, "net")[1]
    assert in_mlflow(root, server) == {"net": {1: "aaaa0000"}}
    there = client(root, server).get_model_version("net", "1")
    assert there.tags["team"] == "a" and client(root, server).get_run(there.run_id).info.status == "FINISHED"
    models.alias(root, "net/1", "champion")
    assert client(root, server).get_model_version_by_alias("net", "champion").version in ("1", 1)
    import mlflow.artifacts

    mlflow.set_tracking_uri(server)
    fetched = mlflow.artifacts.download_artifacts("models:/net@champion", dst_path=str(root / "fetched"))
    assert Path(fetched, "data", "model", "model.skops").read_bytes() == b"weights"
    with pytest.raises(ConfigError, match="choose another name"):
        models.register(root, run_with(root, "bbbb0000", b"own"), "net")
    # Killed before its line was written: the server's version is found again.
    model_journal.path(root).unlink()
    shutil.rmtree(model_journal.folder(root, "net", 0).parent)
    assert models.register(root, run_dir, "net")[0].number == 1
    models.remove(root, [model_journal.find(root, "net")])
    assert in_mlflow(root, server).get("net", {}) == {}


def test_models_are_registered_in_the_users_database_of_their_run(root: Path, empty_mlflow: Path) -> None:
    own = f"sqlite:///{root}/own.db"
    shutil.copy(empty_mlflow, root / "own.db")
    client(root, own).create_registered_model("net")
    client(root, own).create_model_version("net", "file:///by/hand")
    config = {"tracking": {"kind": "mlflow", "uri": own}}
    assert models.register(root, run_with(root, "aaaa0000", **config), "net")[0].number == 2
    models.alias(root, "net/2", "champion")
    there = {int(one.version): one.tags.get("labrun.run") for one in client(root, own).search_model_versions()}
    assert there == {1: None, 2: "aaaa0000"} and in_mlflow(root) == {}
    assert {a: int(n) for a, n in client(root, own).get_registered_model("net").aliases.items()} == {"champion": 2}
    models.remove(root, [model_journal.find(root, "net")])
    assert [int(one.version) for one in client(root, own).search_model_versions()] == [1]


def test_an_unreachable_server_is_reported_in_one_message(root: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    run_dir = run_with(root, "aaaa0000", tracking={"kind": "mlflow", "uri": dead})
    with pytest.raises(RecordError, match=f"MLflow at {dead} refused"):
        models.register(root, run_dir, "net")
    assert not model_journal.path(root).exists() and read_record(run_dir).status == COMPLETED
    assert list(Workspace(root).state.glob("models/*/*")) == []
