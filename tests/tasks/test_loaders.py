"""Data sets with their own loaders, and networks for any target: Lightning code runs unmodified."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.utils.class_weight import compute_class_weight

import labrun
import loader_parts
from conftest import Command, Refused, Runner
from labrun.backends.local import worker
from labrun.errors import ConfigError, DataError, RecordError, UnfitError
from labrun.registry import models
from labrun.runs import comparable, context
from labrun.runs.cards import Card, CardKind
from labrun.runs.record import COMPLETED, QUEUED
from labrun.submission import resume
from labrun.tasks import estimator, monitored, predicting
from labrun.tasks.networks import batch_sources, own_loaders

pytestmark = pytest.mark.long

LIT = ("dataset=mine", "model=lit", "trainer.max_epochs=2")
DICTS = ("dataset=dicts", "model=pixels", "trainer.max_epochs=2")
BRIEF = (*DICTS, "trainer.max_epochs=1", "trainer.limit_train_batches=1")
TORCH = ("dataset=torch", "trainer.max_epochs=2", "trainer.batch_size=16")


def told(run_dir: Path, name: str) -> list[tuple[int, float]]:
    return [(line["step"], line["value"]) for line in context.read_metrics(run_dir) if line["name"] == name]


def predictions(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "outputs" / "predictions.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def mine(workspace: Path) -> Path:
    """A project's own configs."""
    files = {
        "dataset/mine": "_target_: loader_parts.DigitsModule\nbatch_size: 32\n",
        "model/lit": "_target_: loader_parts.Lit\nwidth: 32\nlr: 0.01\n",
        "model/pixels": "_target_: loader_parts.TakesPixels\n",
        "dataset/dicts": (
            "defaults: [torch, _self_]\nname: dicts\n"
            "train: {_target_: loader_parts.Dicts, first: 0, last: 300}\n"
            "validation: {_target_: loader_parts.Dicts, first: 300, last: 400}\n"
            "test: {_target_: loader_parts.Dicts, first: 400, last: 500}\n"
        ),
    }
    for name, text in files.items():
        path = workspace / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return workspace / "conf"


@pytest.fixture
def importable(mine: Path) -> None:
    """`loader_parts` in the workspace: commands import it from there, without another `PYTHONPATH`, thus still warm."""
    shutil.copy(loader_parts.__file__, mine.parent)


@pytest.fixture
def network(mine: Path) -> None:
    """A model's config for each plain network of `loader_parts`."""
    for name in ("NextToken", "TwoInputs", "Segments", "Linear", "AutoEncoder"):
        (mine / "model" / f"{name.lower()}.yaml").write_text(f"_target_: loader_parts.{name}\n")


def torch_sets(name: str, *parts: str) -> list[str]:
    return [f"dataset.{part}._target_=loader_parts.{name}" for part in parts or ("train", "validation", "test")]


def test_a_modules_steps_run_and_their_logged_values_are_recorded(run_here: Runner, mine: Path) -> None:
    record, run_dir = run_here(*LIT, "trainer.monitor=val/acc", "trainer.log_every_n_batches=5")
    assert set(record.metrics) == {
        "train/loss", "train/loss_step", "val/loss", "val/acc",
        *(f"test/{name}/dataloader_idx_{place}" for name in ("loss", "acc") for place in (0, 1)),
    }  # fmt: skip
    assert [step for step, _ in told(run_dir, "val/acc")] == [1, 2]
    assert [step for step, _ in told(run_dir, "train/loss_step")] == [5, 10, 15, 20]
    # The second test loader is the validation split: it is scored with the weights that were the best there.
    assert record.metrics["test/acc/dataloader_idx_1"] == pytest.approx(max(v for _, v in told(run_dir, "val/acc")))
    assert record.training is not None and record.training.hyperparameters == {
        "num_classes": 10, "width": 32, "lr": 0.01
    }  # fmt: skip
    assert record.data[0].name == "DigitsModule" and record.data[0].signed_by == "config and code"


