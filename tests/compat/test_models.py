"""Models of the SDK, registered by control scripts from local files, and by scripts within their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import labrun
from helpers import lab, run_labrun
from labrun.azureml.experiment import Experiment
from labrun.azureml.kinds import wrapped
from labrun.azureml.model import Model
from labrun.azureml.workspace import Workspace
from labrun.compat.azureml.exceptions import (
    ModelNotFoundException,
    ModelPathNotFoundException,
    WebserviceException,
)
from labrun.compat.azureml.training import model as training
from labrun.compat.azureml.training import registered
from labrun.registry import models
from labrun.runs import model_journal, workspace
from labrun.tasks.script import registering as run_models

SCRIPT = """
import sys
from azureml.core import Model, Run
from azureml.exceptions import WebserviceException

run = Run.get_context()
run.log("accuracy", 0.9)
open("outputs/m.pkl", "w").write("m")
open("beside.pkl", "w").write("beside")
first = run.register_model("first", "outputs/m.pkl", tags={"a": "b"}, model_framework="ScikitLearn")
twice = run.register_model("first", "outputs/m.pkl", {"again": "1"})
second = Model.register(workspace=run.experiment.workspace, model_path="beside.pkl", model_name="second",
                        child_paths=["beside.pkl"])
third = run.register_model("whole", "outputs")
try:
    run.register_model("absent", "outputs/absent.pkl")
except Exception as error:
    print("refused:", error)
open("beside.pkl", "w").write("changed since")
run.upload_file("called.pkl", "outputs/m.pkl")
called = run.register_model("called.pkl")
for call in (lambda: run.register_model("not a name", "outputs/m.pkl"),
             lambda: Model.register(run.experiment.workspace, "beside.pkl", "-a")):
    try:
        call()
    except WebserviceException as error:
        print("at once:", error)
print("told", twice.version, first.version, second.version, third.version, first.name)
run.complete()
sys.exit("late" if "fail" in sys.argv else 0)
"""


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABRUN_ROOT", str(tmp_path))
    return Workspace()


def test_local_files_and_folders_are_registered_as_models(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.pkl").write_bytes(b"weights")
    (tmp_path / "net" / "variables").mkdir(parents=True)
    (tmp_path / "net" / "saved.pb").write_bytes(b"graph")
    (tmp_path / "net" / "variables" / "0").write_bytes(b"numbers")
    one = Model.register(ws, "m.pkl", "one", tags={"a": "b"}, properties={"p": 1}, description="told")
    two = Model.register(
        model_path="m.pkl",
        model_name="one",
        workspace=ws,
        tags={"c": None},
        model_framework=Model.Framework.SCIKITLEARN,
        model_framework_version="1.5",
    )
    net = Model.register(ws, str(tmp_path / "net"), "net")
    assert (one.version, two.version, net.version, one.id, one.run_id, one.run) == (1, 2, 1, "one:1", None, None)
    assert (one.tags, one.properties, one.description) == ({"a": "b"}, {"p": "1"}, "told")
    assert (two.model_framework, two.model_framework_version, two.properties) == ("ScikitLearn", "1.5", {})
    assert abs((one.created_time - two.created_time).total_seconds()) < 60

    # Chosen by name, id, version, tags.
    assert (
        Model(ws, "one").version == 2 and Model(ws, id="one:1").version == 1 and Model(ws, "one", version=1) is not one
    )
    assert Model(ws, name="one", tags=[["a", "b"]]).version == 1
    assert [model.id for model in Model.list(ws)] == ["net:1", "one:2", "one:1"]
    assert [model.id for model in Model.list(ws, latest=True)] == ["net:1", "one:2"]
    assert [model.id for model in Model.list(ws, name="one", tags=["a"])] == ["one:1"]
    assert {name: model.version for name, model in ws.models.items()} == {"one": 2, "net": 1}
    with pytest.raises(WebserviceException, match="ModelNotFound: no model 'absent'"):
        Model(ws, "absent")
    with pytest.raises(ModelNotFoundException, match="tags="):
        Model(ws, "one", tags={"a": "other"})
    with pytest.raises(ModelPathNotFoundException, match="no file or folder"):
        Model.register(ws, "absent.pkl", "one")
    with pytest.raises(WebserviceException, match="is not a valid model name"):
        Model.register(ws, "m.pkl", "not a name")

    # Its files, as they were registered.
    (tmp_path / "m.pkl").write_bytes(b"other")
    assert Path(Model.get_model_path("one", _workspace=ws)).read_bytes() == b"weights"
    path = Path(net.download(target_dir="got"))
    assert path == Path("got/net") and (path / "variables" / "0").read_bytes() == b"numbers"
    with pytest.raises(WebserviceException, match="exist_ok"):
        net.download(target_dir="got")
    net.download(target_dir="got", exist_ok=True)
    net.download(target_dir="got", exists_ok=True)  # its name of 2019
    version = model_journal.find(tmp_path, "net")
    assert model_journal.check(tmp_path, version).is_dir() and version.sha256 == model_journal.checksums_digest(
        model_journal.below(version.files, "net")
    )

    # Its description and tags can change; properties only grow.
    one.add_tags({"new": "x"})
    one.add_properties({"p": "2", "q": "3"})
    one.update(description="better")
    again = Model(ws, "one", version=1)
    assert again.tags == {"a": "b", "new": "x"} and again.properties == {"p": "1", "q": "3"}
    assert again.serialize()["description"] == "better" and "one:1" in repr(again)
    one.delete()
    assert [model.id for model in Model.list(ws, name="one")] == ["one:2"]
    assert Model.register(ws, "m.pkl", "one").version == 3, "a number is not given twice"


def test_local_models_without_a_card_cannot_be_loaded(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "a.pb").write_bytes(b"graph")
    (tmp_path / "model.json").write_bytes(b"{}")
    models.register_local(tmp_path, tmp_path / "net", "net")
    with pytest.raises(labrun.LabrunError, match="is the folder net"):
        labrun.load_model("net", root=tmp_path)
    with pytest.raises(labrun.LabrunError, match="register its folder"):
        models.register_local(tmp_path, tmp_path / "model.json", "card")
    (tmp_path / "empty").mkdir()
    with pytest.raises(labrun.LabrunError, match="no files"):
        models.register_local(tmp_path, tmp_path / "empty", "empty")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose script registers models, and one that fails after it has."""
    folder = tmp_path_factory.mktemp("registering")
    (folder / "train.py").write_text(SCRIPT)
    words = ("experiment=script", "script.azureml=true", "script.path=train.py")
    done = run_labrun(*words, cwd=folder)
    late = run_labrun(*words, "script.positional=[fail]", cwd=folder)
    return folder, done, late


