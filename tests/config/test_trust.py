"""Objects that a card or a record may build: only model classes, checked before anything is called."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from conftest import Command, Runner
from labrun.api.model import Model
from labrun.config import instantiate, trust
from labrun.config.schema import Config
from labrun.errors import ConfigError, DataError, LabrunError, UntrustedError
from labrun.registry import models
from labrun.remote import local_seals
from labrun.remote.links import Link
from labrun.runs import cards, seals
from labrun.runs.cards import Card
from labrun.runs.groups import Imported
from labrun.runs.record import COMPLETED, read_record, timestamp, write_record
from labrun.tasks import model_files, saved

CALLED: list[Any] = []


def call(*arguments: Any, **named: Any) -> None:
    """A function that must not be called."""
    CALLED.append((arguments, named))


class Own(torch.nn.Module):
    """A user's own network."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        CALLED.append(inner)
        self.inner = inner


HERE = __name__
"""This module, as a card may name it."""


@pytest.fixture(autouse=True)
def _none_called() -> None:
    CALLED.clear()


HOSTILE = [
    "os.system",
    "sklearn.datasets._base.os.system",
    "sklearn.datasets._base.shutil.rmtree",
    "torch.load",
    "torch.nn.modules.module.torch.load",
    "torch.hub.load",
    "sklearn.utils._testing.subprocess.Popen",
    "torch.nn.functional.torch.ops.load_library",
    "labrun.models.pipeline.pipeline",
    "labrun.tasks.saved.load_model",
    "torch.nn.Module.__subclasses__",
    "torch.nn",
    "torch.nn.Linear.forward",
    "torch.nn.functional.relu",
    "sklearn.datasets.fetch_openml",
    "sklearn.utils.Bunch",
    "sklearn.",
    ".",
    "",
    "torch.nn..Linear",
    "builtins.eval",
    "torchvision.models.resnet.load_state_dict_from_url",
    "torch.nn.init.normal_",
    "sklearn.base.clone",
    "torch.nn.parameter.Parameter",
    "labrun.models.chainer_npz.load",
]


