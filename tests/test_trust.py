"""What a card or a record may have built: classes of models, resolved before anything is called."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from conftest import Runner
from labrun import building, trust
from labrun.errors import ConfigError, DataError, LabrunError
from labrun.runs import cards
from labrun.runs import record as records
from labrun.tasks import loading, saved

CALLED: list[Any] = []


def call(*arguments: Any, **named: Any) -> None:
    """What nobody is to call."""
    CALLED.append((arguments, named))


class Own(torch.nn.Module):
    """A network of a person's own."""

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
    "os.system", "sklearn.datasets._base.os.system", "sklearn.datasets._base.shutil.rmtree", "torch.load",
    "torch.nn.modules.module.torch.load", "torch.hub.load", "sklearn.utils._testing.subprocess.Popen",
    "torch.nn.functional.torch.ops.load_library", "labrun.models.pipeline.pipeline", "labrun.tasks.saved.load_model",
    "torch.nn.Module.__subclasses__", "torch.nn", "torch.nn.Linear.forward", "torch.nn.functional.relu",
    "sklearn.datasets.fetch_openml", "sklearn.utils.Bunch", "sklearn.", ".", "", "torch.nn..Linear", "builtins.eval",
    "torchvision.models.resnet.load_state_dict_from_url", "torch.nn.init.normal_", "sklearn.base.clone",
    "torch.nn.parameter.Parameter", "labrun.models.chainer_npz.load",
]  # fmt: skip


@pytest.mark.parametrize("target", HOSTILE)
def test_only_classes_of_models_are_built(target: str) -> None:
    import sklearn.datasets  # noqa: F401 - what a name may lead through is loaded
    import torchvision.models  # noqa: F401

    with pytest.raises(ConfigError, match="not labrun's own"):
        trust.build_model({"_target_": target, "command": "true", "path": "/nowhere"}, "model", [])
    with pytest.raises(ConfigError):
        trust.build_model({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": target}]}, "model", [])


@pytest.mark.parametrize("node", [
    {"inner": {"_target_": f"{HERE}.call"}},
    {"inner": {"_target_": f"{HERE}.call", "_partial_": True}},
    {"inner": [1, [{"deep": {"_target_": f"{HERE}.call"}}]]},
    {"_args_": [{"_target_": f"{HERE}.call"}]},
    {"inner": {"_target_": f"{HERE}.call"}, "_recursive_": False},
    {"inner": {"_target_": "sklearn.pipeline.Pipeline", "steps": [["a", {"_target_": f"{HERE}.call"}]]}},
    {"inner": {"_target_": 7}},
    {"inner": {"_target_": ["os", "system"]}},
])  # fmt: skip
def test_arguments_are_looked_at_at_any_depth(node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        trust.build_model({"_target_": f"{HERE}.Own", **node}, "model", [f"{HERE}.Own"])
    assert CALLED == []


def test_nothing_is_interpolated_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"${{oc.create:{{_target_: {HERE}.call}}}}"
    made = trust.build_model({"_target_": f"{HERE}.Own", "inner": text}, "model", [f"{HERE}.Own"])
    assert made.inner == text and len(CALLED) == 1


def test_models_are_built_with_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trust.build_model(
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2,
                                                        "out_features": 3}, {"_target_": "torch.nn.ReLU"}]},
        "model", [],
    )  # fmt: skip
    assert [type(part).__name__ for part in made] == ["Linear", "ReLU"]
    pipeline = trust.build_model(
        {"_target_": "sklearn.pipeline.Pipeline",
         "steps": [["scale", {"_target_": "sklearn.preprocessing.StandardScaler"}],
                   ["fit", {"_target_": "sklearn.linear_model.LogisticRegression", "C": 2.0}]]},
        "model", [],
    )  # fmt: skip
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


def test_a_frozen_config_calls_no_resolver_of_a_persons_own() -> None:
    OmegaConf.register_new_resolver("labrun_test_eval", call, replace=True)
    try:
        for text in ("${labrun_test_eval:1}", "a ${ labrun_test_eval:1}", "${${oc.decode:labrun_test_eval}:1}",
                     "${oc.decode:${labrun_test_eval:1}}", "\\\\${labrun_test_eval:1}"):  # fmt: skip
            with pytest.raises(ConfigError, match="refers to something else than the environment"):
                building.looked_up({"a": [{"b": text}]})
        assert CALLED == []
        assert building.looked_up({"a": "${oc.env:HOME}", "b": "\\${labrun_test_eval:1}"})["b"].endswith(":1}")
        assert CALLED == []
    finally:
        OmegaConf.clear_resolver("labrun_test_eval")