def test_a_script_registers_models_of_its_run(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, done, late = trained
    monkeypatch.setenv("LABRUN_ROOT", str(folder))
    assert done.returncode == 0 and "told 2 1 1 1 first" in done.stdout, done.stdout + done.stderr
    assert "refused: register 'absent': there is no file or folder outputs/absent.pkl" in done.stdout
    assert "not kept: child_paths" in done.stdout
    last = labrun.runs(root=folder)[-1]
    assert done.stdout.count("at once: ") == 2 and "'not a name' is not a valid model name: use" in done.stdout
    ws = Workspace()
    first, again = Model(ws, "first", version=1), Model(ws, "first")
    assert (again.version, again.tags, again.run_id) == (2, {"again": "1"}, last.id), "each call is a version"
    run_models.register(folder, last.folder, training.pending_models.read(last.folder, 1))
    assert Model(ws, "first").version == 2, "what was promised is registered once, whoever carries it out again"
    assert Path(Model.get_model_path("called.pkl")).name == "called.pkl", "not all of outputs/"
    assert first.run_id == last.id and first.tags == {"a": "b"} and first.model_framework == "ScikitLearn"
    assert Path(Model.get_model_path("second")).read_text() == "beside", "as it was when it was registered"
    assert Path(Model.get_model_path("whole")).name == "outputs"
    assert model_journal.find(folder, "first").metrics == {"accuracy": 0.9}
    assert late.returncode == 1 and len(Model.list(ws, "first")) == 2, "a failed run: none"
    told = lab(folder, "models").stdout
    assert "second" in told and last.id in told
    assert "labrun does not load it" in lab(folder, "models", "show", "whole").stdout


def test_a_control_script_registers_a_folder_of_a_run(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = trained
    monkeypatch.setenv("LABRUN_ROOT", str(folder))
    ws = Workspace()
    run = wrapped(Experiment(ws, "any"), labrun.runs(root=folder)[-1])
    made = run.register_model("control", tags={"a": "b"}, description="text", model_framework="PyTorch")
    assert isinstance(made, Model) and made.run.id == run.id and (made.version, made.description) == (1, "text")
    assert made.model_framework == "PyTorch" and Path(Model.get_model_path("control")).name == "outputs"
    assert training.Model(name="control").tags == {"a": "b"}, "any interpreter sees the same"
    assert [run.register_model("control", "outputs/m.pkl").version for _ in range(2)] == [2, 3]
    with pytest.raises(ModelPathNotFoundException, match="has no file outputs/no.pkl"):
        run.register_model("control", "outputs/no.pkl")
    with pytest.raises(WebserviceException, match="is not a valid model name"):
        run.register_model("not a name")
    assert registered.NAME.pattern == model_journal.NAME.pattern


def test_scripts_and_labrun_agree_on_the_paths_of_the_registry() -> None:
    paths = workspace.Workspace(Path())
    assert (paths.models, paths.journal) == (training.MODELS_FOLDER, registered.JOURNAL)