@pytest.mark.parametrize("target", HOSTILE)
def test_only_classes_of_models_are_built(target: str) -> None:
    import sklearn.datasets  # noqa: F401 - what a name may lead through is loaded
    import torchvision.models  # noqa: F401

    with pytest.raises(ConfigError, match="not labrun's own"):
        trust.build_model({"_target_": target, "command": "true", "path": "/nowhere"}, "model", [])
    with pytest.raises(ConfigError):
        trust.build_model({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": target}]}, "model", [])


@pytest.mark.parametrize(
    "node",
    [
        {"inner": {"_target_": f"{HERE}.call"}},
        {"inner": {"_target_": f"{HERE}.call", "_partial_": True}},
        {"inner": [1, [{"deep": {"_target_": f"{HERE}.call"}}]]},
        {"_args_": [{"_target_": f"{HERE}.call"}]},
        {"inner": {"_target_": f"{HERE}.call"}, "_recursive_": False},
        {"inner": {"_target_": "sklearn.pipeline.Pipeline", "steps": [["a", {"_target_": f"{HERE}.call"}]]}},
        {"inner": {"_target_": 7}},
        {"inner": {"_target_": ["os", "system"]}},
    ],
)
def test_untrusted_classes_are_refused_at_any_depth(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        trust.build_model({"_target_": f"{HERE}.Own", **node}, "model", [f"{HERE}.Own"])
    assert CALLED == []


def test_interpolations_are_not_resolved_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"${{oc.create:{{_target_: {HERE}.call}}}}"
    made = trust.build_model({"_target_": f"{HERE}.Own", "inner": text}, "model", [f"{HERE}.Own"])
    assert made.inner == text and len(CALLED) == 1


def test_models_are_built_with_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trust.build_model(
        {
            "_target_": "torch.nn.Sequential",
            "_args_": [
                {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
                {"_target_": "torch.nn.ReLU"},
            ],
        },
        "model",
        [],
    )
    assert [type(part).__name__ for part in made] == ["Linear", "ReLU"]
    pipeline = trust.build_model(
        {
            "_target_": "sklearn.pipeline.Pipeline",
            "steps": [
                ["scale", {"_target_": "sklearn.preprocessing.StandardScaler"}],
                ["fit", {"_target_": "sklearn.linear_model.LogisticRegression", "C": 2.0}],
            ],
        },
        "model",
        [],
    )
    assert pipeline.steps[1][1].C == 2.0
    part = trust.build_model(
        {"_target_": f"{HERE}.Own", "inner": {"_target_": "torch.nn.ReLU", "_partial_": True}}, "model", [f"{HERE}.Own"]
    )
    assert isinstance(part.inner(), torch.nn.ReLU)
    assert trust.build_model({"_target_": "torchvision.models.squeezenet1_1", "num_classes": 3}, "model", [])
    CALLED.clear()
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", call)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", call)
    for name in ("squeezenet1_1", "googlenet"):
        made = trust.build_model({"_target_": f"torchvision.models.{name}", "weights": "DEFAULT"}, "model", [])
        assert getattr(made, "transform_input", True) and CALLED == []
    assert trust.build_model({"_target_": f"{HERE}.Own"}, "model", [f"{HERE}.Own"]).inner is None
    with pytest.raises(ConfigError, match=r"torch\.nn\.Linear could not be built: TypeError"):
        trust.build_model({"_target_": "torch.nn.Linear"}, "model", [])


def test_a_frozen_config_calls_no_resolver_of_a_user() -> None:
    OmegaConf.register_new_resolver("labrun_test_eval", call, replace=True)
    try:
        for text in (
            "${labrun_test_eval:1}",
            "a ${ labrun_test_eval:1}",
            "${${oc.decode:labrun_test_eval}:1}",
            "${oc.decode:${labrun_test_eval:1}}",
            "\\\\${labrun_test_eval:1}",
        ):
            with pytest.raises(ConfigError, match="refers to something other than the environment"):
                instantiate.resolve_references({"a": [{"b": text}]})
        assert CALLED == []
        assert instantiate.resolve_references({"a": "${oc.env:HOME}", "b": "\\${labrun_test_eval:1}"})["b"].endswith(
            ":1}"
        )
        assert CALLED == []
    finally:
        OmegaConf.clear_resolver("labrun_test_eval")


@pytest.fixture
def ran(run_here: Runner) -> Path:
    """A run of a network, whose card the tests change."""
    return run_here("model=mnist_dnn", "model.units=8", "trainer.max_epochs=1", "dataset.max_samples=100")[1]


def change_card(run_dir: Path, **values: Any) -> None:
    path = run_dir / "outputs" / cards.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_invalid_model_card_is_refused_in_one_message(ran: Path, tmp_path: Path) -> None:
    card = json.loads((ran / "outputs" / cards.NAME).read_text())
    for values in (
        {"target": f"{HERE}.call"},
        {"target": "sklearn.datasets._base.os.system"},
        {"target": None},
        {"target": [1]},
        {"arguments": {"_target_": f"{HERE}.call"}},
        {"arguments": {"units": {"_target_": f"{HERE}.call"}}},
        {"arguments": [1]},
        {"arguments": {"units": "${oc.create:{_target_: os.system}}"}},
        {"file": "../../../etc/passwd"},
        {"file": "/etc/passwd"},
        {"file": ""},
        {"file": 7},
        {"sha256": "0"},
        {"class_names": 3},
        {"class_names": [1]},
        {"input_shape": "x"},
        {"input_shape": [-1]},
        {"scaling": []},
        {"scaling": {"scale": "a"}},
        {"kind": 7},
        {"kind": "other"},
        {"target": "torch.nn.Linear"},
        {"target": "sklearn.linear_model.LogisticRegression", "arguments": {}},
        {"name": []},
        {"format": "2"},
        {"table": [1]},
        {"classes_last": "no"},
        {"gives": 1},
        {"gives": "logits"},
        {"learns": "ranks"},
        {"learns": ["classes"]},
        {"feed": "pipe"},
    ):
        change_card(ran, **{**card, **values})
        with pytest.raises(LabrunError):
            saved.load_model(ran)
    for content in (b"", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"file": 1e999}'):
        (ran / "outputs" / cards.NAME).write_bytes(content)
        with pytest.raises(LabrunError):
            saved.load_model(ran)
    assert CALLED == []
    change_card_whole(ran, card)
    saved.load_model(ran)
    weights = ran / "outputs" / card["file"]
    outside = tmp_path / "outside.pt"
    shutil.move(weights, outside)
    weights.symlink_to(outside)
    with pytest.raises(DataError, match="not a plain file"):
        saved.load_model(ran)


@pytest.mark.parametrize("kind", ["onnx", None, ["network"]])
def test_a_card_of_an_unknown_kind_is_refused_wherever_it_is_read(
    ran: Path, run_here: Runner, workspace: Path, kind: Any
) -> None:
    change_card(ran, kind=kind)
    refusal = "kind is .*, but must be one of estimator, network, chainer, pickle, tensors, file, folder$"
    with pytest.raises(DataError, match=refusal):
        saved.load_model(ran)
    with pytest.raises(DataError, match=refusal):
        models.register(workspace, ran, "net")
    for task in ("evaluate", "predict"):
        with pytest.raises(DataError, match=refusal):
            run_here(f"task={task}", f"from={ran}")


def change_card_whole(run_dir: Path, card: dict[str, Any]) -> None:
    (run_dir / "outputs" / cards.NAME).write_text(json.dumps(card))


def test_scoring_builds_no_untrusted_class_named_by_a_record(
    ran: Path, run_here: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("evil_reader")
    module.call = call  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evil_reader", module)
    whole = json.loads((ran / "run.json").read_text())
    dataset, datastore = whole["config"]["dataset"], whole["config"]["datastore"]
    for changed in (
        {"dataset": {**dataset, "_target_": "evil_reader.call"}},
        {"dataset": {**dataset, "inner": [{"_target_": "evil_reader.call"}]}},
        {"dataset": {**dataset, "_target_": "labrun.data.readers.GetData", "script": "/tmp/x.py"}},
        {"dataset": {**dataset, "name": "${evil:1}"}},
        {"dataset": 7},
        {"model": None},
        {"datastore": {**datastore, "_target_": "evil_reader.call"}},
        {"datastore": {**datastore, "root": {"_target_": "evil_reader.call"}}},
    ):
        (ran / "run.json").write_text(json.dumps({**whole, "config": {**whole["config"], **changed}}))
        with pytest.raises(LabrunError):
            run_here("task=evaluate", f"from={whole['id']}", "trainer.max_epochs=1")
        assert CALLED == [], changed
    record = read_record(ran)
    record.config = {**whole["config"], "datastore": {"_target_": "s3fs.S3FileSystem", "name": "s", "root": "b"}}
    record.imported = Imported("x.tar", timestamp())
    write_record(ran, record)
    with pytest.raises(ConfigError, match="choose the datastore yourself"):
        run_here("task=evaluate", f"from={whole['id']}", "trainer.max_epochs=1")
    (ran / "run.json").write_text(json.dumps(whole))
    assert run_here("task=evaluate", f"from={whole['id']}")[0].status == COMPLETED


def test_classes_in_the_users_configs_are_trusted(ran: Path, run_here: Runner, workspace: Path) -> None:
    (workspace / "own_reader.py").write_text("from labrun.data.readers import Digits\nclass Mine(Digits):\n    pass\n")
    whole = json.loads((ran / "run.json").read_text())
    whole["config"]["dataset"]["_target_"] = "own_reader.Mine"
    (ran / "run.json").write_text(json.dumps(whole))
    sys.path.append(str(workspace))
    try:
        with pytest.raises(ConfigError, match=r"trusted=\[own_reader\.Mine\]"):
            run_here("task=evaluate", f"from={whole['id']}")
        assert run_here("task=evaluate", f"from={whole['id']}", "trusted=[own_reader.Mine]")[0].finished
        (workspace / "conf" / "dataset").mkdir(parents=True)
        (workspace / "conf" / "dataset" / "mine.yaml").write_text("_target_: own_reader.Mine\nname: mine\n")
        assert run_here("task=evaluate", f"from={whole['id']}")[0].status == COMPLETED
    finally:
        sys.path.remove(str(workspace))
        sys.modules.pop("own_reader", None)


def test_trusting_a_users_network_covers_its_known_parts(ran: Path) -> None:
    content = json.loads((ran / "outputs" / cards.NAME).read_text())
    file = ran / "outputs" / content["file"]
    torch.save({}, file)
    arguments = {"inner": {"_target_": f"{HERE}.Own", "inner": {"_target_": "torch.nn.ReLU"}}}
    card = Card.of({**content, "target": f"{HERE}.Own", "arguments": arguments})
    assert model_files.network(file, card, [f"{HERE}.Own"]).inner.inner.__class__ is torch.nn.ReLU
    with pytest.raises(ConfigError, match=HERE):
        model_files.network(file, card, [])


OWN_NET = """
import math
from torch import nn
import own_part

class Net(nn.Sequential):
    def __init__(self, input_shape, num_classes, units=4):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(input_shape), units), nn.ReLU(),
                         nn.Linear(units, num_classes))
"""


@pytest.fixture
def own(workspace: Path, monkeypatch: pytest.MonkeyPatch, run_here: Runner) -> Iterator[Path]:
    """A run of a network of the user's own, in a workspace with its code."""
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace / "state"))
    monkeypatch.syspath_prepend(str(workspace))
    (workspace / "own_net.py").write_text(OWN_NET)
    (workspace / "own_part.py").write_text("SIZE = 3\n")
    yield run_here(
        "model=mnist_dnn",
        "model._target_=own_net.Net",
        "model.units=8",
        "trainer.max_epochs=1",
        "dataset.max_samples=100",
    )[1]
    for name in ("own_net", "own_part"):
        sys.modules.pop(name, None)


def refused(run_dir: Path | str, root: Path | None = None) -> str:
    """Why a model is not loaded unasked."""
    with pytest.raises(UntrustedError) as caught:
        saved.load_model(run_dir, root=root)
    return str(caught.value)


def test_models_trained_here_by_this_user_are_trusted_automatically(
    own: Path, run_here: Runner, workspace: Path
) -> None:
    """Until their code or an import of it changes. Models from an archive never are."""
    assert saved.load_model(own).predict_numbers(np.zeros((2, 1, 8, 8))).shape == (2,)
    assert run_here("task=evaluate", "from=last")[0].status == COMPLETED
    version, _ = models.register(workspace, own, "net")
    assert "net/1, trusted=['own_net.Net'] where" in repr(Model("net", 1, workspace))
    assert saved.load_model("net").title == "model net/1"
    assert models.needed(workspace, version) == ["own_net.Net"] and not models.untrusted(workspace, version)
    for name in ("own_part.py", "own_net.py"):
        before = (workspace / name).read_text()
        (workspace / name).write_text(f"{before}# changed\n")
        for reference in (own, "net"):
            assert f"({name.removesuffix('.py')})" in refused(reference)
        with pytest.raises(UntrustedError, match=r"name it: 'trusted=\[own_net\.Net\]'"):
            run_here("task=evaluate", f"from={own}")
        (workspace / name).write_text(before)
    assert saved.load_model("net").card.target == "own_net.Net"
    record = read_record(own)
    write_record(own, dataclasses.replace(record, imported=Imported("x.tar", timestamp())))
    assert seals.FROM_ARCHIVE in refused(own)
    with pytest.raises(UntrustedError, match=seals.FROM_ARCHIVE):
        run_here("task=evaluate", f"from={own}")
    again, _ = models.register(workspace, own, "taken")
    assert seals.UNPROVEN in refused("taken") and models.untrusted(workspace, again)


def test_forged_or_foreign_records_are_not_trusted(
    own: Path, workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own / "outputs" / cards.NAME
    text = path.read_text()
    card = json.loads(text)
    weights = own / "outputs" / card["file"]
    for changed in (
        {"arguments": {"units": 9}},
        {"target": f"{HERE}.Own"},
        {"seal": None},
        {"seal": {}},
        {"class_names": ["a"]},
        {"unknown": 1},
        {"seal": {**card["seal"], "run": "00000000"}},
        {"seal": {**card["seal"], "code": {}}},
        {"seal": {**card["seal"], "mac": "0" * 64}},
        {"seal": {**card["seal"], "targets": []}},
        {"seal": {"mac": "é"}},
        {"seal": {"mac": 7, "code": [1]}},
    ):
        path.write_text(json.dumps({**card, **changed}))
        assert seals.UNPROVEN in refused(own), changed
    path.write_text(text)
    other = tmp_path_factory.mktemp("other") / "outputs" / "test" / own.name
    shutil.copytree(own, other)
    assert seals.UNPROVEN in refused(other, other.parents[2]), "of another workspace"
    assert CALLED == [] and weights.is_file()
    key = seals.key_file()
    assert key is not None and key.stat().st_mode & 0o777 == 0o600 and saved.load_model(own)
    key.chmod(0o644)
    assert seals.UNPROVEN in refused(own), "a key that others can read"
    key.chmod(0o600)
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace / "another user"))
    assert seals.UNPROVEN in refused(own) and not (workspace / "another user").exists()
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert seals.Proof(workspace, "00000000", Config({"model": {"_target_": "own_net.Net"}})).seal(card) is None


def test_a_seal_that_does_not_name_the_data_proves_only_the_model(own: Path, workspace: Path) -> None:
    """The oldest seals have no `reads`."""
    path, record = own / "outputs" / cards.NAME, read_record(own)
    content = json.loads(path.read_text())
    assert seals.has_read(workspace, cards.Card.of(content), record.id, record.typed)
    seal = {key: content["seal"][key] for key in ("run", "targets", "code")}
    key = seals._key(make=False)
    assert key is not None
    content["seal"] = {**seal, "mac": seals._mac(key, workspace, content, seal)}
    path.write_text(json.dumps(content))
    assert saved.load_model(own).card.target == "own_net.Net"
    assert not seals.has_read(workspace, cards.Card.of(content), record.id, record.typed)


def test_a_seal_covers_keys_that_this_version_does_not_know(
    own: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, record = own / "outputs" / cards.NAME, read_record(own)
    content = {**json.loads(path.read_text()), "later": {"key": [1, None]}}
    del content["seal"]
    content["seal"] = seals.Proof(workspace, record.id, record.typed).seal(content)
    path.write_text(json.dumps(content))
    assert saved.load_model(own).card.content["later"] == {"key": [1, None]}
    version, _ = models.register(workspace, own, "later")
    assert not models.untrusted(workspace, version) and saved.load_model("later")
    path.write_text(json.dumps({**content, "later": None}))
    assert seals.UNPROVEN in refused(own)
    path.write_text(json.dumps(content))
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace / "another machine"))
    assert seals.UNPROVEN in refused(own)
    path.write_text(json.dumps({**content, "kind": "pickle"}))
    local_seals.seal(own, record, Link("", "", "", is_own=True))
    assert json.loads(path.read_text())["seal"] == content["seal"], "no run saves a pickle"
    path.write_text(json.dumps(content))
    local_seals.seal(own, record, Link("", "", "", is_own=True))
    assert saved.load_model(own).card.content["later"] == {"key": [1, None]}