@pytest.fixture
def ran(run_here: Runner) -> Path:
    """A run of a network, whose card anybody may change."""
    return run_here("model=mnist_dnn", "model.units=8", "trainer.max_epochs=1", "dataset.max_samples=100")[1]


def change_card(run_dir: Path, **values: Any) -> None:
    path = run_dir / "outputs" / cards.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_card_that_is_no_card_is_one_message(ran: Path, tmp_path: Path) -> None:
    card = json.loads((ran / "outputs" / cards.NAME).read_text())
    for values in (
        {"target": f"{HERE}.call"}, {"target": "sklearn.datasets._base.os.system"}, {"target": None}, {"target": [1]},
        {"arguments": {"_target_": f"{HERE}.call"}}, {"arguments": {"units": {"_target_": f"{HERE}.call"}}},
        {"arguments": [1]}, {"arguments": {"units": "${oc.create:{_target_: os.system}}"}},
        {"file": "../../../etc/passwd"}, {"file": "/etc/passwd"}, {"file": ""}, {"file": 7}, {"sha256": "0"},
        {"class_names": 3}, {"class_names": [1]}, {"input_shape": "x"}, {"input_shape": [-1]}, {"scaling": []},
        {"scaling": {"scale": "a"}}, {"kind": 7}, {"kind": "other"}, {"target": "torch.nn.Linear"},
        {"target": "sklearn.linear_model.LogisticRegression", "arguments": {}}, {"name": []},
    ):  # fmt: skip
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
    with pytest.raises(DataError, match="no plain file"):
        saved.load_model(ran)


def change_card_whole(run_dir: Path, card: dict[str, Any]) -> None:
    (run_dir / "outputs" / cards.NAME).write_text(json.dumps(card))


def test_scoring_builds_nothing_that_a_record_names(
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
        {"dataset": {**dataset, "name": "${evil:1}"}}, {"dataset": 7}, {"model": None},
        {"datastore": {**datastore, "_target_": "evil_reader.call"}},
        {"datastore": {**datastore, "root": {"_target_": "evil_reader.call"}}},
    ):  # fmt: skip
        (ran / "run.json").write_text(json.dumps({**whole, "config": {**whole["config"], **changed}}))
        with pytest.raises(LabrunError):
            run_here("task=evaluate", f"from={whole['id']}", "trainer.max_epochs=1")
        assert CALLED == [], changed
    record = records.read(ran)
    record.config = {**whole["config"], "datastore": {"_target_": "s3fs.S3FileSystem", "name": "s", "root": "b"}}
    record.imported = {"file": "x.tar", "time": records.now()}
    records.write(ran, record)
    with pytest.raises(ConfigError, match="choose the datastore yourself"):
        run_here("task=evaluate", f"from={whole['id']}", "trainer.max_epochs=1")
    (ran / "run.json").write_text(json.dumps(whole))
    assert run_here("task=evaluate", f"from={whole['id']}")[0].status == records.COMPLETED


def test_what_ones_own_configs_name_is_ones_own(ran: Path, run_here: Runner, workspace: Path) -> None:
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
        assert run_here("task=evaluate", f"from={whole['id']}")[0].status == records.COMPLETED
    finally:
        sys.path.remove(str(workspace))
        sys.modules.pop("own_reader", None)


def test_a_network_of_ones_own_names_its_parts_too(ran: Path) -> None:
    card = {**json.loads((ran / "outputs" / cards.NAME).read_text()), "target": f"{HERE}.Own"}
    file = ran / "outputs" / card["file"]
    torch.save({}, file)
    card |= {"arguments": {"inner": {"_target_": f"{HERE}.Own", "inner": {"_target_": "torch.nn.ReLU"}}}}
    assert loading.network(file, card, [f"{HERE}.Own"]).inner.inner.__class__ is torch.nn.ReLU
    with pytest.raises(ConfigError, match=HERE):
        loading.network(file, card, [])