@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (2, 1), (0, 2)])
def test_metrics_equal_those_of_a_plain_trainer(run_here: Runner, mine: Path, workers: int, processes: int) -> None:
    name = "NoisyModule" if workers else "DigitsModule"
    several = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    options = [f"+trainer.options.{key}={value}" for key, value in several.items() if processes > 1]
    noisy = [f"dataset._target_=loader_parts.{name}", "~dataset.batch_size", f"+dataset.num_workers={workers}"]
    record, _ = run_here(*LIT, "callbacks=none", *options, *(noisy if workers else []))
    pl.seed_everything(42, workers=True)
    data = loader_parts.NoisyModule(num_workers=2) if workers else loader_parts.DigitsModule(batch_size=32)
    model = loader_parts.Lit(num_classes=10, width=32, lr=0.01)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", **several, deterministic=True, num_sanity_val_steps=0,
        enable_model_summary=False, **quiet,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    expected = dict(trainer.callback_metrics)
    trainer.test(model, datamodule=data, verbose=False)
    expected |= trainer.callback_metrics
    for kind in ("train/loss", *(name for name in record.metrics if name.startswith("test/"))):
        assert record.metrics[kind] == float(expected.get(f"{kind}_epoch", expected.get(kind))), kind


def test_a_training_with_loaders_can_be_extended(
    run_here: Runner, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken, _ = run_here(*DICTS, "trainer.max_epochs=4")
    half, _ = run_here(*DICTS)
    rest, rest_dir = run_here(*DICTS, "trainer.max_epochs=4", "trainer.resume=last")
    assert rest.parent == half.id and rest.signature == unbroken.signature
    assert [step for step, _ in told(rest_dir, "train_loss")] == [3, 4]
    assert rest.metrics == pytest.approx(unbroken.metrics)
    module, _ = run_here(*LIT)
    on, _ = run_here(*LIT, "trainer.max_epochs=3", "trainer.resume=last")
    assert on.parent == module.id and "the data module's state: {'seen': array([0, 1, 2])" in capsys.readouterr().out


def test_one_of_several_validation_loaders_must_be_monitored(
    run_here: Runner, mine: Path, network: None, caplog: pytest.LogCaptureFixture
) -> None:
    two = ("dataset=mine", "dataset._target_=loader_parts.TwoValidations", "model=linear")
    two = (*two, "+model.size=64", "+model.outputs=10", "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match="there are 2 validation loaders.*trainer.monitor=val_loss/dataloader_idx_0"):
        run_here(*two)
    with pytest.raises(ConfigError, match="each with its val/loss. .*trainer.monitor=val/loss/dataloader_idx_0 takes"):
        run_here(*LIT, "dataset._target_=loader_parts.TwoValidations")
    first, _ = run_here(*two, "trainer.monitor=val_loss/dataloader_idx_0")
    assert {f"{name}/dataloader_idx_1" for name in ("val_loss", "val_accuracy", "accuracy")} <= set(first.metrics)
    assert "Not in the checkpoints: the state of TwoValidations." in caplog.text
    run_here(*two[:-1], "trainer.monitor=val_loss/dataloader_idx_0", "trainer.max_epochs=2", "trainer.resume=last")
    assert "Resuming without the state of TwoValidations" in caplog.text
    assert monitored.loss_of("loader_parts.Linear", has_validation=True) == "val_loss"
    assert monitored.loss_of("loader_parts.Lit", has_validation=True) == "val/loss"


def test_a_split_without_a_generator_is_kept_and_reported(
    run_here: Runner, mine: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "dataset" / "mine.yaml").write_text("_target_: loader_parts.Careless\n")
    run_here(*LIT)
    assert caplog.text.count("Careless.setup draws from the global random generators") == 1
    run_here("task=evaluate", "from=last")
    run_here(*LIT, "trainer.max_epochs=3", "trainer.resume=last")
    tested = re.findall(r"tested on (.*)", capsys.readouterr().out)
    assert len(tested) == 3 and len(set(tested)) == 1
    caplog.clear()
    run_here(*LIT, "dataset._target_=loader_parts.DigitsModule")
    assert "random generators" not in caplog.text


def test_a_module_is_evaluated_and_predicts(
    run_here: Runner, mine: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, run_dir = run_here(*LIT)
    scored, _ = run_here("task=evaluate", "from=last")
    assert f"Lit, of run {trained.id}" in capsys.readouterr().out
    run_here("task=evaluate", f"from={trained.id}", "dataset=mine")
    (mine / "experiment").mkdir()
    (mine / "experiment" / "sized.yaml").write_text(
        "# @package _global_\ndefaults: [override /dataset: mine, override /model: lit]\ndataset: {batch_size: 16}\n"
    )
    assert "scored with" not in caplog.text
    run_here("task=evaluate", f"from={trained.id}", "experiment=sized", "++trainer.options.limit_test_batches=1")
    assert f"not those of run {trained.id}: dataset.batch_size (then 32, now 16)" in caplog.text
    assert f"run {trained.id} was scored with trainer.options.limit_test_batches=null, which is 1 now" in caplog.text
    tests = {name: value for name, value in trained.metrics.items() if name.startswith("test/")}
    assert scored.metrics == pytest.approx(tests) and scored.parent == trained.id
    _, predicted = run_here("task=predict", f"from={trained.id}")
    rows = predictions(predicted)
    assert len(rows) == 100 and set(rows[0]) == {"row", "digit", "sure"}
    hits = [int(row["digit"]) == int(y) for row, (_, y) in zip(rows, _test_part(), strict=True)]
    assert np.mean(hits) == pytest.approx(trained.metrics["test/acc/dataloader_idx_0"])
    saved = labrun.load_model(run_dir)
    x = torch.stack([x for x, _ in _test_part()])
    for batch in ((x,), [x, torch.zeros(len(x))], [x.numpy()]):
        assert saved.predict(batch)["digit"].tolist() == [int(row["digit"]) for row in rows]
    assert labrun.load_model("run:last").card == saved.card
    with pytest.raises(UnfitError, match="takes the batches of a data module.*digits"):
        run_here("task=evaluate", f"from={trained.id}", "dataset=digits")


def test_outputs_of_predict_step_become_a_row_per_sample(run_here: Runner, mine: Path) -> None:
    trained, _ = run_here(*LIT, "model._target_=loader_parts.Names", "trainer.max_epochs=1")
    _, predicted = run_here("task=predict", f"from={trained.id}")
    rows = predictions(predicted)
    assert len(rows) == 100 and set(rows[0]) == {"row", "prediction"} and rows[99]["row"] == "99"
    assert all(row["prediction"].startswith("digit ") for row in rows)

    card = Card({}, "model.pt", "0" * 64, CardKind.NETWORK)

    def columns(answer: object) -> dict[str, list[object]]:
        return {name: list(values) for name, values in predicting._columns(answer, card).items()}

    one, two = torch.tensor([1, 2]), torch.tensor([[0.5], [0.25]], dtype=torch.bfloat16)
    assert columns([torch.ones(1), torch.ones(2)]) == {"prediction": [[1.0], [1.0, 1.0]]}
    assert columns([{"box": one}, {"box": one, "name": "x"}]) == {"box": [[1, 2], [1, 2]], "name": [None, "x"]}
    assert columns({"a": {"b": one}, "c": two}) == {"a_b": [1, 2], "c": [0.5, 0.25]}
    assert columns(torch.tensor([0.1, 0.2], dtype=torch.float64)) == {"prediction": [0.1, 0.2]}
    for answer, why in ((None, "None for a batch"), ({"where": Path()}, "a PosixPath for where")):
        with pytest.raises(UnfitError, match=why):
            columns(answer)


def _test_part() -> list[tuple[torch.Tensor, int]]:
    module = loader_parts.DigitsModule()
    module.setup()
    return list(module.parts[2])


def test_a_plain_network_learns_from_batches_that_are_dicts(run_here: Runner, mine: Path) -> None:
    record, _ = run_here(*DICTS, "trainer.max_epochs=8", "+model.lr=0.05", "predictions=parquet")
    assert {"train_loss", "val_loss", "val_accuracy", "test_loss", "accuracy"} <= set(record.metrics)
    assert record.metrics["accuracy"] > 0.6
    scored, _ = run_here("task=evaluate", "from=last")
    assert scored.metrics["accuracy"] == record.metrics["accuracy"]
    _, predicted = run_here("task=predict", f"from={record.id}", "predictions=parquet")
    import pandas as pd

    table = pd.read_parquet(predicted / "outputs" / "predictions.parquet")
    true = loader_parts.Dicts(400, 500).targets.numpy()
    assert (table["prediction"].astype(int).to_numpy() == true).mean() == pytest.approx(record.metrics["accuracy"])
    assert table.filter(like="probability_").sum(axis=1).to_numpy() == pytest.approx(np.ones(100))


def test_arguments_of_a_network_are_not_taken_for_its_loss_and_target(run_here: Runner, mine: Path) -> None:
    own = ("model._target_=loader_parts.OwnNames", "+model.loss=focal", "+model.target=input")
    record, _ = run_here(*BRIEF, *own)
    assert {"train_loss", "accuracy"} <= set(record.metrics)


def test_a_users_collate_function_and_sampler_are_used(run_here: Runner, mine: Path) -> None:
    record, _ = run_here(
        *DICTS,
        "dataset.collate_fn=loader_parts.pairs",
        "dataset.sampler={_target_:torch.utils.data.RandomSampler,replacement:true,num_samples:64}",
        "dataset.num_workers=1",
    )
    assert record.status == COMPLETED and record.metrics["accuracy"] is not None


def test_next_tokens_are_learned_without_ignored_positions(run_here: Runner, network: None) -> None:
    record, run_dir = run_here(
        *TORCH, *torch_sets("Text"), "model=nexttoken", "+model.lr=0.1", "trainer.max_epochs=10",
        "+model.metrics.perplexity={_target_:torchmetrics.text.Perplexity,ignore_index:-100}",
    )  # fmt: skip
    assert record.metrics["perplexity"] == pytest.approx(np.exp(record.metrics["test_loss"]), rel=1e-4)
    assert record.metrics["perplexity"] < 1.5
    card = json.loads((run_dir / "outputs" / "model.json").read_text())
    assert card["learns"] == "classes" and card["feed"] == "loaders"


def test_a_quantity_is_learned_from_several_streamed_inputs(run_here: Runner, network: None) -> None:
    record, _ = run_here(*TORCH, *torch_sets("Stream"), "model=twoinputs", "+model.lr=0.1", "trainer.max_epochs=15")
    assert {"val_rmse", "rmse", "mae", "r2", "test_loss"} <= set(record.metrics)
    assert record.metrics["r2"] > 0.9 and record.metrics["rmse"] ** 2 == pytest.approx(record.metrics["test_loss"])


def test_masks_and_several_labels_are_learned_with_any_loss(run_here: Runner, network: None) -> None:
    masks, _ = run_here(
        *TORCH, *torch_sets("Masks"), "model=segments", "+model.lr=0.5", "trainer.max_epochs=10",
        "+model.metrics.iou={_target_:torchmetrics.classification.MulticlassJaccardIndex}",
    )  # fmt: skip
    assert masks.metrics["iou"] > 0.6
    labels, _ = run_here(*TORCH, *torch_sets("Labels"), "model=linear", "+model.lr=0.5", "trainer.max_epochs=15")
    assert labels.metrics["accuracy"] > 0.8 and labels.metrics["f1"] > 0.7
    floats = (*TORCH, *torch_sets("FloatLabels"), "model=linear", "+model.lr=0.5", "trainer.max_epochs=15")
    with pytest.raises(UnfitError, match="may be labels or numbers: set model.loss._target_=torch.nn.BCEWithLogits"):
        run_here(*floats)
    said, _ = run_here(*floats, "+model.loss._target_=torch.nn.BCEWithLogitsLoss")
    assert said.metrics["accuracy"] > 0.8 and said.metrics["test_loss"] == pytest.approx(labels.metrics["test_loss"])
    chosen, _ = run_here(
        *TORCH, *torch_sets("Labels"), "model=linear", "+model.loss._target_=torch.nn.MultiLabelSoftMarginLoss"
    )
    assert chosen.metrics["test_loss"] != labels.metrics["test_loss"]


def test_an_autoencoder_learns_its_input(run_here: Runner, network: None) -> None:
    record, run_dir = run_here("model=autoencoder", "+model.target=input", "trainer.max_epochs=2")
    assert {"rmse", "mae", "test_loss"} <= set(record.metrics) and "accuracy" not in record.metrics
    assert not (run_dir / "outputs" / "confusion_matrix.json").exists()


def test_networks_predict_quantities_of_tables_and_images(run_here: Runner, workspace: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))
    lines = [",".join(map(str, [*row, row.sum()])) for row in x.round(4)]
    Path("t.csv").write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    table, run_dir = run_here(
        "dataset=csv", "dataset.path=t.csv", "dataset.regression=true", "dataset.validation_size=50",
        "model=mnist_dnn", "trainer.max_epochs=20", "trainer.batch_size=16",
    )  # fmt: skip
    assert table.metrics["r2"] > 0.9 and "val_r2" in table.metrics
    saved = labrun.load_model(run_dir)
    assert saved.predict(x[:5]) == pytest.approx(x[:5].sum(axis=1), abs=0.6)
    images = np.random.default_rng(0).integers(0, 255, (200, 6, 6)).astype(np.uint8)
    np.savez("i.npz", X=images, y=images.mean(axis=(1, 2)) / 255)
    of_images = (
        "dataset=npz",
        "dataset.path=i.npz",
        "dataset.regression=true",
        "model=mnist_dnn",
        "trainer.max_epochs=2",
    )
    scaled, _ = run_here(*of_images, "dataset.scale=255")
    assert scaled.metrics["rmse"] < 1
    unscaled, _ = run_here(*of_images)  # too large a step for values up to 255
    assert np.isnan(unscaled.metrics["rmse"]) and unscaled.training is not None
    assert unscaled.training.not_finite is not None


def test_predictions_for_a_file_need_no_target_and_keep_identifying_columns(run_here: Runner, workspace: Path) -> None:
    x = np.random.default_rng(0).normal(size=(120, 2))
    lines = [f"p{place},{a:.3f},{b:.3f},{'yes' if a > b else 'no'}" for place, (a, b) in enumerate(x)]
    Path("t.csv").write_text("patient_id,a,b,ill\n" + "\n".join(lines) + "\n")
    Path("new.csv").write_text("patient_id,a,b\nx1,2,-2\nx2,-2,2\n")
    run_here("dataset=csv", "dataset.path=t.csv", "dataset.target=ill", "dataset.ignore=[patient_id]")
    record, run_dir = run_here("task=predict", "from=last", "dataset=csv", "dataset.path=new.csv")
    rows = predictions(run_dir)
    assert [(row["patient_id"], row["prediction"]) for row in rows] == [("x1", "yes"), ("x2", "no")]
    assert float(rows[0]["probability_yes"]) > 0.5 and record.data[0].digest


def test_predictions_are_next_to_the_targets_of_the_data_set(run_here: Runner, workspace: Path) -> None:
    trained, _ = run_here()
    _, run_dir = run_here("task=predict", "from=last")
    rows = predictions(run_dir)
    test = [row["prediction"] == row["target"] for row in rows if row["part"] == "test"]
    assert len(rows) == 1797 and np.mean(test) == pytest.approx(trained.metrics["accuracy"])


def test_the_signature_covers_the_settings_of_a_data_module(run_here: Runner, mine: Path) -> None:
    plain, _ = run_here(*BRIEF)
    more, _ = run_here(*BRIEF, "dataset.num_workers=1")
    other, _ = run_here(*BRIEF, "dataset.train.last=299")
    assert plain.data[0].digest == more.data[0].digest != other.data[0].digest
    Path("data").mkdir()
    Path("data/offset.bin").write_bytes(b"ab")
    mounted = ("+dataset.train.path='${mount:offset.bin}'", "datastore.root=data")
    first, _ = run_here(*BRIEF, *mounted)
    Path("data/offset.bin").write_bytes(b"abc")
    second, _ = run_here(*BRIEF, *mounted)
    assert first.data[0].signed_by == "files" and first.data[0].digest != second.data[0].digest
    printed, _ = run_here(*BRIEF, "dataset.train._target_=loader_parts.Printed")
    assert printed.data[0].signed_by == "fingerprint()"
    tested, _ = run_here(*BRIEF, "dataset.train._target_=loader_parts.Printed", "dataset.test.last=450")
    with pytest.raises(ConfigError, match=r"dataset.train: Printed.fingerprint\(\) fails in .*: ZeroDivisionError"):
        run_here(*BRIEF, "dataset.train._target_=loader_parts.Printed", "dataset.train.last=0")
    assert tested.data[0].digest != printed.data[0].digest, "the test split has no fingerprint"
    with pytest.raises(ConfigError, match="the data have changed since that run read them"):
        Path("data/offset.bin").write_bytes(b"abcd")
        run_here(*BRIEF, *mounted, "trainer.max_epochs=3", f"trainer.resume={second.id}")


def test_debugging_limits_the_batches_of_loaders(run_here: Runner, mine: Path) -> None:
    fast, _ = run_here("dataset=mine", "model=lit", "debug=fast")
    assert fast.config["trainer"]["limit_train_batches"] == 1 and "max_samples" not in fast.config["dataset"]
    overfitted, _ = run_here("dataset=dicts", "model=pixels", "debug=overfit", "trainer.max_epochs=60", "+model.lr=0.1")
    assert overfitted.metrics["train_loss"] < 0.5 and not any(name.startswith("val_") for name in overfitted.metrics)


def test_a_resumed_sweep_reuses_completed_runs_with_the_same_loaders(
    run_here: Runner, mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, run_dir = run_here(*BRIEF, *torch_sets("Drawn"))
    new = dataclasses.replace(done, id="new", status=QUEUED, data=[], attempts=[])
    old = [resume.PreviousRun(run_dir, done)]
    dataset = {**done.config["dataset"], "train": {**done.config["dataset"]["train"], "last": 200}}
    own = {**done.config["dataset"], "version": 2, "num_workers": 3}
    others = dataset, {**own, "version": None}, {**own, "num_workers": done.config["dataset"]["num_workers"]}
    absent, dying = (
        {**done.config["dataset"], "train": {"_target_": f"loader_parts.{name}"}} for name in ("Absent", "Dies")
    )
    records = [dataclasses.replace(new, config={**done.config, "dataset": one}) for one in (*others, absent, dying)]
    assert resume.match([*records, new], old) == [None] * 5 + old
    assert "dataset=dicts cannot be read now: exit code 3" in caplog.text, "and the others are read"
    assert "dataset.train._target_='loader_parts.Absent' cannot be imported" in caplog.text


def test_scores_are_comparable_unless_loaders_select_other_data(run_here: Runner, mine: Path) -> None:
    one, _ = run_here(*BRIEF)
    other, _ = run_here(*BRIEF, "dataset.batch_size=50", "dataset.num_workers=1")
    assert comparable.mixture([one, other], "accuracy") is None
    fewer, _ = run_here(*BRIEF, "dataset.test.last=450")
    assert "was not the same in all of them" in str(comparable.mixture([one, fewer], "accuracy"))
    assert len({own_loaders.of_config({"_target_": "mine.Data", "seed": seed}) for seed in (1, 2)}) == 2, "of its split"


def test_class_weights_change_the_loss_of_networks(run_here: Runner, mine: Path) -> None:
    few = ("model=mnist_dnn", "trainer.max_epochs=1", "dataset.max_samples=300")
    plain, _ = run_here(*few)
    even, _ = run_here(*few, "+model.class_weight=balanced")
    told_so, _ = run_here(*BRIEF, "+model.class_weight=balanced")
    uneven, _ = run_here(*few, "+model.class_weight=[1,1,1,1,1,1,1,1,1,9]")
    assert len({one.metrics["train_loss"] for one in (plain, even, uneven)}) == 3
    assert told_so.status == COMPLETED
    given = labrun.load_model(f"run:{told_so.id}").card.class_weights
    y = loader_parts.Dicts(0, 300).targets
    assert given == pytest.approx(compute_class_weight("balanced", classes=np.arange(10), y=np.asarray(y)), rel=1e-6)
    scored, _ = run_here("task=evaluate", f"from={told_so.id}", "dataset=dicts", "dataset.train.last=200")
    assert scored.metrics["test_loss"] == pytest.approx(told_so.metrics["test_loss"])
    (mine / "dataset" / "unknown.yaml").write_text(
        "defaults: [torch, _self_]\nname: unknown\npredict: {_target_: loader_parts.Dicts, first: 400, last: 500}\n"
    )
    _, predicted = run_here("task=predict", f"from={told_so.id}", "dataset=unknown")
    assert len(predictions(predicted)) == 100
    with pytest.raises(ConfigError, match="has 2 weights, but there are 10 classes"):
        run_here("model=mnist_dnn", "+model.class_weight=[1,2]")
    with pytest.raises(UnfitError, match="there are 10 weights, but the network has 12 classes"):
        run_here(*DICTS, "+model.class_weight=balanced", "+model.num_classes=12")


def test_a_training_without_a_batch_is_refused(run_here: Runner, mine: Path, caplog: pytest.LogCaptureFixture) -> None:
    for train in ("{_target_: loader_parts.Noisy, count: 9}", "{_target_: loader_parts.NoisyStream, count: 0}"):
        with pytest.raises(DataError, match="the training split has no batch"):
            run_here(*TORCH, "model=lit", "+model.num_classes=10", f"dataset.train={train}", "dataset.drop_last=true")
    untested = "dataset.test={_target_: loader_parts.Noisy, count: 0}"
    run_here(*TORCH, "model=lit", "+model.num_classes=10", "dataset.train._target_=loader_parts.Noisy", untested)
    assert "Nothing scores the test split: it has no batch" in caplog.text


def test_conflicting_settings_are_reported_before_training(
    run_here: Runner, refused_here: Refused, mine: Path, network: None
) -> None:
    assert "dataset.train is missing: set dataset.train._target_=" in refused_here("dataset=torch", "model=pixels")
    said = refused_here(*DICTS, "dataset.validation={}")
    assert "_target_, first, last would stay. Use dataset.validation=null" in said
    assert "there is no module 'nowhere'" in refused_here(
        "dataset=torch", "dataset.train._target_=nowhere.Dicts", "model=pixels"
    )
    assert "'+model.target=input'" in refused_here("model=autoencoder", "model.target=input")
    assert "model.target=labels: expected data, or input" in refused_here("model=mnist_dnn", "+model.target=labels")
    assert "model.class_weight=equal: expected balanced" in refused_here("model=mnist_dnn", "+model.class_weight=equal")
    assert "which only torch modules accept" in refused_here("dataset=mine", "model=logistic_regression")
    assert "model.loss: only networks have that" in refused_here("+model.loss._target_=torch.nn.MSELoss")
    assert "task=predict needs the run whose model is to predict" in refused_here("task=predict")
    for overrides, error, why in (
        ((*LIT, "+model.loss._target_=torch.nn.MSELoss"), ConfigError, "model.loss: Lit is a LightningModule"),
        ((*TORCH, *torch_sets("Text"), "model=pixels"), ConfigError, "needs num_classes, and Text of .* has no"),
        ((*TORCH, *torch_sets("Stream"), "model=linear"), UnfitError, "returns .* for a target of|shapes cannot|takes"),
    ):
        with pytest.raises((error, TypeError, RuntimeError), match=why):
            run_here(*overrides)


def test_a_sweep_prepares_the_data_once_and_its_runs_are_evaluated(
    labrun: Command, importable: None, tmp_path: Path
) -> None:
    """In the pool, where each run is a separate process."""
    notes = tmp_path / "notes"
    plain = ("trainer.monitor=val/acc", "trainer.max_epochs=1", "tracking=none", "report=none")
    done = labrun("-m", *LIT[:2], "model.width=8,16", *plain, **{loader_parts.NOTES: str(notes)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert notes.read_text() == "prepared\n"
    found = [json.loads(path.read_text()) for path in Path("multirun").glob("*/*/*/run.json")]
    assert [one["status"] for one in found] == ["completed"] * 2


@pytest.mark.parametrize(
    ("targets", "needed"),
    [
        (["loader_parts.DigitsModule", "loader_parts.TakesPixels"], False),
        (["loader_parts.DigitsModule", "sklearn.naive_bayes.GaussianNB"], True),
    ],
)
def test_a_pool_for_networks_does_not_import_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, targets: list[str], needed: bool
) -> None:
    warmed: list[bool] = []
    monkeypatch.setattr(estimator, "warm", lambda: warmed.append(True))
    worker.preload(targets)
    assert warmed == [True] * needed


def test_data_of_every_run_of_a_sweep_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(loader_parts.NOTES, str(tmp_path / "notes"))
    (tmp_path / ".launch").mkdir()
    for number, size in enumerate((32, 32, 64)):
        batches = batch_sources.ModuleBatches(loader_parts.DigitsModule(size), "mine")
        batches.prepared(tmp_path / str(number), {"batch_size": size})
    assert (tmp_path / "notes").read_text() == "prepared\n" * 2
    monkeypatch.setenv(context.RUN_DIR_VARIABLE, str(tmp_path / "0"))
    monkeypatch.setenv(context.ATTEMPT_VARIABLE, "2")
    for _ in range(2):  # both processes of an attempt, before which the disk may have been cleared
        batch_sources.ModuleBatches(loader_parts.DigitsModule(32), "mine").prepared(tmp_path / "0", {"batch_size": 32})
    assert (tmp_path / "notes").read_text() == "prepared\n" * 3


def test_two_processes_train_each_run_of_a_sweep(labrun: Command, mine: Path, importable: None) -> None:
    """Over 15 s: four processes that train, and one whose partner fails."""
    (mine / "model" / "broken.yaml").write_text("_target_: loader_parts.BreaksElsewhere\n")
    two = (
        "compute.tasks_per_node=2", "compute.cpus_per_run=1", "tracking=none", "report=none", "callbacks=none",
        "trainer.max_epochs=1",
    )  # fmt: skip
    odd = ("dataset.test.first=401", "dataset.validation.last=399")
    done = labrun("-m", *DICTS[:2], "seed=1,2", *two, *odd)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(path.read_text()) for path in Path("multirun").glob("*/*/*/run.json")]
    assert [one["status"] for one in found] == ["completed"] * 2
    assert all("accuracy" in one["metrics"] for one in found)
    assert len(list(Path("multirun").glob("*/*/*/driver.1.log"))) == 2
    for said in (path.read_text() for path in Path("multirun").glob("*/*/*/driver.log")):
        assert all(
            f"2 processes share the {part} part, and 1 of its samples" in said for part in ("validation", "test")
        )
    broken = labrun("dataset=dicts", "model=broken", *two)
    assert broken.returncode == 1 and "process 1: ValueError: the second one is broken" in broken.stderr


def test_lightning_starts_its_own_processes_only_by_fork(run_here: Runner, refused_here: Refused, mine: Path) -> None:
    said = refused_here(*DICTS, "+trainer.options.strategy=ddp_spawn")
    assert "Use ddp_fork; or leave it out" in said
    two = ("+trainer.options.strategy=ddp_fork", "+trainer.options.devices=2", "callbacks=none")
    record, run_dir = run_here(*DICTS, *two)
    assert record.training is not None and record.training.epochs == 2
    assert record.metrics == {line["name"]: line["value"] for line in context.read_metrics(run_dir)}
    assert {"train_loss", "val_accuracy", "test_loss", "accuracy"} <= set(record.metrics)


def test_unknown_arguments_of_a_data_sets_part_are_refused(run_here: Runner, refused_here: Refused, mine: Path) -> None:
    dicts = (mine / "dataset" / "dicts.yaml").read_text()
    (mine / "dataset" / "shared.yaml").write_text(
        dicts.replace("last: 300", "last: '${dataset.vars.count}'") + "vars: {count: 200}\n"
    )
    shared, _ = run_here("dataset=shared", "model=pixels", "trainer.max_epochs=1", "dataset.vars.count=150")
    assert shared.config["dataset"]["train"]["last"] == 150
    said = refused_here(*DICTS, "+dataset.train.frist=3", "+dataset.test.size=1")
    assert (
        "dataset.train.frist: Dicts takes no such argument. Did you mean 'first'? It takes: first, last, path" in said
    )
    assert "dataset.test.size: Dicts takes no such argument" in said
    (mine / "dataset" / "keyed.yaml").write_text(f"{dicts}count: 200\n")
    said = refused_here("dataset=keyed", "model=pixels")
    assert "dataset.count: no such key" in said and "below dataset.vars, and refer to them as ${dataset" in said


def test_a_part_that_is_never_validated_is_reported(
    run_here: Runner, mine: Path, network: None, caplog: pytest.LogCaptureFixture
) -> None:
    stream = (*TORCH, *torch_sets("Stream"), "model=twoinputs", "trainer.max_epochs=1")
    for wish in ("+trainer.options.val_check_interval=50", "trainer.limit_train_batches=50"):
        caplog.clear()
        run_here(*stream, wish)
        assert f"never used: an epoch had 6 batches, and {wish.lstrip('+')} requires more" in caplog.text
    caplog.clear()
    run_here(*stream, "trainer.limit_train_batches=4")
    assert "never used" not in caplog.text


def test_misplaced_keys_of_lightnings_trainer_get_advice(refused_here: Refused, workspace: Path) -> None:
    (workspace / "conf" / "trainer").mkdir(parents=True)
    (workspace / "conf" / "trainer" / "theirs.yaml").write_text(
        "defaults: [default, _self_]\n_target_: lightning.pytorch.trainer.Trainer\nmin_epochs: 1\ndevices: 1\n"
        "default_root_dir: here\ncheck_val_every_n_epoch: 1\n"
    )
    said = refused_here("trainer=theirs")
    for name in ("min_epochs", "devices", "check_val_every_n_epoch"):
        assert (
            f"trainer.{name}: Lightning's Trainer takes it, through trainer.options: '+trainer.options.{name}" in said
        )
    assert "leave _target_ out" in said and "run's folder: leave it out" in said


def test_a_registered_model_predicts(run_here: Runner, workspace: Path) -> None:
    trained, run_dir = run_here()
    models.register(workspace, run_dir, "digits")
    models.alias(workspace, "digits/1", "best")
    run_here("model.regularization=3")
    for name in ("digits", "digits/1", "digits@best", "models:/digits@best"):
        record, _ = run_here("task=evaluate", f"from='{name}'")
        assert record.parent == trained.id and record.metrics == pytest.approx(
            {name: trained.metrics[name] for name in record.metrics}
        )
    with pytest.raises(RecordError, match="has no alias 'worst'"):
        run_here("task=predict", "from=digits@worst")