def test_a_refusal_names_the_option_of_the_interface_in_use(own: Path, workspace: Path, lab_here: Command) -> None:
    (workspace / "own_part.py").write_text("SIZE = 4\n")
    assert refused(own).endswith("name it: trusted=['own_net.Net']")
    registered = lab_here("models", "register", own.name[-8:], "--name", "net", "--alias", "best")
    assert registered.returncode == 0, registered.stderr
    assert "not trusted automatically: its code" in registered.stdout
    assert "trusted=['own_net.Net'] in Python, --trusted own_net.Net for lab models predict" in registered.stdout
    assert "LABRUN_TRUSTED=own_net.Net mlflow models serve" in registered.stdout
    np.save(workspace / "x.npy", np.zeros((2, 1, 8, 8)))
    told = lab_here("models", "predict", "net", "x.npy")
    assert told.returncode == 2 and told.stderr.endswith("name it: --trusted own_net.Net\n")
    done = lab_here("models", "predict", "net", "x.npy", "--trusted", "own_net.Net")
    assert done.returncode == 0 and "warning: model net/1: its code has changed since it was trained" in done.stderr
    folder = workspace / "outputs" / ".labrun" / "models" / "net" / "1" / "data" / "model"
    with pytest.raises(UntrustedError, match="name it: LABRUN_TRUSTED=own_net.Net"):
        saved._load_pyfunc(str(folder))
    (workspace / "own_part.py").write_text("SIZE = 3\n")
    assert saved._load_pyfunc(str(folder)), "served from the workspace that it was trained in"
    assert "trusted automatically, because you trained it here" in lab_here("models", "show", "net").stdout


OWN_ESTIMATOR = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

class Steps:
    pass

class Most(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.most_, self.steps_ = int(self.classes_[counts.argmax()]), Steps()
        return self
    def predict(self, x):
        return np.full(len(x), self.most_)
"""


def test_a_users_estimator_and_its_parts_must_be_trusted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, run_here: Runner
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace / "state"))
    monkeypatch.syspath_prepend(str(workspace))
    (workspace / "own_most.py").write_text(OWN_ESTIMATOR)
    try:
        run_dir = run_here("~model", "+model={_target_: own_most.Most}", "dataset.max_samples=100")[1]
        version, _ = models.register(workspace, run_dir, "most")
        assert models.needed(workspace, version) == ["own_most.Most", "own_most.Steps"]
        assert len(saved.load_model("most").predict_numbers(np.zeros((2, 1, 8, 8)))) == 2
        (workspace / "own_most.py").write_text(OWN_ESTIMATOR + "# changed")
        assert refused("most").endswith("name it: trusted=['own_most.Most', 'own_most.Steps']")
        with pytest.raises(UntrustedError, match=r"trusted=\[own_most\.Most,own_most\.Steps\]"):
            run_here("task=evaluate", "from=last", "trusted=[own_most.Most]")
    finally:
        sys.modules.pop("own_most", None)
